"""Studies whose arms have world models of several families: overrides that fit only some of the arms."""

import pytest

from diamond_bench.errors import UserError
from diamond_bench.studies.answerable import limits
from diamond_bench.studies.overrides import with_families
from diamond_bench.studies.plan import plan_study

STUDY = "world_model_families"


@pytest.mark.parametrize("key", ["family.temperature=0.5", "family.num_frames=1,2"])
def test_a_key_of_the_family_is_written_into_the_arms(key: str) -> None:
    with pytest.raises(UserError) as error:
        plan_study(STUDY, ["scale=tiny", key])
    for word in (f"{key.partition('=')[0]}: family is set by the arms of {STUDY} (tokens, transformer)", "Copy the study's YAML"):
        assert word in str(error.value)


def test_an_override_that_some_families_do_not_use_is_noted() -> None:
    plan = plan_study(STUDY, ["scale=tiny", "objective.sigma_data=0.4"])
    said = "objective.sigma_data: it has no effect with family=tokens and family=transformer, so it changes the other arms alone"
    assert said in limits(plan)
    assert not [line for line in limits(plan_study(STUDY, ["scale=tiny", "training.batch_size=4"])) if "no effect" in line]
    (noted,) = (line for line in limits(plan_study(STUDY, ["scale=tiny", "sampler.num_steps=2"])) if "no effect" in line)
    assert noted.startswith("sampler.num_steps: it has no effect with family=tokens, so")


def test_a_dose_that_arms_set_is_not_given_to_the_arm_without_damage() -> None:
    """All arms of details_matter are oracles. `undamaged` would be blurred, too, while a setting of no arm fits them all."""
    with pytest.raises(UserError, match=r"family\.blur: set by the arms of details_matter \(blur/1, blur/4\); overriding it"):
        plan_study("details_matter", ["scale=tiny", "family.blur=2"])
    (keys,) = {frozenset(arm) for arm in plan_study("details_matter", ["scale=tiny"]).study.arms.values() if "family.blur" in arm}
    assert keys == {"family.blur"}


def test_a_metric_that_some_arms_cannot_have_belongs_into_the_arms() -> None:
    with pytest.raises(
        UserError, match=r"Other arms of world_model_families may have it\. Copy the study's YAML .* set evaluation\.metrics"
    ):
        plan_study(STUDY, ["scale=tiny", "metrics=[drift,action_sensitivity]"])
    with pytest.raises(UserError, match=r"metrics: set by the arms of controllability \(oracle\); metrics= would replace them\. "):
        plan_study("controllability", ["scale=tiny", "metrics=[drift]"])


def test_advice_on_metrics_follows_the_keys_of_the_refusal() -> None:
    study = plan_study(STUDY, ["scale=tiny"]).study
    of_another, keyed = UserError("metrics: of another place"), UserError("refused", keys=("metrics",))
    assert with_families(of_another, study) is of_another
    assert str(with_families(keyed, study)).startswith(f"refused. Other arms of {STUDY} may have it.")


@pytest.mark.parametrize("metrics", ["[drift,lpipz]", "[drift,drift]"])
def test_a_wrong_list_of_metrics_is_no_matter_of_arms(metrics: str) -> None:
    with pytest.raises(UserError) as caught:
        plan_study(STUDY, ["scale=tiny", f"metrics={metrics}"])
    assert "Other arms" not in str(caught.value)


def test_a_key_of_a_family_needs_the_family() -> None:
    with pytest.raises(UserError, match=r"^family\.blur: no family is chosen, .* choose one too, such as family=oracle$"):
        plan_study("sampling_steps", ["scale=tiny", "family.blur=2"])

"""Studies whose arms have world models of several families: overrides that fit only some of the arms."""

import pytest

from diamond_bench.errors import UserError
from diamond_bench.studies.answerable import limits
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

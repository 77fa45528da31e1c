"""What had finished before a registration: in another store, in another study, with other seeds; and registrations that do not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_registration import STATED, Lab

from diamond_bench.errors import UserError
from diamond_bench.store.evaluated import finish_time
from diamond_bench.store.files import DamagedFile, read_json, sealed
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies import registration_files
from diamond_bench.studies.answerable import limits
from diamond_bench.studies.housekeeping import merge
from diamond_bench.studies.plan import as_saved
from diamond_bench.studies.registration import preview_registration
from diamond_bench.studies.registration_files import registrations, studies_of
from diamond_bench.studies.registration_files import sealed as sealed_registration

PSNR = "metric: psnr, baseline: {n: 1}, margin: 0.5"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Lab:
    """Another store; its study has the same name."""
    (tmp_path / "other").mkdir()
    return Lab(tmp_path / "other")


def test_results_merged_in_after_a_registration_had_finished_before_it(lab: Lab, other: Lab) -> None:
    other.sweep()
    lab.begin(PSNR)  # chosen with the other store's results at hand
    merged = merge(lab.store, other.store.root)
    (reason,) = merged.refused
    assert "its registration is left" in reason
    assert "holds another" in reason
    stands = lab.standing(lab.sweep(PSNR))
    assert (stands.kind, stands.confirmatory) == ("late", False)
    assert stands.sentence.startswith("Registered late, on ")
    assert "6 evaluations of the study had already finished. All results are exploratory." in stands.sentence


def test_results_merged_in_after_their_registration_are_confirmatory(lab: Lab, other: Lab) -> None:
    _, saved = lab.begin()
    _, there = other.begin()
    (there.folder / "registration.json").unlink()
    merge(other.store, lab.store.root)  # the plan is there already, the registration is not
    assert registrations(there.folder)[0].sha256 == registrations(saved.folder)[0].sha256
    other.sweep()
    assert merge(lab.store, other.store.root).refused == ()
    assert lab.standing(lab.sweep()).kind == "registered"


def test_merge_brings_the_changes_that_were_noted(lab: Lab, other: Lab) -> None:
    lab.begin()
    merge(other.store, lab.store.root)
    lab.sweep(leave_out=2)
    _, saved = lab.begin(PSNR)
    assert "Changed after 4 finished evaluations" in lab.standing(saved).sentence
    lab.sweep(PSNR)
    merge(other.store, lab.store.root)
    there = as_saved(lab.plan(PSNR), other.store.root)
    assert "Changed after 4 finished evaluations" in other.standing(there).sentence  # and not after 6


def test_a_copied_study_with_another_setting_is_not_registered_in_time(lab: Lab, other: Lab) -> None:
    lab.sweep()
    lab.file = lab.file.with_name("copy.yaml")
    assert preview_registration(as_saved(lab.plan(PSNR, "evaluation.horizon=3"), lab.store.root), lab.finished) == (
        "Not registered yet: a sweep registers this comparison before its first job. Already finished: 6 evaluations of the same trainings "
        "under other settings (6 by mine (scale tiny)). All results are exploratory."
    )
    saved = lab.sweep(PSNR, "evaluation.horizon=3")
    assert registrations(saved.folder)[0].content["finished"] == []
    assert len(registrations(saved.folder)[0].content["related"]) == 6
    stands = lab.standing(saved)
    assert (stands.kind, stands.confirmatory) == ("trainings seen", False)
    assert stands.sentence.startswith("Registered on ")
    assert (
        "before any evaluation of its own, but on trainings already seen: 6 evaluations of the same trainings under other settings had "
        "finished (6 by mine (scale tiny)). All results are exploratory."
    ) in stands.sentence
    seen = Lab(other.file.parent)
    seen.file = seen.file.with_name("copy.yaml")
    seen.begin(PSNR, "evaluation.horizon=3")  # in an empty store
    merge(seen.store, lab.store.root)
    late = seen.standing(seen.sweep(PSNR, "evaluation.horizon=3"))
    assert late.kind == "late"
    assert (
        "6 evaluations of the study had already finished, and 6 evaluations of the same trainings under other settings had finished (6 by "
        "mine (scale tiny))"
    ) in late.sentence
    fresh = lab.standing(lab.sweep(PSNR, "evaluation.horizon=3", "seeds=[7,8,9]"))
    assert (fresh.kind, fresh.confirmatory) == ("registered", True)


def test_a_pilot_study_with_other_seeds_leaves_the_study_confirmatory(lab: Lab) -> None:
    pilot = lab.sweep(STATED, "seeds=[100,101,102]")
    saved = lab.sweep(PSNR, "seeds=[11,12,13]")
    first, second = registrations(saved.folder)
    assert (second.content["amends"], len(second.content["other_seeds"])) == (first.sha256, 6)
    stands = lab.standing(saved)
    assert (stands.kind, stands.confirmatory) == ("registered", True)
    assert "before any of its 6 evaluations had finished. 6 evaluations of other seeds were known by then." in stands.sentence
    assert lab.standing(pilot).kind == "registered"  # the pilot keeps its own
    changed = lab.standing(lab.sweep(PSNR.replace("0.5", "1.0"), "seeds=[11,12,13]"))
    assert (changed.kind, changed.changes) == ("changed", ("margin 0.5 -> 1",))
    assert lab.standing(lab.sweep(PSNR, "seeds=[11,12,102]")).kind == "changed"  # one seed of the pilot
    assert len(registrations(saved.folder)) == 2


def test_seeds_that_a_registered_look_needs_are_not_registered_again(lab: Lab) -> None:
    primary = f"{STATED}, looks: [3, 5]"
    lab.sweep(primary)
    saved = lab.sweep(primary, "seeds=[3,4]")
    assert len(registrations(saved.folder)) == 1
    assert lab.standing(saved).kind == "changed"
    assert lab.standing(lab.sweep(primary, "seeds=5")).kind == "planned look"


def test_more_seeds_than_the_last_look_are_refused_and_seeds_between_looks_noted(lab: Lab) -> None:
    primary = f"{STATED}, looks: [3, 5, 10]"
    with pytest.raises(UserError, match=r"there are 12, and the last of the planned looks \(primary.looks: \[3, 5, 10\]\) is at 10 seeds"):
        lab.plan(primary, "seeds=12")
    assert limits(lab.plan(primary, "seeds=4"))[0] == (
        "there is no planned look at 4 seeds (primary.looks: [3, 5, 10]): results stay exploratory until there are 5"
    )
    assert not [limit for limit in limits(lab.plan(primary, "seeds=10")) if "look" in limit]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("evaluations"),
        lambda content: content["primary"].pop("metric"),
        lambda content: content["primary"].pop("looks"),
        lambda content: content.update(primary=5),
        lambda content: content.update(seeds=[]),
        lambda content: content.update(evaluations=[["n=1", "Pong"]]),
        lambda content: content.update(time="yesterday"),
        lambda content: content.update(amends="0" * 64),
    ],
)
def test_a_file_whose_hash_fits_but_which_is_no_registration_counts_as_none(change: Callable[[dict[str, Any]], Any], lab: Lab) -> None:
    saved = lab.sweep()
    file = saved.folder / "registration.json"
    content = read_json(file)["content"]
    change(content)
    file.write_bytes(sealed_registration(content))
    with pytest.raises(DamagedFile, match=r"registration\.json is damaged"):
        registrations(saved.folder)
    assert lab.standing(lab.sweep()).kind == "not registered"


def test_an_amendment_without_what_it_amends_counts_as_none(lab: Lab) -> None:
    lab.begin()
    saved = lab.sweep(PSNR)
    assert lab.standing(saved).kind == "registered"
    (saved.folder / "registration.json").unlink()
    stands = lab.standing(saved)
    assert stands.kind == "not registered"
    assert "registration-2.json is damaged: it does not amend the registration before it" in stands.sentence


def test_a_result_without_a_time_has_that_of_its_state_or_none(lab: Lab) -> None:
    saved = lab.sweep()
    ref: JobRef = saved.points[0].jobs["evaluation"]
    file = lab.store.folder(ref) / "result.json"
    recorded = finish_time(lab.store.root, ref)
    content = read_json(file)
    del content["recorded"]["finished"]
    file.write_text(json.dumps(sealed(content)))
    by_state = finish_time(lab.store.root, ref)
    assert recorded is not None
    assert by_state is not None
    assert abs((by_state - recorded).total_seconds()) < 60
    (lab.store.folder(ref) / "state.json").unlink()
    assert finish_time(lab.store.root, ref) is None
    stands = lab.standing(saved)
    assert (stands.kind, stands.confirmatory) == ("late", False)
    assert "1 evaluation with no record of the time may have finished" in stands.sentence


def test_studies_that_may_not_be_read_or_are_links_give_no_name(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = lab.sweep()
    seen = {point.jobs["evaluation"] for point in saved.points}
    (saved.folder.parents[1] / "linked").symlink_to(saved.folder.parent)
    assert studies_of(lab.store.root, seen) == {"mine (scale tiny)": 6}

    def barred(folder: Path) -> list[JobRef]:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(registration_files, "swept", barred)
    assert studies_of(lab.store.root, seen) == {}

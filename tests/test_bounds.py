"""What is too large, too deep or infinite is refused in one short message, before any work is done with it."""

import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from diamond_bench.compose import parse
from diamond_bench.config import RunConfig
from diamond_bench.errors import MAX_CHARACTERS, UserError
from diamond_bench.studies.bounds import seeds_of
from diamond_bench.studies.plan import find_plan, plan_study, save_plan
from diamond_bench.studies.spec import load_study, study_files
from diamond_bench.typed import build


def own_study(folder: Path, name: str = "mine", **changes: Any) -> Path:
    content = yaml.safe_load(study_files()["sampling_steps"].read_text())
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content | changes))
    return file


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("training.num_steps=" + ",".join(map(str, range(1, 12_000))), "more than 10,000 values"),
        ("training.num_steps=range(1,100000000)", "more than 10,000 values"),
        ("training.num_steps=" + ",".join(map(str, range(1, 1100))), "has 1,099 values; expected at most 1,000"),
        ("seeds=[" + ",".join(map(str, range(10_001))) + "]", "more than 10,000 values"),
        ("seeds=" + "1" * 5001, "a number of more than 100 digits"),
        ("training.num_steps=" + "[" * 3000 + "]" * 3000, "brackets more than 32 deep"),
        ("seeds=[1,1]", "1 is given twice"),
        ("training.learning_rate=inf", "training.learning_rate=inf: expected a finite number"),
        ("training.learning_rate=1e400", "training.learning_rate=inf: expected a finite number"),
        ("training.num_steps=" + "9" * 30, "must be at most 9223372036854775807"),
        ("env.frame_size=100000", "env.frame_size=100000: must be between 16 and 1024"),
        ("data.dataset=" + "x" * 100_001, "expected at most 100,000"),
        ("training.batch_size=" + "x" * 9000, "characters left out"),
        ("data.policy=a\x1bb", "control characters are not allowed"),
    ],
    ids=lambda value: value[:30],
)
def test_an_override_out_of_bounds_is_one_short_message_at_once(token: str, words: str) -> None:
    began = time.process_time()
    with pytest.raises(UserError, match=words) as refused:
        plan_study("sampling_steps", ["scale=tiny", token])
    assert len(str(refused.value)) < MAX_CHARACTERS + 100
    assert time.process_time() - began < 8


@given(
    st.sampled_from(["seeds", "games", "training.learning_rate", "sampler.num_steps", "objective", "metrics"]),
    st.lists(st.sampled_from([*"[](){},:='\"\\ ~!$0193_e.-", "inf", "nan", "null", "range(", "\ud800", "é"]), max_size=30),
)
@settings(max_examples=30, deadline=None)
def test_any_override_is_values_or_a_user_error(key: str, parts: list[str]) -> None:
    message = "a message"
    try:
        parse([f"{key}={''.join(parts)}"])
    except UserError as error:
        message = str(error)
    assert message


@pytest.mark.parametrize("name", ["..", "-x", "x" * 101, "a\u202eb", "a\nb", "a;b"])
def test_a_file_whose_name_no_study_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be a study's name"):
        load_study(str(own_study(tmp_path, name)), "tiny")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": list(range(10_001))}, "a list of 10,001"),
        ({"question": "q" * 20_000}, "20,000 characters; expected at most 10,000"),
        ({"arms": {"a" * 300: {}}}, "at most 100 characters"),
        ({"arms": {"a\x1b[2J": {}}}, "all of them printable"),
        ({"axes": {"n": {"key": "sampler.num_steps", "values": list(range(1, 1500))}}}, "has 1,499 values; expected at most 1,000"),
        (
            {
                "axes": {
                    key: {"key": f"training.{key}", "values": list(range(1, 40))} for key in ("num_steps", "batch_size", "warmup_steps")
                },
                "primary": {"metric": "drift", "baseline": {"num_steps": 1, "batch_size": 1, "warmup_steps": 1}},
            },
            "make 59,319 variants; expected at most 10,000",
        ),
    ],
    ids=["seeds", "question", "arm", "control", "values", "variants"],
)
def test_a_study_out_of_bounds_is_refused_before_it_is_expanded(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        load_study(str(own_study(tmp_path, **changes)), "paper")
    assert len(str(refused.value)) < MAX_CHARACTERS + 100


def test_a_message_keeps_its_beginning_and_end() -> None:
    text = str(UserError(f"games={'x' * 10**6}: expected a game"))
    assert text.startswith("games=xxx")
    assert text.endswith("xxx: expected a game")
    assert "998,023 characters left out" in text
    assert str(UserError("short")) == "short"


def test_infinity_is_a_value_only_where_it_is_the_neutral_one() -> None:
    assert build(RunConfig, {"sampler": {"name": "heun", "s_tmax": "inf"}}).sampler.s_tmax == float("inf")  # type: ignore[union-attr]
    for value in (float("inf"), float("nan")):
        with pytest.raises(UserError, match=rf"sampler\.s_noise={value}: expected a finite number"):
            build(RunConfig, {"sampler": {"name": "heun", "s_noise": value}})


def test_seeds_keep_their_order() -> None:
    assert seeds_of([7, 0]) == (7, 0)
    assert seeds_of(3) == (0, 1, 2)


def test_a_study_of_ones_own_swept_at_two_scales_says_which(tmp_path: Path) -> None:
    file, root = own_study(tmp_path), tmp_path / "outputs"
    for scale in ("tiny", "smoke"):
        save_plan(plan_study(str(file), [f"scale={scale}"]), root)
    for study in ("mine", str(file)):
        with pytest.raises(UserError, match="at scales smoke, tiny"):
            find_plan(root, study, [])
        assert find_plan(root, study, ["scale=smoke"]).scale == "smoke"
    with pytest.raises(UserError, match="at scales smoke, tiny: name one"):
        find_plan(root, "mine", ["scale=paper"])
    with pytest.raises(UserError, match="other overrides need the path of its YAML file"):
        find_plan(root, "mine", ["scale=tiny", "seeds=1"])
    shutil.rmtree(root / "studies" / "mine" / "smoke")
    with pytest.raises(UserError, match="mine was swept at scale tiny: name one with scale="):
        find_plan(root, "mine", ["scale=paper"])
    for unknown in ("absent", "..", "x" * 300):
        with pytest.raises(UserError, match="unknown study"):
            find_plan(root, unknown, [])


def test_a_compressed_checkpoint_is_refused_before_it_is_unpickled(tmp_path: Path) -> None:
    from diamond_bench.agent import read_checkpoint_of

    file = tmp_path / "Breakout.pt"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + b"(" * 2_000_000)
        archive.writestr("x/version", "3")
    with pytest.raises(UserError, match="a compressed archive that holds 2000003 bytes"):
        read_checkpoint_of("Breakout", file, None)

"""What `diamond-bench score` refuses at planning, which reasons it prints, and the tables of its page."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import ROOT, in_this_process
from test_score import CONFIG_OF_STARTS, SHAPE, write_manifest
from test_score import folder as folder  # a fixture

from diamond_bench.config import RunConfig
from diamond_bench.errors import UserError
from diamond_bench.metrics import all_metrics
from diamond_bench.metrics.header import Play
from diamond_bench.metrics.planning import lacking
from diamond_bench.spaces import ActionSpec
from diamond_bench.studies.score import manifest_of, plan_prepare, plan_score

GIVEN: tuple[Play, ...] = ("rollouts", "one_step", "samples", "altered")
PAGE = (ROOT / "docs/score.md").read_text()


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("metrics=[]", "not empty, such as [drift,"),
        ("metrics=null", "metrics[0]=None: expected a text"),
        ("metrics=[[drift]]", "metrics[0]=['drift']: expected a text"),
        ("metrics=[1]", "metrics[0]=1: expected a text"),
        ("metrics=[drfit]", "did you mean drift?"),
        ("metrics=[drift,drift]", "drift is given twice"),
        ("game=Freeway", "game: a score takes metrics="),
        ("seed=1", "seed: a score takes metrics="),
        ("batch_size=1", "batch_size: a score takes metrics=, evaluation.batch_size="),
    ],
)
def test_a_wrong_setting_is_one_message_and_creates_nothing(folder: Path, tmp_path: Path, token: str, message: str) -> None:
    done = in_this_process("score", str(folder), token, "output_dir=out", cwd=tmp_path, exit_code=2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("seed=1", r"^seed: score --prepare takes game=.*did you mean data\.seed, evaluation\.seed"),
        ("frame_size=32", r"did you mean env\.frame_size\?"),
        ("batch_size=1", r"did you mean probe\.batch_size, inverse_dynamics\.batch_size\?"),
        ("learning=1", r"execution alone$"),
        ("games=[Pong,Freeway]", "one game; run it once for each"),
        ("game=Pong,Freeway", "one game; run it once for each"),
    ],
)
def test_a_wrong_setting_of_the_starts_is_named_with_one_that_is_taken(tmp_path: Path, token: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_prepare(tmp_path / "starts", ["scale=tiny", token])


def test_several_metrics_are_read_as_by_a_sweep(folder: Path) -> None:
    for token in ("metrics=drift,psnr", "metrics=[drift,psnr]"):
        (found,) = {s.config.evaluation.metrics for s in plan_score([folder], [token]).jobs.values() if s.kind == "evaluate_world_model"}
        assert found == ("drift", "psnr")


def test_frames_without_rollouts_are_named(folder: Path) -> None:
    content = manifest_of(CONFIG_OF_STARTS, "tiny", "0" * 64, ActionSpec.discrete(3), {"rollouts": SHAPE, "one_step": (2, 1, 16, 16, 3)})
    (folder / "manifest.json").write_text(json.dumps(content))
    (folder / "rollouts.npy").unlink()
    np.save(folder / "one_step.npy", np.zeros((2, 1, 16, 16, 3), np.uint8))
    with pytest.raises(UserError, match=r"it has one_step but no rollouts, which every score needs: expected rollouts\.npy of shape"):
        plan_score([folder], [])


@pytest.mark.parametrize(
    "config",
    [
        CONFIG_OF_STARTS,
        replace(CONFIG_OF_STARTS, env=replace(CONFIG_OF_STARTS.env, frame_size=16)),
        replace(CONFIG_OF_STARTS, evaluation=replace(CONFIG_OF_STARTS.evaluation, horizon=2, num_fid_images=4)),
    ],
)
def test_reasons_have_no_advice_for_sweeps(tmp_path: Path, config: RunConfig) -> None:
    write_manifest(tmp_path, config)
    np.save(tmp_path / "rollouts.npy", np.zeros(SHAPE, np.uint8))
    plan = plan_score([tmp_path], [])
    assert len(plan.unmeasured) > 8
    for sentence in plan.unmeasured:
        name, reason = sentence.split(" is not measured: ")
        assert not re.search(r"leave|metrics=|; |\n| set |raise", reason), sentence
        assert len(sentence) < 200, sentence
        if not all_metrics()[name].asked:
            continue
        refusal = f"metrics: {name} cannot be measured: {reason} To leave {name} out, use metrics=[drift]"
        with pytest.raises(UserError, match=re.escape(refusal) + "$"):
            plan_score([tmp_path], [f"metrics=[drift,{name}]"])


@pytest.mark.usefixtures("unrendered")
def test_printed_commands_run_as_printed(tmp_path: Path) -> None:
    small = ("scale=tiny", "data.num_train_frames=100", "evaluation.num_one_step=2", "output_dir=my out")
    first = in_this_process("score", "--prepare", "one", "games=[synthetic/opponent]", *small, cwd=tmp_path)
    second = in_this_process("score", "--prepare", "a b", "game=synthetic/opponent", *small, cwd=tmp_path)
    assert "in place of" not in first.stderr + second.stderr, "starts have no results that another folder's could replace"
    assert "Wrote starts of synthetic/opponent: rollouts, samples" in second.stderr
    assert second.stderr.endswith("diamond-bench score 'a b' 'output_dir=my out'\n")
    shown = json.loads(in_this_process("status", "output_dir=my out", "--json", cwd=tmp_path).stdout)
    assert "diamond-bench score --prepare 'a b' game=synthetic/opponent" in json.dumps(shown)


def test_the_default_game_is_named(tmp_path: Path) -> None:
    plan, config = plan_prepare(tmp_path / "starts", ["scale=tiny"])
    assert plan.points[0].game == config.game == "Breakout"
    assert "Breakout" in in_this_process("score", "--help", cwd=tmp_path).stdout
    assert "Without `game=` it is Breakout" in PAGE


def test_a_folder_may_be_a_link(folder: Path) -> None:
    (link := folder.parent / "link").symlink_to(folder)
    assert plan_score([link], ["metrics=[drift]"]).points


# The page


def named(text: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", text))


def test_the_page_names_the_metrics_of_each_kind_of_frames() -> None:
    rows = re.findall(r"^\| (?:and )?`(\w+)` \| (.+) \| (.+) \|$", PAGE.partition("### Metrics")[2], re.MULTILINE)
    assert [kind for kind, _, _ in rows] == list(GIVEN)
    metrics = {name: metric for name, metric in all_metrics().items() if name != "code_usage"}
    before: set[str] = set()
    for kind, alone, more in rows:
        able = {name for name, metric in metrics.items() if not lacking(metric, {"rollouts", kind})}
        assert named(alone) == able - before, kind
        assert named(more) == {name for name, metric in metrics.items() if kind in metric.spares}, kind
        before = before or able
    (always,) = re.findall(r"\*\*Always\*\*: (.*)", PAGE)
    assert named(always) == {name for name, metric in metrics.items() if not metric.asked}
    (never,) = re.findall(r"\*\*Never\*\*: (.*)", PAGE)
    assert named(never) == {name for name, metric in metrics.items() if lacking(metric, GIVEN)}
    assert {name for name in named(PAGE) if name in all_metrics()} == set(all_metrics())


def test_the_page_names_the_keys_of_prepare(tmp_path: Path) -> None:
    (sentence,) = re.findall(r"^The command takes (.*?)\. ", PAGE, re.MULTILINE | re.DOTALL)
    with pytest.raises(UserError) as error:
        plan_prepare(tmp_path / "starts", ["cluster=local"])
    taken = str(error.value).partition("takes ")[2].removesuffix(" alone")
    keys = [f"{word}.*" if word.isidentifier() else word for word in re.findall(r"\w+=?", taken.replace("keys of", "").replace("and", ""))]
    assert re.findall(r"`(\S+)`", sentence) == keys

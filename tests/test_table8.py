"""Table 8: studies stand under a heading of their own, with reference rows and intervals, and no number of theirs is bold."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from command_line import in_this_process

from diamond_bench.results.table import mixtures
from diamond_bench.studies.plan import plan_study
from paper_figures import table8
from paper_figures.parts import Inputs, StudyResults
from paper_figures.tables import Table, to_csv, to_latex, to_markdown


def study(clips: float = 401.0, seeds: int = 1) -> StudyResults:
    """Two arms on two games; the floor is measured once per game."""
    rows: list[dict[str, Any]] = []
    for game in ("vizdoom/my_way_home", "highway/highway-v0"):
        for arm, fvd in (("frame stack", 80.0), ("cross attention", 120.0)):
            for seed in range(seeds):
                values = {"fvd": fvd + seed, "fvd_low": 61.5, "fvd_high": 99.5, "kvd": -0.001, "lpips": 0.1, "parameters": 4e6}
                sizes = {"clips": clips, "clip_frames": 16.0, "frames_per_second": 12.0}
                rows += [row(arm, game, seed, name, value) for name, value in {**values, **sizes}.items()]
        rows += [row("true-frames", game, None, "fvd", 30.25), row("shuffled-time", game, None, "kvd", 0.5)]
    plan = SimpleNamespace(study="table8", scale="small", protocol="world_model", note="", command="diamond-bench sweep table8")
    recorded = SimpleNamespace(recorded={"device": "cpu", "device_name": "a CPU"})
    return StudyResults(plan, pd.DataFrame(rows), {"job": recorded}, ())  # type: ignore[arg-type]


def row(variant: str, game: str, seed: int | None, metric: str, value: float) -> dict[str, Any]:
    origin = {
        "protocol": "world_model",
        "job": "job",
        "kind": "evaluate_world_model",
        "revision": 2,
        "compiled": "none",
        "precision": "fp32",
    }
    return {"variant": variant, "game": game, "seed": seed, "metric": metric, "value": value, **origin}


class NoSpecs:
    def spec(self, ref: object) -> object:
        return SimpleNamespace(config=SimpleNamespace(evaluation=SimpleNamespace(batch_size=16, num_trajectories=401)))


def table_of(*studies: StudyResults) -> Table:
    table = table8.make(Inputs(NoSpecs(), studies)).table  # type: ignore[arg-type]
    assert table is not None
    return table


def test_other_data_stand_under_their_own_heading_and_nothing_is_bold() -> None:
    table = table_of(study())
    assert table.headings == {0: "The paper's data", 10: "Other data than the paper's"}
    assert not any(cell.bold for row in table.rows for cell in row)
    markdown, tex = to_markdown(table), to_latex(table)
    first, second = markdown.split("Other data than the paper's")
    assert "CS:GO" in first
    assert "table8" not in first
    assert "as printed" not in second
    assert "vizdoom" in second
    assert "\\multicolumn{9}{l}{\\textit{Other data than the paper's}}" in tex
    assert len(to_csv(table).decode().splitlines()) == 1 + len(table.rows)
    assert table_of().headings == {}
    assert "KVD ↓" in [head.text for head in table.heads]
    assert not {"KID ↓", "KVD ↓"} & {head.text for head in table_of().heads}


def test_rows_have_their_intervals_and_games_their_references() -> None:
    table = table_of(study())
    found = pd.DataFrame([[cell.text for cell in row] for row in table.rows], columns=[head.name for head in table.heads])
    of_game = found[found["data"] == "highway/highway-v0"].set_index("method")
    assert of_game.loc["table8: frame stack", ["fvd", "kvd", "lpips", "parameters_million"]].tolist() == [
        "80.0 [61.5, 99.5]",
        "−0.001",
        "0.100",
        "4.00",
    ]
    assert of_game.loc["table8: floor: other true frames or clips", "fvd"] == "30.2"
    assert of_game.loc["table8: reference: true clips, time shuffled", "kvd"] == "0.500"
    several = [cell.text for row in table_of(study(seeds=2)).rows for cell in row]
    assert "80.5" in several
    assert not any("[" in text for text in several)


@pytest.mark.parametrize(("clips", "biased"), [(401.0, True), (1024.0, False)])
def test_few_clips_are_marked_as_biased(clips: float, biased: bool) -> None:
    notes = " ".join(table_of(study(clips)).notes)
    assert "whose tokenizer is trained with LPIPS (VGG), as in IRIS, have an advantage in this column" in notes
    assert f"{clips:g} clips of 16 frames a side, frames resized to 224 × 224 (bilinear)" in notes
    assert ("fewer than 1024 clips is biased upwards" in notes) == biased
    assert any(f"FVD of {clips:g} clips is biased upwards (fewer than 1024)" in note for note in mixtures(study(clips).table)) == biased


@pytest.mark.parametrize(
    ("scale", "distances", "clips"), [("smoke", ("kid", "kvd"), 32), ("small", ("fid", "fvd"), 401), ("paper", ("fid", "fvd"), 1024)]
)
def test_the_study_measures_as_the_paper_does(scale: str, distances: tuple[str, ...], clips: int) -> None:
    """Six past frames, 16 imagined ones, 20 denoising steps, as many clips as there are references."""
    plan = plan_study("table8", [f"scale={scale}", "games=[synthetic/turn]", "seeds=1"])
    arms = ["frame stack", "cross attention", "tokens of 16 pixels", "tokens of 8 pixels"]
    assert [point.arm for point in plan.points] == (arms[:2] if scale == "smoke" else arms)
    for point, frames in zip(plan.points[:2], ("stack", "cross_attention"), strict=True):
        evaluation, training = (plan.jobs[point.jobs[role]].config for role in ("evaluation", "world_model"))
        assert (training.conditioning.frames, training.conditioning.num_frames) == (frames, 6)
        assert (evaluation.sampler.num_steps, evaluation.evaluation.horizon, evaluation.evaluation.clip_frames) == (20, 16, 16)
        assert evaluation.evaluation.metrics[-2:] == distances
        assert evaluation.evaluation.num_trajectories == clips
        assert {"true_clips", "true_features"} <= point.jobs.keys()


@pytest.mark.slow
def test_a_synthetic_game_plays_the_study_at_scale_tiny(tmp_path: Path, forked_workers: None) -> None:
    """From nothing to the table and figures of the paper."""
    words = ("games=[synthetic/turn]", "data=random", "data.num_train_frames=60", "metrics=[drift]", "env.frame_size=16")
    done = in_this_process("sweep", "table8", "scale=tiny", *words, cwd=tmp_path)
    assert "5/5 jobs done" in done.stderr
    in_this_process("paper", "table8", "figure10", "figure12", "--results", "table8", cwd=tmp_path)
    markdown = (tmp_path / "paper" / "table8.md").read_text()
    assert "table8: cross attention | synthetic/turn" in markdown.split("Other data than the paper's")[1]
    figures = {file.name for file in (tmp_path / "paper").glob("figure1*.png")}
    assert len(figures) == 3  # trajectories, and the fixed actions of two arms

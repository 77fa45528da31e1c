"""Artifacts about token models next to diffusion: figure 5, section 5.3's claim as numbers, and the rows of table 8."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_paper_results import build, index

from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobSpec
from diamond_bench.studies.plan import plan_study, save_plan

STUDY = """
question: Which?
protocol: world_model
note: Nothing rests on this.
games: [Breakout]
seeds: 3
primary: {metric: drift}
set: {data: random}
arms:
  diffusion: {}
  tokens: {family: tokens_small}
  transformer: {family: transformer_small}
"""
FRAMES, SIDE = 12, 8
GREY = {"tokens": 100, "diffusion": 200}
"""The grey level of the first frame that each arm imagines. Each later one is a level brighter."""


def numbers(arm: str, seed: int) -> list[tuple[str, float, str]]:
    """The ball is three pixels worse in tokens."""
    error = {"diffusion": 1.0, "tokens": 4.0, "transformer": 2.0}[arm] + seed
    rows = [
        ("state_position_error_ball", error, ""),
        ("state_presence_error_ball", error / 10, ""),
        ("state_position_error", error / 2, ""),
    ]
    rows += [("lpips", error / 100, ""), ("parameters", 1e6, ""), ("state_position_error_ball", 0.25, "state-probe")]
    if arm == "tokens":
        rows += [("state_position_error_ball", 3.0, "tokenizer-reconstruction"), ("lpips", 0.02, "tokenizer-reconstruction")]
    return rows


def finish(store: Store, spec: JobSpec, arm: str, seed: int) -> None:
    store.prepare(spec)
    claim = store.claim(spec.ref)
    assert claim is not None
    rows = numbers(arm, seed) if spec.kind == "evaluate_world_model" else []
    if rows:
        (claim.folder / "media").mkdir()
        true = np.arange(FRAMES, dtype=np.uint8)[None, :, None, None, None].repeat(SIDE, 2).repeat(SIDE, 3).repeat(3, 4)
        np.savez(claim.folder / "media" / "frames.npz", true=true, imagined=true + np.uint8(GREY.get(arm, 0) + seed))
    plain = [{"metric": m, "value": v, "measured": False, "baseline": b} for m, v, b in rows]
    claim.finish({"rows": plain, "info": {}, "recorded": {"revision": 1, "device": "cpu", "device_name": "a CPU"}})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "mine.yaml").write_text(STUDY)
    plan = plan_study(str(folder / "mine.yaml"), ["scale=tiny", f"output_dir={folder / 'outputs'}"])
    store = Store(folder / "outputs", say=lambda text: None)
    for point in plan.points:
        for ref in point.jobs.values():
            if store.state(ref).status != "done":
                finish(store, plan.jobs[ref], point.arm, point.seed)
    save_plan(plan, store.root)
    build(folder / "paper", "figure5", "section5_3", "table8", results=["mine"], store=store.root)
    return folder / "paper"


def test_consecutive_frames_stand_next_to_published_scores(built: Path) -> None:
    entry = index(built)["figure5"]
    assert entry["lacks"] == []
    assert "figure5-mine-tiny-Breakout.png" in entry["files"]
    scores = pd.read_csv(built / "figure5.csv").set_index("Game")
    assert scores.index.tolist()[:3] == ["Asterix", "Breakout", "RoadRunner"]
    assert scores.loc["Breakout", ["IRIS", "DIAMOND"]].tolist() == [83.7, 132.5]
    (source,) = (source for source in entry["sources"] if source["kind"] == "study")
    assert len(source["jobs"]) == 2, "one seed of each family, and no transformer"
    assert any("Nothing rests on this." in note for note in entry["footnotes"])


def test_errors_of_objects_by_hand(built: Path) -> None:
    rows = pd.read_csv(built / "section5_3.csv").set_index(["Object", "Method"])
    errors = rows["Position error (pixels) ↓"]
    assert errors["ball", "mine: tokens"] == pytest.approx(5.0)
    assert errors["ball", "mine: diffusion"] == pytest.approx(2.0)
    assert errors["ball", "true frames after the tokenizer, tokens"] == 3.0
    assert errors["ball", "floor: the probe on true frames"] == 0.25
    assert errors["all objects", "mine: tokens"] == pytest.approx(2.5)
    lost = rows["Lost or made up ↓"]
    assert lost["ball", "mine: tokens"] == pytest.approx(0.5)
    assert rows.loc[("ball", "mine: tokens"), "Runs"] == 3
    assert not [method for _, method in rows.index if "transformer" in method]
    text = (built / "section5_3.md").read_text()
    assert r"5.00 \[2.52, 7.48\]" in text, "Student's interval of 4, 5 and 6: 5 -+ 4.303 / sqrt(3)"


def test_token_rows_of_table_8(built: Path) -> None:
    table = pd.read_csv(built / "table8.csv").set_index("method")
    assert table.loc["mine: tokens", "lpips"] == pytest.approx(0.05)
    assert table.loc["mine: true frames after the tokenizer, tokens", "lpips"] == 0.02

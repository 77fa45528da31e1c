"""What a report shows of a tokenizer: its reconstructions in the metrics of imagined frames, and the usage of its codes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_evaluation import CONFIG, HORIZON, SETTINGS, Predictor, data, evaluate, numbers
from test_worlds import TINY, TOKENS, study
from torch import Tensor

from diamond_bench.data.static import EpisodeSet
from diamond_bench.jobs.context import Interrupted
from diamond_bench.metrics.baselines import RECONSTRUCTED
from diamond_bench.models.vq_tokenizer import code_counts, code_usage
from diamond_bench.results.table import collect
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.plan import plan_study, save_plan
from diamond_bench.worlds.contract import Reconstructed

__all__ = ["data"]
FAMILY = replace(CONFIG, family=TOKENS)


class Lossy(Predictor):
    """Its tokenizer makes every frame one grey level brighter, and uses the first two of eight codes, three to one."""

    num_codes = 8

    def reconstruct(self, frames: Tensor) -> Reconstructed:
        return Reconstructed((frames + 2 / 255).clamp(max=1), torch.tensor([[0, 0, 0, 1]]).repeat(len(frames), 1))


def test_reconstructions_are_measured_like_imagined_frames(
    data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = evaluate(tmp_path / "e", Lossy(), monkeypatch, FAMILY)
    found = numbers(result)
    assert found["drift", RECONSTRUCTED] == pytest.approx(1 / 255, abs=1e-6)
    assert found["psnr", RECONSTRUCTED] == pytest.approx(20 * np.log10(255), abs=1e-3)
    assert found["ssim", RECONSTRUCTED] < 1
    assert found["code_perplexity", ""] == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)))
    assert found["codes_used", ""] == 0.25
    kept = np.load(tmp_path / "e" / "arrays.npz")["reconstructed_drift"]
    assert kept.shape == (SETTINGS.num_trajectories, HORIZON)
    plain = numbers(evaluate(tmp_path / "plain", Predictor(), monkeypatch))
    assert not {name for name in plain if name[1] == RECONSTRUCTED or name[0].startswith("code")}
    same = {name: value for name, value in found.items() if name in plain}
    assert same == plain, "the other numbers do not change"


def test_an_interrupted_evaluation_measures_the_same_reconstructions(
    data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = numbers(evaluate(tmp_path / "e", Lossy(), monkeypatch, FAMILY))
    calls = iter(range(10_000))
    with pytest.raises(Interrupted):
        evaluate(tmp_path / "parts", Lossy(), monkeypatch, FAMILY, should_stop=lambda: next(calls) >= 30)
    assert numbers(evaluate(tmp_path / "parts", Lossy(), monkeypatch, FAMILY)) == whole


def test_each_arm_has_its_own_row(tmp_path: Path) -> None:
    plan = plan_study(study(tmp_path, "a: {family: tokens_small}, b: {family: tokens_small, family.tokenizer.codes: 8}"), list(TINY))
    store = Store(tmp_path / "outputs", say=lambda text: None)
    for number, point in enumerate(plan.points):
        spec = plan.jobs[point.jobs["evaluation"]]
        store.prepare(spec)
        claim = store.claim(spec.ref)
        assert claim is not None
        rows = [
            ("drift", 0.2, ""),
            ("drift", 0.1 + number, RECONSTRUCTED),
            ("lpips", 9.0, RECONSTRUCTED),
            ("drift", 0.5, "copy-last-frame"),
        ]
        plain = [{"metric": m, "value": v, "measured": False, "baseline": b} for m, v, b in rows]
        claim.finish({"rows": plain, "info": {}, "recorded": {"revision": 1}})
    table = collect(save_plan(plan, store.root), store)
    assert table.loc[table["metric"] == "lpips", "value"].tolist() == [9.0, 9.0]
    shown = table[table["seed"].isna() & (table["metric"] == "drift")].set_index("variant")["value"].to_dict()
    assert shown == pytest.approx({"copy-last-frame": 0.5, f"{RECONSTRUCTED}, a": 0.6, f"{RECONSTRUCTED}, b": 2.6})


def test_usage_of_codes_by_hand() -> None:
    tokens = torch.tensor([[0, 3, 3, 3], [0, 0, 1, 3]])
    counts = code_counts(tokens, 5)
    assert counts.tolist() == [[1, 0, 0, 3, 0], [2, 1, 0, 1, 0]]
    usage = code_usage(counts.sum(0))
    shares = np.array([3, 1, 4]) / 8
    assert float(usage["code_perplexity"]) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert float(usage["codes_used"]) == pytest.approx(3 / 5)

"""The metric `state` in a study: what is planned for it, and from the command line to tables, figures and arrays."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import in_this_process

from diamond_bench.config import EvaluationConfig
from diamond_bench.data.references import reference_windows
from diamond_bench.data.static import load_info, load_split
from diamond_bench.errors import UserError
from diamond_bench.metrics.columns import METRIC_INFO
from diamond_bench.metrics.state_meter import STATE_PROBE, make_state_meter, state_rows
from diamond_bench.studies.plan import plan_study


def baselines(root: Path, num: int, horizon: int) -> dict[str, np.ndarray]:
    """The errors (num, horizon) that the only probe of a store makes on the true frames of the references, and on copies of the last frame
    before them; each is told from the other."""
    dataset, probe = (next((root / "outputs" / kind).iterdir()) for kind in ("collect_dataset", "train_state_probe"))
    layout = load_info(dataset).content["heldout"]
    context, starts = layout["reference_context"], layout["reference_starts"]
    references = reference_windows(load_split(dataset, "heldout"), num, context, horizon, EvaluationConfig().seed, starts=starts)
    meter, frames = make_state_meter(probe, dataset, references), references.frames()
    true = meter.errors(frames[:, context:], range(num), horizon)
    copy = meter.errors(frames[:, context - 1 : context].expand(-1, horizon, -1, -1, -1), range(num), horizon)
    apart = np.abs(true["state_position_error_paddle"] - copy["state_position_error_paddle"])
    assert (apart > 1).mean() > 0.5, "a probe that sees no paddle tells nothing apart"
    return {f"true_{name}": values for name, values in true.items()} | {f"copy_{name}": values for name, values in copy.items()}


def test_one_probe_a_dataset_and_no_other_evaluation_changes() -> None:
    plan = plan_study("sampling_steps", ["scale=tiny", "seeds=2", "metrics=[drift,state]", "execution.precision=fp32,bf16"])
    probes = [job for job in plan.jobs.values() if job.kind == "train_state_probe"]
    evaluations = [job for job in plan.jobs.values() if job.kind == "evaluate_world_model"]
    assert len(probes) == 1
    assert len(evaluations) == 20
    assert all(job.inputs["state_probe"] == probes[0].ref for job in evaluations)
    order = list(plan.jobs)
    assert all(order.index(probes[0].ref) < order.index(job.ref) for job in evaluations)
    without = plan_study("sampling_steps", ["scale=tiny"])
    with pytest.raises(UserError, match=r"probe.num_steps: it has no effect with metrics that leave out state"):
        plan_study("sampling_steps", ["scale=tiny", "probe.num_steps=7"])
    assert not any("state_probe" in job.inputs for job in without.jobs.values())


def test_the_metric_from_the_command_line(tiny_store: Path, tmp_path: Path) -> None:
    for kind in ("collect_dataset", "train_world_model"):  # the sweep finds these done
        shutil.copytree(tiny_store / kind, tmp_path / "outputs" / kind)
    reads = ("probe.num_steps=40", "probe.learning_rate=0.01")  # the paddle, at least
    done = in_this_process("sweep", "sampling_steps", "scale=tiny", "metrics=[drift,state]", "sampler.num_steps=1,2", *reads, cwd=tmp_path)
    assert "5/5 jobs done" in done.stderr
    (study,) = (tmp_path / "outputs" / "studies" / "sampling_steps").iterdir()
    table = pd.read_parquet(study / "results.parquet")
    for metric in ("state_position_error", "state_presence_error", "state_presence_error_ball", "state_position_error_paddle_final"):
        of = table[table["metric"] == metric]
        assert set(of["variant"]) == {"n=1", "n=2", "copy-last-frame", "state-probe"}
    assert set(table["metric"]) <= set(METRIC_INFO)
    for metric in ("state_crps", "state_scored_share"):
        assert set(table[table["metric"] == metric]["variant"]) == {"n=1", "n=2", "copy-last-frame", "state-probe"}
    assert set(table[table["metric"] == "state_rank_deviation"]["variant"]) == {"n=1", "n=2", "uniform-ranks"}
    assert (study / "report" / "ranks-Breakout.png").stat().st_size > 10_000
    probe = table[table["metric"] == "probe_position_median"]
    assert list(probe["variant"]) == ["state-probe"]
    assert (study / "report" / "state-Breakout.png").stat().st_size > 10_000
    files = list((tmp_path / "outputs" / "evaluate_world_model").glob("*/arrays.npz"))
    assert len(files) == 2
    expected = baselines(tmp_path, num=3, horizon=8)
    for file in files:
        arrays = np.load(file)
        assert {name for name in arrays if name.startswith(("copy_state", "true_state"))} == set(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(arrays[name], values, rtol=1e-3, atol=1e-3, err_msg=name)
        assert arrays["state_presence_error_ball"].shape == arrays["drift"].shape == (3, 8)
        assert not np.isnan(arrays["state_presence_error_ball"]).any()
        starts, ranks = len(arrays["sample_episodes"]), arrays["samples_ranks"].shape
        assert arrays["samples_state_ranks"].shape == ranks
        for name in ("samples_state_crps", "copy_samples_state_crps", "true_samples_state_crps", "samples_state_scored_share"):
            assert arrays[name].shape == (starts,)
        assert np.nanmean(arrays["copy_samples_state_crps"]) > np.nanmean(arrays["true_samples_state_crps"])
    for prefix, predictor in (("copy_", "copy-last-frame"), ("true_", STATE_PROBE)):
        shown = table[table["variant"] == predictor].set_index("metric")["value"]
        for row in state_rows({name.removeprefix(prefix): values for name, values in expected.items() if name.startswith(prefix)}):
            assert shown[row.metric] == pytest.approx(row.value, abs=1e-3, nan_ok=True), (predictor, row.metric)

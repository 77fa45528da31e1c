"""The study controllability at scale smoke: the metrics of control identify a model that was trained with shifted actions.

    pytest -m slow tests/test_controllability.py

It trains three models and evaluates them. On 2026-11-30 two other seeds, 12 such jobs in all, took 141 s on two cores, with priority over
other programs. The test also collects the data and trains the inverse-dynamics network. Both were timed only under other load.
No setting was chosen on its seed, which is that of a run in docs/findings.md.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import in_this_process

SEED = 31


def lags(table: pd.DataFrame, arm: str) -> tuple[float, float]:
    """The lags of an arm or baseline by `action_lag` and by `action_accuracy_lag`. NaN if the metric names none, or does not apply."""
    value = table[table["variant"] == arm].set_index("metric")["value"]
    return value.get("action_lag", float("nan")), value["action_accuracy_lag"]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_model_trained_with_shifted_actions_is_identified_at_scale_smoke(tmp_path: Path, forked_workers: None) -> None:
    done = in_this_process("sweep", "controllability", "scale=smoke", f"seeds=[{SEED}]", f"data.seed={SEED}", cwd=tmp_path)
    assert "9/9 jobs done" in done.stderr
    table = pd.read_parquet(tmp_path / "outputs" / "studies" / "controllability" / "smoke" / "results.parquet")
    assert lags(table, "normal") == (0, 0)
    assert lags(table, "shifted") == (1, 1)
    assert np.isnan(lags(table, "none")).all()
    assert lags(table, "oracle")[1] == lags(table, "emulator")[1] == 0
    assert np.isnan(lags(table, "copy-last-frame")[1])
    value = table.set_index(["variant", "metric"])["value"]
    assert abs(value["none", "action_accuracy"] - value["copy-last-frame", "action_accuracy"]) < 0.15

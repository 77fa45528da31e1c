"""The study controllability at scale smoke: the metrics of control identify a model that was trained with shifted actions.

    pytest -m slow tests/test_controllability.py

It takes about 10 minutes on two free cores. The seed is the first of the confirming run in docs/findings.md.
"""

from pathlib import Path

import pandas as pd
import pytest
from command_line import in_this_process


def identified(table: pd.DataFrame) -> dict[str, tuple[float, bool]]:
    """For each learned model, its `action_lag`, and whether `action_accuracy` finds it one step late (rules of docs/evaluation.md)."""
    value = table.set_index(["variant", "metric"])["value"]
    late = {arm: value[arm, "action_accuracy_lag_1"] - value[arm, "action_accuracy"] for arm in ("normal", "none", "shifted")}
    return {arm: (value[arm, "action_lag"], bool(by > 0.25)) for arm, by in late.items()}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_model_trained_with_shifted_actions_is_identified_at_scale_smoke(tmp_path: Path, forked_workers: None) -> None:
    done = in_this_process("sweep", "controllability", "scale=smoke", "seeds=[21]", "data.seed=21", cwd=tmp_path)
    assert "9/9 jobs done" in done.stderr
    table = pd.read_parquet(tmp_path / "outputs" / "studies" / "controllability" / "smoke" / "results.parquet")
    found = identified(table)
    assert found["normal"] == (0, False)
    assert found["shifted"] == (1, True)
    assert pd.isna(found["none"][0])
    assert not found["none"][1]
    value = table.set_index(["variant", "metric"])["value"]
    floor, ceiling = (value[baseline, "action_accuracy"] for baseline in ("copy-last-frame", "emulator"))
    assert abs(value["none", "action_accuracy"] - floor) < 0.15
    assert ceiling - value["normal", "action_accuracy"] < 0.15

"""The study controllability, its planted fault, and the figures of the metrics of control."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from analysis.control_figures import confusion_figure, sensitivity_figure
from analysis.looks import crossed_styles
from diamond_bench.config import TrainingConfig
from diamond_bench.data.segments import Segments
from diamond_bench.errors import UserError
from diamond_bench.jobs.gradients import Gradients
from diamond_bench.studies.plan import plan_study


@pytest.mark.parametrize(("shift", "expected"), [(0, [[5, 6, 7, 8]]), (1, [[6, 7, 8, 5]])])
def test_a_shifted_training_learns_the_action_of_the_next_step(shift: int, expected: list[list[int]]) -> None:
    """The last action of a segment leads out of it, so that no loss uses it."""
    seen: list[Segments] = []

    def loss(segments: Segments, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        seen.append(segments)
        return torch.zeros(()), {}

    config = SimpleNamespace(training=replace(TrainingConfig(), action_shift=shift))
    job: Any = SimpleNamespace(
        config=config,
        trainables=[SimpleNamespace(loss=loss)],
        learners=[None],
        feeds=[None],
        execution=SimpleNamespace(records_updates=True),
        _noise=None,
        _parts=1,
    )
    frames, mask = torch.zeros(1, 4, 3, 2, 2, dtype=torch.uint8), torch.ones(1, 4, dtype=torch.bool)
    Gradients.loss_of(cast(Gradients, job), 0)(frames, torch.tensor([[5, 6, 7, 8]]), mask)
    assert seen[0].actions.tolist() == expected


def test_the_fault_is_part_of_a_training_and_of_no_other_job() -> None:
    plan = plan_study("controllability", ["scale=tiny"])
    jobs = {point.variant: point.jobs for point in plan.points}
    assert list(jobs) == ["normal", "none", "shifted", "oracle"]
    assert len({of["world_model"].id for of in jobs.values() if "world_model" in of}) == 3
    assert len({of["dataset"].id for of in jobs.values()}) == len({of["inverse_dynamics"].id for of in jobs.values()}) == 1


def test_agents_have_no_such_fault() -> None:
    with pytest.raises(UserError, match=r"training\.action_shift"):
        plan_study("sampling_steps_agent", ["scale=tiny", "training.action_shift=1"])


def test_the_figure_of_sensitivities_has_a_panel_for_each_lag() -> None:
    looks = crossed_styles({name: (name, None) for name in ("a", "b")})
    figure = sensitivity_figure([0.1, 1.0], {"a": [[2.0, 3.0], [1.0, 1.0]], "b": [[1.0, 1.5]]}, looks)
    drawn = figure.numbers()
    assert drawn[drawn["series"] == "a"]["value"].tolist() == [2.0, 3.0, 1.0, 1.0]
    assert drawn[drawn["series"] == "b"]["panel"].tolist() == ["action of lag 0"] * 2
    with pytest.raises(ValueError, match=r"expected ratios \(lags, 2\)"):
        sensitivity_figure([0.1, 1.0], {"a": [[2.0]]}, looks)


def test_the_figure_of_confusions_shows_shares_of_each_imposed_action() -> None:
    drawn = confusion_figure({"a": [[3, 1], [0, 0]]}, ["UP", "DOWN"]).numbers()
    shares = dict(zip(drawn["series"], drawn["value"], strict=True))
    assert (shares["UP read as UP"], shares["UP read as DOWN"]) == (0.75, 0.25)
    assert np.isnan([shares["DOWN read as UP"], shares["DOWN read as DOWN"]]).all(), "DOWN was never imposed"
    with pytest.raises(ValueError, match=r"expected counts \(2, 2\)"):
        confusion_figure({"a": [[1]]}, ["UP", "DOWN"])

"""Control: how much worse a model's estimate of the clean frame becomes if one of the actions that it receives is replaced."""

import math
from typing import TYPE_CHECKING

from diamond_bench.config import RunConfig, world_family
from diamond_bench.config.worlds import DIAMOND
from diamond_bench.diffusion.schedules import trained_sigma_range
from diamond_bench.errors import UserError
from diamond_bench.metrics.header import ESTIMATE_LEVELS, ESTIMATED_WINDOWS, Column, Figure, without
from diamond_bench.metrics.metric import Metric
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from diamond_bench.metrics.play import Arrays, Batch, Measured, Meter, Setting

MAX_LAGS = 16
_CERTAIN = 3.0
"""Standard errors by which the error must rise with the replaced action, so that a lag is named."""


def _measure(batch: "Batch") -> "Arrays":
    """Mean squared errors (n, 1 + L, levels) of the estimates of the clean frame, in units of frames in [0, 1]."""
    from diamond_bench.metrics.play import unit

    if batch.kind != "estimates":
        return {}
    true = unit(batch.play.true[:, :1, None])
    errors = ((batch.frames + 1) / 2 - true).double().square().flatten(3).mean(dim=3)
    return {"errors": errors.cpu().numpy()}


def _open(setting: "Setting") -> "Meter":
    from diamond_bench.metrics.play import Meter

    return Meter(_measure)


def _reduce(measured: "Measured") -> dict[str, list[Row]]:
    import numpy as np

    errors = measured.estimates["errors"]
    means = errors.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(means[1:] == means[:1], 1.0, means[1:] / means[:1])  # (L, levels)
        rises = ((errors[:, 1:] - errors[:, :1]) / errors.mean(axis=(0, 1))).mean(axis=2)  # (windows, L)
        certainty = rises.mean(axis=0) / (rises.std(axis=0, ddof=1) / math.sqrt(len(rises)))
    of_lag = ratios.mean(axis=1)
    peak = int(of_lag.argmax())
    named = float(peak) if certainty[peak] > _CERTAIN else math.nan
    rows = [Row("action_sensitivity", float(of_lag[peak])), Row("action_lag", named)]
    for lag, values in enumerate(ratios):
        rows.append(Row(f"action_sensitivity_{lag}", float(of_lag[lag])))
        rows += [Row(_at(lag, sigma), float(value)) for sigma, value in zip(ESTIMATE_LEVELS, values, strict=True)]
    return {"after": rows}


def _at(lag: int, sigma: float) -> str:
    return f"action_sensitivity_{lag}_at_{sigma:g}"


def _check(config: RunConfig) -> None:
    family, leave_out = world_family(config.family), f"leave it out with {without(config.evaluation.metrics, 'action_sensitivity')}"
    if not family.estimates:
        name = config.family.name if config.family is not None else DIAMOND
        raise UserError(f"metrics: action_sensitivity needs a model that denoises frames, and family={name} has none; {leave_out}")
    lags = family.context(config.family or config)
    if lags > MAX_LAGS:
        raise UserError(f"conditioning.num_frames={lags}: action_sensitivity replaces at most {MAX_LAGS} actions; lower it, or {leave_out}")
    low, high = trained_sigma_range(config.objective)
    if low > ESTIMATE_LEVELS[0] or high < ESTIMATE_LEVELS[-1]:
        levels = f"{ESTIMATE_LEVELS[0]:g} to {ESTIMATE_LEVELS[-1]:g}"
        raise UserError(f"objective: trained at noise levels {low:g} to {high:g}, and action_sensitivity needs {levels}; {leave_out}")


_SIZES = ("num_one_step",)
_WHAT = (
    f"MSE of the estimate of the clean frame with one action replaced by another one, divided by the MSE with the true actions, with the "
    f"same noise, from true past frames in at most {ESTIMATED_WINDOWS} one-step windows"
)


def _columns() -> dict[str, Column]:
    lags = range(MAX_LAGS)
    return {
        "action_sensitivity": Column(
            "action sensitivity",
            definition=f"the largest `action_sensitivity_<lag>`: {_WHAT}. 1 for a model that ignores actions. It grows with the quality of "
            "the model, so it ranks nothing",
            low=0.0,
            headline=True,
            sizes=_SIZES,
        ),
        "action_lag": Column(
            "lag of the action that matters",
            unit="steps",
            definition="the lag at which the sensitivity is largest. Lag 0 is the action that leads to the frame. No number if the error "
            f"does not rise there by {_CERTAIN:g} standard errors over windows",
            low=0.0,
            headline=True,
            sizes=_SIZES,
        ),
        **{
            f"action_sensitivity_{lag}": Column(
                f"action sensitivity, lag {lag}",
                definition="of the action of this lag, mean over noise levels",
                listed_as="action_sensitivity_<lag>",
                low=0.0,
                detail=True,
                sizes=_SIZES,
            )
            for lag in lags
        },
        **{
            _at(lag, sigma): Column(
                f"action sensitivity, lag {lag}, sigma {sigma:g}",
                definition=f"of the action of this lag at one noise level: {', '.join(f'{level:g}' for level in ESTIMATE_LEVELS)}",
                listed_as="action_sensitivity_<lag>_at_<sigma>",
                low=0.0,
                detail=True,
                sizes=_SIZES,
            )
            for lag in lags
            for sigma in ESTIMATE_LEVELS
        },
    }


METRIC = Metric(
    "action_sensitivity",
    _columns(),
    _open,
    _reduce,
    play=("estimates",),
    check=_check,
    figures=(Figure("sensitivity", "Sensitivity to actions", "sensitivity", "estimates_errors", "action_sensitivity"),),
)

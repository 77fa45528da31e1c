"""Control: how much worse a model's estimate of the clean frame becomes if one of the actions that it receives is replaced."""

import math
from typing import TYPE_CHECKING, Any

from diamond_bench.config import RunConfig, world_family
from diamond_bench.config.worlds import DIAMOND
from diamond_bench.diffusion.schedules import trained_sigma_range
from diamond_bench.errors import UserError
from diamond_bench.metrics.header import ESTIMATE_LEVELS, ESTIMATED_WINDOWS, LAG_LEVEL, Column, Figure
from diamond_bench.metrics.metric import Metric
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from diamond_bench.metrics.play import Arrays, Batch, Measured, Meter, Setting

MAX_LAGS = 16


def _measure(batch: "Batch") -> "Arrays":
    """Mean squared errors (n, 1 + L, levels) of the estimates of the clean frame, in units of frames in [0, 1], and whether the action of
    each lag equals the one that leads to the frame, (n, L). Continuous actions are seldom equal, so all of them count as equal."""
    from diamond_bench.metrics.play import unit

    if batch.kind != "estimates":
        return {}
    true = unit(batch.play.true[:, :1, None])
    errors = ((batch.frames + 1) / 2 - true).double().square().flatten(3).mean(dim=3)
    lags, last = errors.shape[1] - 1, batch.play.context
    actions = batch.play.actions[:, last - lags : last].flip(1)  # lag 0 first
    same = (actions == actions[:, :1]).reshape(*actions.shape[:2], -1).all(dim=2) | actions.is_floating_point()
    return {"errors": errors.cpu().numpy(), "same": same.cpu().numpy()}


def _open(setting: "Setting") -> "Meter":
    from diamond_bench.metrics.play import Meter

    return Meter(_measure)


def _reduce(measured: "Measured") -> dict[str, list[Row]]:
    import numpy as np

    errors, same, episodes, blocks = (measured.estimates[name] for name in ("errors", "same", "episodes", "blocks"))
    ratios = lag_ratios(errors, same)
    of_lag = ratios.mean(axis=1)
    peak = int(np.nanargmax(of_lag))
    chosen = same[:, peak]
    with np.errstate(divide="ignore", invalid="ignore"):
        rises = ((errors[chosen] - errors[chosen, :1]) / errors[chosen].mean(axis=(0, 1))).mean(axis=2)  # (windows, 1 + L)
    p, clusters = lag_p(rises, peak, episodes[chosen], blocks[chosen])
    rows = [Row("action_sensitivity", float(of_lag[peak])), Row("action_lag", float(peak) if p < LAG_LEVEL else math.nan)]
    rows += [Row("action_lag_p", p), Row("action_lag_clusters", clusters)]
    for lag, values in enumerate(ratios):
        rows.append(Row(f"action_sensitivity_{lag}", float(of_lag[lag])))
        rows += [Row(_at(lag, sigma), float(value)) for sigma, value in zip(ESTIMATE_LEVELS, values, strict=True)]
    return {"after": rows}


def lag_ratios(errors: "NDArray[Any]", same: "NDArray[Any]") -> "NDArray[Any]":
    """The error with the action of each lag replaced, over the error with the true actions, (L, levels).

    The ratio of a lag comes from the windows in which the action of this lag equals the one that leads to the frame. A model that takes the
    action of this lag in place of the right one is right there, so its ratio is as high as that of a model that takes the right one. NaN
    for a lag without such windows, infinite if the error with the true actions is 0, and 1 if the action changes nothing.

    Args:
        errors: mean squared errors (windows, 1 + L, levels): with the true actions, then with that of lag 0 to L - 1 replaced.
        same: whether the action of each lag equals that of lag 0, (windows, L).
    """
    import numpy as np

    found = np.full((errors.shape[1] - 1, errors.shape[2]), math.nan)
    for lag, chosen in enumerate(same.T):
        if chosen.any():
            true, replaced = errors[chosen][:, [0, 1 + lag]].mean(axis=0)
            with np.errstate(divide="ignore", invalid="ignore"):
                found[lag] = np.where(replaced == true, 1.0, replaced / true)
    return found


def lag_p(rises: "NDArray[Any]", peak: int, episodes: "NDArray[Any]", blocks: "NDArray[Any]") -> tuple[float, float]:
    """The p-value of the claim that the action of lag `peak` matters more than every other one, and the number of clusters behind it.

    The claim needs L comparisons: the mean rise at the peak against no rise, and against the rise at each other lag (`lags.evidence`).
    With fewer than 5 blocks both numbers are NaN.

    Args:
        rises: rise of the error if no action or that of lag 0 to L - 1 is replaced, (windows, 1 + L).
        peak: the lag with the largest rise.
        episodes, blocks: numbers of each window's episode and block, (windows,).
    """
    import numpy as np

    from diamond_bench.metrics.lags import evidence

    others = np.delete(rises, 1 + peak, axis=1).T  # (L, windows)
    found = evidence([(margin, episodes, blocks) for margin in rises[:, 1 + peak] - others], len(others))
    return found.p, found.clusters


def _at(lag: int, sigma: float) -> str:
    return f"action_sensitivity_{lag}_at_{sigma:g}"


def _check(config: RunConfig) -> None:
    family = world_family(config.family)
    if not family.estimates:
        name = config.family.name if config.family is not None else DIAMOND
        raise UserError(f"metrics: action_sensitivity needs a model that denoises frames, and family={name} has none", keys=("metrics",))
    lags = family.context(config.family or config)
    if lags > MAX_LAGS:
        raise UserError(f"conditioning.num_frames={lags}: action_sensitivity replaces at most {MAX_LAGS} actions; lower it")
    low, high = trained_sigma_range(config.objective)
    if low > ESTIMATE_LEVELS[0] or high < ESTIMATE_LEVELS[-1]:
        levels = f"{ESTIMATE_LEVELS[0]:g} to {ESTIMATE_LEVELS[-1]:g}"
        raise UserError(f"objective: trained at noise levels {low:g} to {high:g}, and action_sensitivity needs {levels}")


_SIZES = ("num_one_step",)
_WHAT = (
    f"MSE of the estimate of the clean frame with one action replaced by another one, divided by the MSE with the true actions, with the "
    f"same noise, from true past frames in at most {ESTIMATED_WINDOWS} one-step windows. Lags after 0 use the windows whose action of that "
    "lag equals that of lag 0"
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
            definition="the lag at which the sensitivity is largest. Lag 0 is the action that leads to the frame. No number unless "
            f"`action_lag_p` is below {LAG_LEVEL:g}",
            low=0.0,
            headline=True,
            sizes=_SIZES,
        ),
        "action_lag_p": Column(
            "p-value of that lag",
            definition="p-value of the claim that the error rises more with the action of that lag replaced than with another one or none. "
            "One-sided t tests with standard errors clustered by held-out episode, or by block of overlapping windows if there are fewer "
            "than 5 episodes",
            low=0.0,
            high=1.0,
            detail=True,
            sizes=_SIZES,
        ),
        "action_lag_clusters": Column(
            "clusters behind that p-value",
            definition="number of held-out episodes, or of blocks if there are fewer than 5 episodes",
            low=0.0,
            detail=True,
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

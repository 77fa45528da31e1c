"""Stability: how long imagined play under held actions lasts before its frames leave the training data, and how much it moves."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from diamond_bench.config import EvaluationConfig, RunConfig
from diamond_bench.data.leaks import SPREAD
from diamond_bench.envs.games import family_of
from diamond_bench.errors import UserError
from diamond_bench.metrics.baselines import EMULATOR
from diamond_bench.metrics.header import Column, Figure, held_frames
from diamond_bench.metrics.metric import Metric
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from diamond_bench.data.static import EpisodeSet
    from diamond_bench.metrics.play import Arrays, Batch, Measured, Meter, Setting

RUN = 10
"""Consecutive frames above the threshold that count as a collapse."""
QUANTILE = 0.999
"""The share of held-out true frames below the threshold, at least."""
FALSE_ALARMS = 0.01
"""The share of true plays, as long as the imagined ones, that may collapse."""
TRAINING_FRAMES = 4096
"""Training frames among which the nearest one is searched."""
TRUE_PLAYS = 100
"""Held-out true plays that give the threshold, at most."""
LEAST = 1 / 255
"""Smallest threshold: a frame that is nearer to a training frame than one grey level is known."""
_FRAMES_PER_SECOND = 1500.0


@dataclass(frozen=True)
class TruePlay:
    """A stretch of a held-out game."""

    episode: int
    first: int
    """Its first row in the held-out split."""
    frames: int
    whole: bool
    """Whether it is as long as asked, or its game ends with it."""


def true_plays(episodes: "EpisodeSet", context: int, frames: int) -> list[TruePlay]:
    """Held-out games after their first `context` frames, cut into stretches of `frames` frames. The last one of a game may be shorter."""
    ended, found = episodes.terminations.cpu().numpy(), []
    for number, (start, length) in enumerate(zip(episodes.starts.tolist(), episodes.lengths.tolist(), strict=True)):
        for first in range(start + context, start + length, frames):
            stop = min(first + frames, start + length)
            game_over = stop == start + length and bool(ended[stop - 2])
            found.append(TruePlay(number, first, stop - first, stop - first == frames or game_over))
    return found


def _open(setting: "Setting") -> "Meter":
    from analysis.stability import collapses, held_shares, motion_energy, nearest_distance, small_frames
    from diamond_bench.data.sources import load_rows
    from diamond_bench.data.static import load_info
    from diamond_bench.metrics.play import HELD_STREAM, Meter

    dataset, evaluation, horizon = setting.inputs["dataset"], setting.evaluation, held_frames(setting.evaluation)
    train, references = load_rows(dataset / "train"), setting.references
    plays = _calibrating(true_plays(references.episodes, references.context, horizon), horizon)
    rng = np.random.default_rng([evaluation.seed, HELD_STREAM])
    chosen = rng.choice(train.num_frames, min(TRAINING_FRAMES, train.num_frames), replace=False)
    known = small_frames(train.frames[np.sort(chosen)].to(setting.device))
    plays = [plays[i] for i in np.sort(rng.choice(len(plays), min(TRUE_PLAYS, len(plays)), replace=False))]

    true, energies = np.full((len(plays), horizon), np.nan), []
    lengths = np.array([play.frames for play in plays])
    for row, play in enumerate(plays):
        frames = references.episodes.frames[play.first - 1 : play.first + play.frames].to(setting.device)
        true[row, : play.frames] = nearest_distance(small_frames(frames[1:]), known).cpu().numpy()
        energies.append(float(motion_energy(frames[None, 1:], frames[:1]).mean()))

    half = np.array([play.episode for play in plays]) % 2
    alarms = np.full(len(plays), np.nan)  # each half with the threshold of the other, which has seen none of its games
    for own in (half == 0, half == 1):
        if own.any() and not own.all():
            alarms[own] = collapses(true[own], lengths[own], threshold_of(true[~own], lengths[~own]), RUN)[1]
    threshold = threshold_of(true, lengths)
    neutral = np.array(load_info(dataset).spec.actions.neutral).reshape(load_info(dataset).spec.actions.shape)
    actions = train.actions.numpy()
    acted = np.ones(train.num_frames, bool)
    acted[train.starts.numpy() + train.lengths.numpy() - 1] = False  # no action follows the last frame of an episode
    same = (actions == neutral).reshape(len(actions), -1).all(axis=1) & acted
    shares = held_shares(same, train.starts.numpy(), horizon) * len(acted) / acted.sum()

    def measure(batch: "Batch") -> "Arrays":
        if batch.kind != "held":
            return {}
        lengths = batch.lengths
        assert lengths is not None
        distances = np.stack([nearest_distance(small_frames(row), known).cpu().numpy() for row in batch.frames])
        lasted, collapsed = collapses(distances, lengths, threshold, RUN)
        moved = motion_energy(batch.frames, batch.play.frames[:, batch.play.context - 1]).cpu().numpy()
        moved[np.arange(horizon) >= lengths[:, None]] = np.nan
        return {"lasted": lasted, "collapsed": collapsed, "motion": moved.astype(np.float32)}

    constants = {
        "threshold": np.array([threshold]),
        "false_alarms": alarms,
        "train_shares": shares,
        "true_motion_held_out": np.array([np.mean(energies)]),
    }
    return Meter(measure, constants=constants)


def _calibrating(plays: list[TruePlay], horizon: int) -> list[TruePlay]:
    """The true plays that are as long as the imagined ones, or end with their game. Raises UserError if there is none."""
    whole = [play for play in plays if play.whole]
    if not whole:
        longest = max((play.frames for play in plays), default=0)
        shorter = f"set evaluation.hold_frames={longest} or less, or " if longest >= RUN else ""
        raise UserError(
            f"metrics: idle_decay calibrates collapse on held-out true play of {horizon} frames (evaluation.hold_frames), but the longest "
            f"held-out game has {longest} after its context; {shorter}use data with longer games"
        )
    return whole


def threshold_of(distances: "NDArray[np.float64]", lengths: "NDArray[np.int64]") -> float:
    """The distance above which a frame is unknown, from those of n true plays (n, T) of these lengths, NaN after their ends."""
    from analysis.stability import alarm_levels

    levels = np.sort(alarm_levels(distances, lengths, RUN))
    return max(LEAST, float(np.nanquantile(distances, QUANTILE)), float(levels[-1 - int(FALSE_ALARMS * len(levels))]))


def true_motion(arrays: "Mapping[str, NDArray[Any]]", constant: "NDArray[Any]") -> "NDArray[Any]":
    """The motion energy (n, T) with which imagined play is compared: of the game under the same actions, or else the mean of held-out
    references."""
    motion = arrays["motion"]
    return arrays["true_motion"] if "true_motion" in arrays else np.where(np.isnan(motion), np.nan, constant[0])


def _reduce(measured: "Measured") -> dict[str, list[Row]]:
    from analysis.survival import survival

    held, constants, horizon = measured.held, measured.constants, held_frames(measured.evaluation)
    rows = []
    for prefix, chosen in (("idle", held["idle"]), ("held", ~held["idle"])):
        if not chosen.any():  # a game with one action
            continue
        for source, baseline in (("", ""), ("true_", EMULATOR)):
            if f"{source}lasted" in held:
                found = survival(held[f"{source}lasted"][chosen], held[f"{source}collapsed"][chosen], horizon)
                values = {"survival": found.share[-1], "survival_low": found.low[-1], "survival_high": found.high[-1]}
                rows += [Row(f"{prefix}_{name}", float(value), baseline=baseline) for name, value in values.items()]
                rows.append(Row(f"{prefix}_lifetime", found.lifetime, baseline=baseline))
        true = float(np.nansum(true_motion(held, constants["true_motion_held_out"])[chosen], dtype=np.float64))
        own = float(np.nansum(held["motion"][chosen], dtype=np.float64))
        rows.append(Row(f"{prefix}_motion_ratio", own / true if true > 0 else math.nan))
    known = constants["false_alarms"][np.isfinite(constants["false_alarms"])]
    rows += [
        Row("idle_false_alarms", float(known.mean()) if len(known) else math.nan),
        Row("idle_train_share", float(constants["train_shares"][-1])),
        Row("idle_true_plays", float(len(constants["false_alarms"]))),
        Row("held_starts", float(held["idle"].sum())),
        Row("hold_frames", float(horizon)),
    ]
    return {"after": rows}


def _check(config: RunConfig) -> None:
    number = held_frames(config.evaluation)
    if number < RUN:
        raise UserError(
            f"metrics: for idle_decay, {RUN} unknown frames in a row are a collapse, but only {number} are imagined; set "
            f"evaluation.hold_frames={RUN} or more",
            keys=("metrics", "evaluation.hold_frames"),
        )
    data = config.data
    if data.dataset is not None:
        return
    limits: dict[str, float] = {}  # by its description, the longest true play that each limit leaves
    family = family_of(config.game)
    if (cut := family.max_steps) is not None and family.fixed_length:  # a shorter game that ended by itself counts as true play
        limits[f"an episode of {config.game} is cut after {cut} steps"] = cut + 1 - data.reference_context
    if data.windows_per_episode is not None:
        played = SPREAD * data.windows_per_episode * (data.reference_context + data.reference_horizon)
        limits[f"data.windows_per_episode={data.windows_per_episode} cuts held-out games"] = played - data.reference_context
    why, longest = min(limits.items(), key=lambda limit: limit[1], default=("", math.inf))
    if longest < number:
        mends = [f"set evaluation.hold_frames={longest} or less"] if longest >= RUN else []
        if why.startswith("data."):
            mends.append("raise data.windows_per_episode")
        raise UserError(
            f"metrics: idle_decay calibrates collapse on held-out true play of {number} frames (evaluation.hold_frames), but {why}, which "
            f"leaves {max(longest, 0)} after the context (data.reference_context={data.reference_context}); "
            f"{', or '.join(mends) or 'lower data.reference_context'}",
            keys=("metrics", "evaluation.hold_frames", "data.windows_per_episode"),
        )


def _seconds(evaluation: EvaluationConfig) -> float:
    return (TRUE_PLAYS + 4 * evaluation.num_sample_starts) * held_frames(evaluation) / _FRAMES_PER_SECOND


_SIZES = ("num_sample_starts", "num_trajectories", "hold_frames", "horizon")
_INTERVAL = "95% interval of the survival at the last frame: Kaplan-Meier with Greenwood's variance, log-log; starts count as independent"


def _columns() -> dict[str, Column]:
    found: dict[str, Column] = {}
    for prefix, action in (("idle", "the no-op"), ("held", "one other action")):
        words = f"under {action}, held from a held-out start"
        found |= {
            f"{prefix}_survival": Column(
                f"survival under {action}",
                "higher",
                "share",
                low=0.0,
                high=1.0,
                counted=("held_starts", "hold_frames"),
                definition=f"share of imagined play {words}, that has not collapsed after `hold_frames` frames (Kaplan-Meier, "
                "censored where the game itself ends; [evaluation.md](evaluation.md#stability-under-held-actions))",
                headline=prefix == "idle",
                compared=True,
                sizes=_SIZES,
            ),
            **{
                f"{prefix}_survival_{end}": Column(
                    f"survival under {action}, {words_of_end} end", low=0.0, high=1.0, definition=_INTERVAL, detail=True, sizes=_SIZES
                )
                for end, words_of_end in (("low", "lower"), ("high", "upper"))
            },
            f"{prefix}_lifetime": Column(
                f"frames before collapse under {action}",
                "higher",
                "frames",
                low=0.0,
                counted=("held_starts", "hold_frames"),
                definition=f"mean frames of imagined play before its collapse {words}: the area under the survival curve, up to "
                "`hold_frames` or the last frame at which a play was observed",
                headline=True,
                compared=True,
                sizes=_SIZES,
            ),
            f"{prefix}_motion_ratio": Column(
                f"motion under {action}, imagined / true",
                "near 1",
                low=0.0,
                definition=f"mean squared difference of consecutive frames {words}, imagined over that of the game itself until its "
                "end. If its state cannot be restored, over the mean of held-out references",
                headline=prefix == "held",
                compared=True,
                sizes=_SIZES,
            ),
        }
    return found


METRIC = Metric(
    "idle_decay",
    {
        **_columns(),
        "idle_false_alarms": Column(
            "false alarms of collapse",
            unit="share",
            low=0.0,
            high=1.0,
            definition="share of held-out true plays, as long as the imagined ones, that the rule calls collapsed. The threshold is then "
            "that of the other half of held-out games. No value if there is only one half",
            headline=True,
            counted=("idle_true_plays", "hold_frames"),
            sizes=_SIZES,
        ),
        "idle_true_plays": Column(
            "true plays for the threshold", definition="held-out true plays that give the threshold", sizes=("hold_frames", "horizon")
        ),
        "idle_train_share": Column(
            "training steps after as many no-ops",
            unit="share",
            low=0.0,
            high=1.0,
            definition="share of training steps that end a run of at least `hold_frames` no-ops",
            sizes=_SIZES,
        ),
        "held_starts": Column("starts of held play", definition="starts from which actions are held", sizes=("num_sample_starts",)),
        "hold_frames": Column(
            "frames of held play", unit="frames", definition="frames imagined under each held action", sizes=("hold_frames", "horizon")
        ),
    },
    _open,
    _reduce,
    play=("held",),
    reads=("evaluation.hold_frames",),
    seconds=_seconds,
    check=_check,
    figures=(Figure("survival", "Survival and motion under held actions", "survival", column="idle_lifetime"),),
)

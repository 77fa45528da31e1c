"""Forks: windows with two possible next frames, and samples of the next frame against the known distribution."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.modes import measure, score, share_within
from diamond_bench.data.references import Windows
from diamond_bench.envs.games import games_with, truth
from diamond_bench.errors import UserError
from diamond_bench.metrics.baselines import TRUE_DISTRIBUTION
from diamond_bench.metrics.play import Arrays, Forks, Key
from diamond_bench.store.rows import Row


def find_forks(one_step: Windows, dataset: Mapping[str, Any]) -> Forks:
    """The held-out one-step windows (on the CPU) whose true next frame has two modes, derived from their frames and action alone.

    `dataset`: the content of dataset.json. Raises UserError if the true next frames of its game are not known, or no window forks.
    """
    game = str(dataset.get("game"))
    next_frames = truth(game).next_frames
    if next_frames is None:
        known = ", ".join(games_with(lambda truth: truth.next_frames))
        raise UserError(f"metric modes: the dataset is of {game}; the true next frames are only known for {known}")
    frames, actions = one_step.frames().numpy(), one_step.actions().numpy()
    context = one_step.context
    found = [next_frames(f[:context], a[context - 1], dataset) for f, a in zip(frames, actions, strict=True)]
    forking = [i for i, (modes, _) in enumerate(found) if len(modes) == 2]
    if not forking:
        raise UserError(
            f"metric modes: {game} has two possible next frames at none of {len(found)} one-step windows; raise evaluation.num_one_step"
        )
    windows = replace(one_step, first=one_step.first[torch.tensor(forking)])
    return Forks(windows, np.stack([found[i][0] for i in forking]), np.stack([found[i][1] for i in forking]))


def measure_forks(forks: Forks, rows: Sequence[int], samples: NDArray[np.uint8], keys: Sequence[Key]) -> Arrays:
    """Measures K samples of the next frame at each of the chosen forks, and as many from the true distribution (prefix `true_`).

    Args:
        samples: (rows, K, 3, h, w).
        keys: K consecutive keys per row, the seeds of the draws from the true distribution.

    Returns the arrays of `analysis.modes.measure`, and `cramer` and `energy` (rows,), the distances to the true distribution per window.
    """
    num_samples = samples.shape[1]
    modes, chosen = forks.modes[list(rows)], forks.probabilities[list(rows)]
    draws = np.array([np.random.default_rng([*key, 1]).random() for key in keys]).reshape(len(rows), num_samples)
    true = np.take_along_axis(modes, (draws >= chosen[:, :1]).astype(np.intp)[:, :, None, None, None], axis=1)
    found: Arrays = {"modes_probabilities": chosen}
    for prefix, drawn in (("modes_", samples), ("true_modes_", true)):
        measured = measure(drawn, modes)
        scores = score(measured, chosen)
        of_window = {**measured, "cramer": scores.cramer, "energy": scores.energy}
        found |= {f"{prefix}{name}": values for name, values in of_window.items()}
    return found


def mode_rows(arrays: Mapping[str, NDArray[Any]], thresholds: Mapping[str, float]) -> list[Row]:
    """Rows of the results table from the joined arrays of `measure_forks`. A score without a value has no row.

    `thresholds`: for each column, the maximum distance to a mode at which it counts a sample, in units of the distance between the modes.
    """
    rows = [Row("mode_windows", float(len(arrays["modes_spread"])))]
    for prefix, baseline in (("modes_", ""), ("true_modes_", TRUE_DISTRIBUTION)):
        measured = {name: arrays[prefix + name] for name in ("distances", "position", "off_axis", "spread")}
        scores = score(measured, arrays["modes_probabilities"])
        values = {
            "mode_cramer_distance": float(scores.cramer.mean()),
            "mode_energy_distance": float(scores.energy.mean()),
            "mode_commitment": scores.commitment,
            "mode_minority_share": scores.true_minority_share if baseline else scores.minority_share,
            "mode_off_axis": scores.off_axis,
            **dict(zip(thresholds, share_within(measured["distances"], list(thresholds.values())).tolist(), strict=True)),
        }
        rows += [Row(name, value, baseline=baseline) for name, value in values.items() if math.isfinite(value)]
    return rows

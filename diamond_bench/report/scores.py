"""Scores of a study's runs as a comparison takes them, and the reasons for which two variants may not be compared."""

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from diamond_bench.metrics.baselines import NETWORKS
from diamond_bench.metrics.columns import METRIC_INFO, comparable
from diamond_bench.report.facts import StudyFacts
from diamond_bench.report.references import Array, PerReference, per_reference
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies.margin import COPYABLE, LARGEST_SHARE
from diamond_bench.studies.plan import Point, SavedPlan

if TYPE_CHECKING:
    import pandas as pd

_SAME = 1e-3
"""Relative difference below which two errors of copying the last frame are one."""


class Scores:
    """The finished runs of a plan, by reference where that is stored."""

    def __init__(self, plan: SavedPlan, store: Store, facts: StudyFacts) -> None:
        self._plan, self._store, self._facts = plan, store, facts
        self._points = {(p.variant, p.game, p.seed): p for p in plan.points if p.jobs["evaluation"] in facts.recorded}
        self._revisions = _revisions(plan, facts)
        self._read: dict[tuple[JobRef, str], PerReference | None] = {}
        self._finished: dict[tuple[str, str], Point] = {(p.variant, p.game): p for p in self._points.values()}

    def rows(self, metric: str, variants: Collection[str], relative: bool) -> "tuple[pd.DataFrame, bool]":
        """Rows for `analysis.comparison.compare` (variant, game, seed, reference, episode, pair, value), and whether higher is better.

        `relative`: values in units of copy-last-frame's error at the same game and horizon.
        """
        import numpy as np
        import pandas as pd

        table = self._facts.table
        shown = table[(table["metric"] == metric) & table["seed"].notna() & table["variant"].isin(list(variants))]
        shown = shown.drop_duplicates(["variant", "game", "seed"])
        taken = comparable(metric, shown["value"])
        assert taken is not None
        values, higher = taken
        parts: list[pd.DataFrame] = []
        whole = []
        for variant, game, seed, value in zip(shown["variant"], shown["game"], shown["seed"], values, strict=True):
            point = self._points.get((variant, game, int(seed)))
            found = None if point is None else self._of(point, metric)
            pair = "" if point is None else self._checkpoint(point)
            if found is None or found.episodes is None or point is None:
                scale = self._copied(variant, game, metric) if relative else 1.0
                whole.append((variant, game, seed, None, None, pair, value / scale if scale else math.nan))
                continue
            own = self._settings(variant).get("evaluation.seed", 0)
            names = [f"{point.jobs.get('dataset')} {own} {i}" for i in range(len(found.values))]
            scaled = self._shares(point, metric, found) if relative else found.values
            columns = {"reference": names, "episode": found.episodes, "value": scaled}
            parts.append(pd.DataFrame(columns).assign(variant=variant, game=game, seed=seed, pair=pair))
        order = ["variant", "game", "seed", "reference", "episode", "pair", "value"]
        kept = [pd.DataFrame(whole, columns=order), *(part[order] for part in parts)]
        rows = pd.concat([part for part in kept if len(part)], ignore_index=True) if whole or parts else kept[0]
        return rows.assign(value=rows["value"].astype(np.float64)), higher

    def excluded(self, metric: str, pairs: Mapping[str, str], relative: bool) -> dict[str, str]:
        """Variants that may not be compared to their baseline, with the reason: mixed revisions of the code, distances of different
        numbers of images, errors of copying that differ or were not stored."""
        found = {}
        for variant, base in pairs.items():
            mixed = [words for name in (variant, base) if (words := _mixture(name, self._revisions.get(name, {})))]
            reasons = [*mixed, self._numbers_of_images(metric, variant, base), *(self._scales(metric, variant, base) if relative else ())]
            if any(reasons):
                found[variant] = "; ".join(reason for reason in reasons if reason)
        return found

    def too_wide(self, metric: str, margin: float, variants: Collection[str]) -> str:
        """Why an absolute margin is refused: it exceeds half of copy-last-frame's error in some game; empty where it does not."""
        if metric not in COPYABLE or margin <= 0:
            return ""
        games = dict.fromkeys(point.game for point in self._points.values())
        for game in games:
            for error in (self._copied(variant, game, metric) for variant in variants):
                if error is not None and margin > LARGEST_SHARE * error:
                    return (
                        f"no test of equivalence: the margin {margin:g} is more than half of copy-last-frame's error in {game} "
                        f"({error:.2g}), so copying would pass as equivalent to a perfect model"
                    )
        return ""

    def differing_revisions(self, variant: str, base: str) -> str:
        """The kinds of job whose code differed between the two sides; empty where none did."""
        one, other = self._revisions.get(variant, {}), self._revisions.get(base, {})
        kinds = [kind for kind in one if kind in other and one[kind] != other[kind] and len(one[kind]) == len(other[kind]) == 1]
        words = [f"{kind} {min(one[kind])} against {min(other[kind])}" for kind in kinds]
        return f"revisions differ: {', '.join(words)}" if words else ""

    def differing_settings(self, variant: str, base: str) -> str:
        """The settings of evaluation that differ between the two sides, the milestone apart; empty where none does."""
        one, other = self._settings(variant), self._settings(base)
        keys = [f"evaluation.{name}" for name in ("horizon", "num_trajectories", "seed", "num_samples", "sample_horizon")]
        differing = [f"{key} {one[key]} against {other[key]}" for key in keys if key in one and key in other and one[key] != other[key]]
        return f"the evaluations differ: {', '.join(differing)}" if differing else ""

    def one_for_all_seeds(self, variant: str, base: str) -> str:
        """The sides whose seeds share one evaluation, since nothing in them is trained; empty where there is none."""
        said = []
        for name in (variant, base):
            of_side = [point for point in self._points.values() if point.variant == name]
            if len({point.jobs["evaluation"] for point in of_side}) < len(of_side):
                said.append(f"{name}: one evaluation stands for all seeds, so it does not vary between runs")
        return "; ".join(said)

    def _of(self, point: Point, metric: str) -> PerReference | None:
        key = (point.jobs["evaluation"], metric)
        if key not in self._read:
            self._read[key] = per_reference(self._store, *key)
        return self._read[key]

    def _copied(self, variant: str, game: str, metric: str) -> float | None:
        """copy-last-frame's error under this variant's evaluation settings; None where it is not known."""
        point = self._finished.get((variant, game))
        found = None if point is None else self._of(point, metric)
        return None if found is None or found.copied is None else float(found.copied.mean())

    def _shares(self, point: Point, metric: str, found: PerReference) -> "Array":
        """A run's values by reference, as `shares_of` has them for all runs of its variant on its game."""
        import numpy as np

        if found.copied is None or not found.copied.mean():
            return np.full(len(found.values), math.nan)
        runs = [self._of(other, metric) for (name, game, _), other in self._points.items() if (name, game) == (point.variant, point.game)]
        values = np.stack([found.values, *(run.values for run in runs if run is not None and run is not found)])
        return np.asarray(shares_of(values, found.copied)[0])

    def _settings(self, variant: str) -> Mapping[str, Any]:
        return self._facts.configs.get(variant, {})

    def _scales(self, metric: str, variant: str, base: str) -> list[str]:
        for game in (game for name, game in self._finished if name == variant and (base, game) in self._finished):
            one, other = (self._copied(name, game, metric) for name in (variant, base))
            if one is None or other is None:
                return [f"copy-last-frame's error in {game} was not stored: sweep again"]
            if not one or not other:
                return [f"copy-last-frame's error in {game} is 0, so a share of it means nothing: state an absolute margin"]
            if abs(one - other) > _SAME * max(one, other):
                return [f"the evaluations differ: copy-last-frame's error in {game} is {one:.3g} against {other:.3g}"]
        return []

    def _numbers_of_images(self, metric: str, variant: str, base: str) -> str:
        table = self._facts.table
        for counted in METRIC_INFO[metric].counted if metric in METRIC_INFO else ():
            of_both = table[(table["metric"] == counted) & table["seed"].notna() & table["variant"].isin([variant, base])]
            numbers = sorted(set(of_both["value"]))
            if len(numbers) > 1:
                column = METRIC_INFO[counted]
                return (
                    f"{metric} of {' and '.join(f'{number:g}' for number in numbers)} {column.title} is not compared: its bias depends on "
                    f"their number; evaluate both with one {' and '.join(f'evaluation.{size}' for size in column.sizes)}"
                )
        return ""

    def _checkpoint(self, point: Point) -> str:
        """The checkpoint that was evaluated, where that is known: evaluations of one checkpoint are paired."""
        trainings = [ref.id for role, ref in point.jobs.items() if ref.kind.startswith("train_") and role not in NETWORKS]
        settings = self._facts.configs.get(point.variant)
        if not trainings or not settings:
            return ""
        return " ".join([*trainings, *(str(settings.get(f"evaluation.{key}")) for key in ("milestone", "weights"))])


def shares_of(values: "Array", copied: "Array") -> "Array":
    """Errors (runs, references) in units of copying's mean error `copied` (references,), linearised (delta method).

    Their mean is the ratio of the two means, R. Their spread over references is that of the ratio, whose denominator is another sum over
    the same references: R + (value - R copied) / mean copied.
    """
    ratio = values.mean() / copied.mean()
    shares: Array = (values - ratio * copied) / copied.mean() + ratio
    return shares


_Revisions = Mapping[str, set[str]]
"""By kind of job, the revisions of its code."""


def _revisions(plan: SavedPlan, facts: StudyFacts) -> Mapping[str, _Revisions]:
    found: dict[str, dict[str, set[str]]] = {}
    for point in plan.points:
        if point.jobs["evaluation"] in facts.recorded:
            for ref in point.jobs.values():
                revision = facts.recorded.get(ref, {}).get("revision")
                if revision is not None:
                    found.setdefault(point.variant, {}).setdefault(ref.kind, set()).add(str(revision))
    return found


def _mixture(variant: str, revisions: _Revisions) -> str:
    several = [f"{kind} {' and '.join(sorted(found))}" for kind, found in revisions.items() if len(found) > 1]
    return f"{variant} mixes revisions ({', '.join(several)}), so it is not compared: sweep again" if several else ""

"""The pairs of variants that a study compares, and whether the planned runs can give an answer at all. Without pandas, for planning."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from analysis.multiplicity import holm, smallest_p
from analysis.runs import MIN_RUNS
from diamond_bench.errors import UserError, nearest
from diamond_bench.metrics.columns import METRIC_INFO, measured_with, pools, unused_settings
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies.baselines import flat
from diamond_bench.studies.families import reads
from diamond_bench.studies.looks import ALPHA, look_level
from diamond_bench.studies.plan import Point, StudyPlan
from diamond_bench.typed import to_plain


def baselines(points: Sequence[Point], axes: Iterable[str], wanted: Mapping[str, Any]) -> dict[str, str]:
    """For each variant that has one, the variant with the wanted arm and axes that equals it in all others.

    Raises UserError for a key that is neither `arm` nor an axis.
    """
    keys = ["arm", *axes]
    cells = variant_cells(points)
    for key in wanted:
        if key not in keys:
            raise UserError(f"baseline {key}={wanted[key]}: the study has no such axis: {nearest(key, keys)}")
    home = {_cell(at, keys): name for name, at in cells.items()}
    found = {name: home.get(_cell({**at, **wanted}, keys)) for name, at in cells.items()} if wanted else {}
    return {name: base for name, base in found.items() if base is not None and base != name}


def family(points: Sequence[Point], pairs: Mapping[str, str], groups: Sequence[Mapping[str, Sequence[Any]]]) -> dict[str, str]:
    """The pairs (variant: baseline) that answer the study's question: those in one of the groups, with one of its values of each arm and
    axis. All pairs if there is no group."""
    cells = variant_cells(points)
    wanted = [{key: {_plain(value) for value in values} for key, values in group.items()} for group in groups]

    def answers(name: str) -> bool:
        return not wanted or any(all(_plain(cells[name].get(key)) in values for key, values in group.items()) for group in wanted)

    return {name: base for name, base in pairs.items() if answers(name)}


def repetitions(metric: str, pairs: Mapping[str, str], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Variants whose comparison of `metric` repeats another one, each with the variant of the first such comparison.

    `settings` are those of `measured_settings`. Two comparisons are the same if both sides differ only in settings that cannot change the
    metric, such as the horizon for PSNR one step ahead. A variant that equals its own baseline in this way would be compared to itself, so
    it repeats its baseline. Variants without settings repeat nothing.
    """
    unused = unused_settings(metric)

    def identity(name: str) -> object:
        known = settings.get(name)
        return frozenset((key, repr(value)) for key, value in known.items() if key not in unused) if known else name

    first: dict[object, str] = {}
    found = {}
    for name, base in pairs.items():
        one, other = identity(name), identity(base)
        same = base if one == other else first.setdefault((one, other), name)
        if same != name:
            found[name] = same
    return found


def measured_settings(points: Iterable[Point], config_of: Callable[[JobRef], Any]) -> dict[str, dict[str, Any]]:
    """The settings on which each variant's measurements depend: those of its evaluation by dotted key, and its other jobs by role.

    Both are those of the variant's first point. `config_of` returns a job's config, or None if it cannot be read. The variant is then left
    out.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, point in {point.variant: point for point in reversed(list(points))}.items():
        config = config_of(point.jobs["evaluation"])
        if config is not None:
            found[name] = {**flat(to_plain(config)), **{role: ref for role, ref in point.jobs.items() if role != "evaluation"}}
    return found


def variant_cells(points: Sequence[Point]) -> dict[str, dict[str, Any]]:
    """Arm and axis values of each variant."""
    return {p.variant: {"arm": p.arm, **p.axes} for p in points}


def _cell(at: Mapping[str, Any], keys: Iterable[str]) -> tuple[str, ...]:
    return tuple(_plain(at[key]) for key in keys)


def _plain(value: Any) -> str:
    return str(float(value) if isinstance(value, int) and not isinstance(value, bool) else value)


MAX_SEEDS = 50
"""Number of seeds per game above which planning asks whether they are intended (analysis.scores.MAX_RUNS, which planning cannot import)."""


def limits(plan: StudyPlan) -> list[str]:
    """Warnings about the planned runs: an implausible number of seeds, and questions that they cannot answer, whatever their results."""
    return [*_many_seeds(plan), *_partly_used(plan), *_between_looks(plan), *_unanswerable(plan)]


def _partly_used(plan: StudyPlan) -> list[str]:
    """The overrides that some arms do not use because of their family."""
    configs = [job.config for job in plan.jobs.values() if job.kind in ("evaluate_world_model", "train_agent")]
    found = []
    for key in sorted(plan.study.overridden):
        unread = [config.family for config in configs if config.family is not None and not reads(config, key, plan.study.protocol)]
        if unread:
            names = " and ".join(dict.fromkeys(f"family={family.name}" for family in unread))
            found.append(f"{key}: it has no effect with {names}, so it changes the other arms alone")
    return found


def _between_looks(plan: StudyPlan) -> list[str]:
    looks, seeds = plan.study.primary.looks, len({point.seed for point in plan.points})
    if not looks or seeds in looks:
        return []
    following = next(look for look in looks if look > seeds)
    listed = ", ".join(map(str, looks))
    return [f"there is no planned look at {seeds} seeds (primary.looks: [{listed}]): results stay exploratory until there are {following}"]


def _many_seeds(plan: StudyPlan) -> list[str]:
    if (seeds := len({point.seed for point in plan.points})) <= MAX_SEEDS:
        return []
    key = "agent_evaluation.episodes" if plan.study.protocol == "agent" else "evaluation.num_trajectories"
    return [f"{seeds} seeds a game, more than {MAX_SEEDS}: each seed is a whole training; to evaluate each of them on more, raise {key}"]


def _unanswerable(plan: StudyPlan) -> list[str]:
    """The questions that the planned runs cannot answer. None for a study of one variant."""
    stated, variants = plan.study.primary, dict.fromkeys(point.variant for point in plan.points)
    if len(variants) < 2:
        return []
    metric = METRIC_INFO[stated.metric].title if stated.metric in METRIC_INFO else stated.metric
    needed = measured_with(stated.metric)
    if needed and not {*needed} & {*plan.metrics}:
        return [
            f"the study compares {metric}, which these evaluations do not measure ({' or '.join(needed)} is not in metrics): there will be "
            "no answer"
        ]
    if not stated.baseline:
        return ["the study names no baseline, so its report compares nothing"]
    pairs = family(plan.points, baselines(plan.points, [axis.name for axis in plan.study.axes], stated.baseline), stated.variants)
    repeated = repetitions(stated.metric, pairs, measured_settings(plan.points, lambda ref: plan.jobs[ref].config))
    pairs = {name: base for name, base in pairs.items() if name not in repeated}
    if not pairs:
        return ["the baseline that the study names, or every variant it is for, is not among these variants: there will be no answer"]
    games = list(dict.fromkeys(point.game for point in plan.points))
    if len(games) > 1 and not pools(stated.metric):
        return [f"{metric} of several games cannot be pooled, so there will be no answer"]
    return _too_few(plan, pairs)


def _too_few(plan: StudyPlan, pairs: Mapping[str, str]) -> list[str]:
    runs: dict[str, dict[str, dict[int, tuple[Any, ...]]]] = {}
    for point in plan.points:
        runs.setdefault(point.variant, {}).setdefault(point.game, {})[point.seed] = _checkpoint(plan, point)
    fewest = min(len(seeds) for name in {*pairs, *pairs.values()} for seeds in runs[name].values())
    if fewest < MIN_RUNS:
        seeds = "1 seed" if fewest == 1 else f"{fewest} seeds"
        return [
            f"with {seeds} there is no interval and no test: differences are shown, and every answer will be 'undecided' "
            f"(it takes at least {MIN_RUNS} seeds)"
        ]
    stated = plan.study.primary
    if stated.test == "t":  # its p-values have no lower bound
        return []
    least = []
    for name, base in pairs.items():
        counts = [(len(of_game), len(runs[base][game])) for game, of_game in runs[name].items() if game in runs[base]]
        paired = all(set(of_game.values()) == set(runs[base][game].values()) for game, of_game in runs[name].items() if game in runs[base])
        least.append(smallest_p(counts, paired))
    reachable = max(holm(least))
    level = look_level(stated.looks, fewest) if fewest in stated.looks else ALPHA
    if reachable <= level:
        return []
    number = f"{len(pairs)} comparison{'' if len(pairs) == 1 else 's'}"
    return [
        f"with these runs no p-value can fall below {reachable:.2g} after Holm's correction over {number}, so 'better' and 'worse' are "
        "out of reach; use more seeds, more games, a smaller family (primary.variants) or Student's t (primary.test: t)"
    ]


def _checkpoint(plan: StudyPlan, point: Point) -> tuple[Any, ...]:
    """The identity of an evaluation's inputs: runs that share it are paired."""
    trainings = [ref for ref in point.jobs.values() if ref.kind.startswith("train_")]
    evaluation = plan.jobs[point.jobs["evaluation"]].config.evaluation
    model = (getattr(evaluation, name, None) for name in ("milestone", "weights"))
    return (*trainings, *model) if trainings else (point.variant, point.seed)

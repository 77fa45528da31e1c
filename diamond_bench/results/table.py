"""The results table: one row per number, joined from a plan's points and the store's finished jobs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.runs import MIN_RUNS
from diamond_bench.errors import UserError
from diamond_bench.metrics.baselines import DATASET, NETWORKS, OF_MODEL, TRUE_FRAMES
from diamond_bench.metrics.columns import METRIC_INFO, inputs_of, within_bounds
from diamond_bench.store.artifacts import Store, StoredResult
from diamond_bench.store.files import write_atomic
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies.baselines import baseline_variant
from diamond_bench.studies.plan import Point, SavedPlan

if TYPE_CHECKING:
    import pandas as pd

_SAME = 1e-9
"""Relative width of an interval below which all seeds have the same value, up to rounding."""
COLUMNS = (
    "study", "variant", "game", "seed", "scale", "protocol", "metric", "value", "job", "measured", "arm", "kind", "revision", "precision",
    "compiled",
)  # fmt: skip
"""Columns of every results table. One more follows for each axis of the study (axis.n, ...). A baseline's rows have its name as the variant
(with the settings in which the plan's evaluations differ, if any: studies/baselines.py) and no seed. A dataset's rows have the variant
`dataset`. A baseline's rows belong to no single job, since every evaluation of its game computes them, and their `job` is empty. `measured`
marks time and memory: numbers of one machine, which another run does not reproduce."""


def finished_results(plan: SavedPlan, store: Store) -> dict[JobRef, StoredResult]:
    """The results of the plan's done jobs, in the plan's order."""
    return {ref: store.result(ref) for ref in plan.jobs if store.state(ref).status == "done"}


def write_csv(table: "pd.DataFrame", target: Path) -> None:
    """Writes the tidy table as CSV to a new file or over an earlier table.

    Raises UserError if the file contains something else, which is kept, or cannot be written.
    """
    from diamond_bench.spreadsheet import csv_text

    start = ",".join(COLUMNS[:3])
    try:
        if target.is_file() and target.stat().st_size:
            with target.open("rb") as file:
                if file.read(len(start)) != start.encode():
                    raise UserError(f"--csv {target}: there is another file of this name, which is not overwritten; choose another name")
        target.write_text(csv_text(table))
    except OSError as error:
        raise UserError(f"--csv {target}: cannot be written ({error.strerror or error})") from None


def left_out(plan: SavedPlan, store: Store) -> list[str]:
    """A line for each of the plan's jobs that is damaged or unreadable for this user, so that its numbers are missing."""
    advice = {"unreadable": "", "damaged": "; the same sweep sets the job aside and repeats it"}
    states = {ref: store.state(ref) for ref in plan.jobs}
    return [f"{ref} is left out: {state.error}{advice[state.status]}" for ref, state in states.items() if state.status in advice]


def collect(plan: SavedPlan, store: Store, stored: Mapping[JobRef, StoredResult] | None = None) -> "pd.DataFrame":
    """The tidy table of all finished jobs. `stored`: results that were read before. Curves over t are in arrays.npz of each row's job."""
    import pandas as pd

    found = finished_results(plan, store) if stored is None else stored
    seen: set[tuple[str, ...]] = set()
    rows: list[list[Any]] = []
    of_baselines: list[list[Any]] = []
    chances: list[tuple[str, list[Any]]] = []
    for point in plan.points:
        for role, ref in point.jobs.items():
            for row in _rows(plan, point, role, found[ref], seen) if ref in found else ():
                if row[COLUMNS.index("seed")] is None and _own(row[COLUMNS.index("variant")], row[COLUMNS.index("metric")]):
                    chances.append((point.variant, row))
                else:
                    (of_baselines if row[COLUMNS.index("seed")] is None else rows).append(row)
    of_baselines += _by_variant(chances)
    table = pd.DataFrame([row[: len(COLUMNS)] for row in rows + of_baselines], columns=list(COLUMNS))
    table = table.astype({"seed": "Int64", "value": "float64", "measured": "bool"})
    for i, name in enumerate(plan.axes):
        table[f"axis.{name}"] = _axis_column([row[len(COLUMNS) + i] for row in rows + of_baselines])
    return table


def _own(baseline: str, metric: str) -> bool:
    """Whether each model has its own baseline: it is computed by the model, or covers the starts at which this model has values."""
    return baseline.startswith(OF_MODEL) or (metric in METRIC_INFO and METRIC_INFO[metric].own_starts)


def _by_variant(rows: Sequence[tuple[str, list[Any]]]) -> list[list[Any]]:
    """Rows of baselines from every evaluation (of a variant). A baseline and metric have one row if all values agree and no model computes
    it, else one per variant, the mean over its evaluations."""
    game, name, metric, value = (COLUMNS.index(column) for column in ("game", "variant", "metric", "value"))
    cells: dict[tuple[str, str, str], dict[str, list[list[Any]]]] = {}
    for variant, row in rows:
        cells.setdefault((row[game], row[name], row[metric]), {}).setdefault(variant, []).append(row)
    found = []
    for (_, baseline, _), of_variants in cells.items():
        values = {variant: [float(row[value]) for row in several] for variant, several in of_variants.items()}
        known = {variant: [one for one in some if one == one] for variant, some in values.items()}  # NaN: no start has ranks
        every = [one for some in known.values() for one in some]
        if known == values and max(every) - min(every) <= _SAME and not baseline.startswith(OF_MODEL):
            found.append(next(iter(of_variants.values()))[0])
            continue
        for variant, several in of_variants.items():
            row, some = list(several[0]), known[variant]
            row[name], row[value] = f"{baseline}, {variant}", sum(some) / len(some) if some else float("nan")
            found.append(row)
    return found


def _axis_column(values: Sequence[Any]) -> "pd.Series[Any]":
    """An axis' values as whole numbers, numbers or texts, whichever fits all. Missing in rows without a variant."""
    import pandas as pd

    kinds = {type(value) for value in values if value is not None}
    if kinds == {int}:
        return pd.Series(values, dtype="Int64")
    if kinds <= {int, float} and kinds:
        return pd.Series(values, dtype="Float64")
    return pd.Series([value if value is None else str(value) for value in values], dtype="object")


def _rows(plan: SavedPlan, point: Point, role: str, result: StoredResult, seen: set[tuple[str, ...]]) -> Iterator[list[Any]]:
    ref = point.jobs[role]
    for row in result.rows:
        baseline = DATASET if role == DATASET else row.get("baseline", "")
        of_all = baseline_variant(plan, point, baseline, row["metric"]) if baseline else ""
        if of_all:
            key = (of_all, row["metric"], point.jobs.get(DATASET, ref).id)
            # Every evaluation with these settings computes the baseline, up to the last bits. It is shown once.
            if key in seen and not _own(baseline, row["metric"]):
                continue
            seen.add(key)
        start = [plan.study, of_all or point.variant, point.game, None if of_all else point.seed, plan.scale, plan.protocol]
        job = "" if of_all and role != DATASET else ref.id
        numbers = [row["metric"], row["value"], job, row["measured"], "" if of_all else point.arm]
        origin = [ref.kind, result.recorded.get("revision"), "" if role == DATASET else _precision(point, result)]
        origin.append("" if role == DATASET else result.info.get("execution", {}).get("compile", "none"))
        yield start + numbers + origin + [None if of_all else value for value in point.axes.values()]


def _precision(point: Point, result: StoredResult) -> str:
    """The precision that the job had, which `auto` does not say. A job without networks in that precision has none."""
    asked = "" if point.precision == "auto" else point.precision
    return str(result.info.get("execution", {}).get("precision", asked))


def mixtures(table: "pd.DataFrame") -> list[str]:
    """Footnotes that a table needs: revisions, precisions or compilation, if they differ within it."""
    notes = []
    for kind, rows in table.groupby("kind"):
        revisions = sorted(rows["revision"].dropna().unique())
        if len(revisions) > 1:
            notes.append(f"mixed revisions of {kind}: {', '.join(map(str, revisions))}")
        compiled = sorted(set(rows["compiled"]))
        if len(compiled) > 1:
            notes.append(f"mixed compilation of {kind}: {', '.join(compiled)}")
    for name, column in METRIC_INFO.items():
        if column.biased_below and (table["metric"] == name).any():
            counts = table.loc[table["metric"] == column.counted[0], "value"]
            if counts.min() < column.biased_below:
                numbers = " and ".join(f"{number:g}" for number in sorted({*counts}))
                notes.append(
                    f"{column.title} of {numbers} {METRIC_INFO[column.counted[0]].title} is biased upwards (fewer than "
                    f"{column.biased_below}): compare it with its floor, {TRUE_FRAMES}, and at equal numbers only"
                )
    precisions = sorted(set(table["precision"]) - {""})  # a dataset has none
    if len(precisions) > 1:
        notes.append(f"mixed precisions: {', '.join(precisions)}")
    return notes


def uninformative(table: "pd.DataFrame") -> list[str]:
    """A note for each column and game whose ceiling is not better than its floor (`Column.ceiling`, `floor`), so that it says nothing."""
    notes = []
    for name, column in METRIC_INFO.items():
        if not column.ceiling:
            continue
        for game, rows in table[(table["metric"] == name) & table["seed"].isna()].groupby("game", sort=False):
            values = dict(zip(rows["variant"], rows["value"], strict=True))
            named = {baseline: _settings_of(baseline, values) for baseline in (*column.ceiling, column.floor)}
            of_ceiling = next((baseline for baseline in column.ceiling if named[baseline]), "")
            floors = named[column.floor]
            for settings, best in named.get(of_ceiling, {}).items():
                compared = [floors[settings]] if settings in floors else [*floors.values()]
                if compared and not any(_exceeds(best, floor, column.better) for floor in compared):
                    notes.append(_says_nothing(name, f"{game}{settings}", of_ceiling, best, column.floor, compared[0]))
    return notes


def _settings_of(baseline: str, values: Mapping[str, float]) -> dict[str, float]:
    """The finite values of a baseline, by the settings in its name."""
    own = {name.removeprefix(baseline): value for name, value in values.items() if name.partition(", ")[0] == baseline}
    return {settings: value for settings, value in own.items() if math.isfinite(value)}


def _exceeds(value: float, other: float, better: str) -> bool:
    """Whether a value is better than another one by more than rounding."""
    return (value - other if better == "higher" else other - value) > _SAME


def _says_nothing(name: str, where: str, ceiling: str, best: float, floor: str, worst: float) -> str:
    networks = [NETWORKS[role] for role in inputs_of(name) if role in NETWORKS]
    longer = f"; train the network longer ({networks[0]}.num_steps)" if networks else ""
    return (
        f"{name} in {where}: the network that reads frames does no better on real ones ({ceiling}, {best:.4g}) than on copied ones "
        f"({floor}, {worst:.4g}), so this number says nothing about the models{longer}"
    )


def unverified_plan(plan: SavedPlan) -> list[str]:
    """A note if no checksum covers the plan, as in earlier versions. Otherwise none."""
    words = f"the plan is unverified: {plan.folder / 'plan.json'} has no checksum; the same sweep again writes one: {plan.command}"
    return [] if plan.verified else [words]


def unverified(results: Mapping[JobRef, StoredResult]) -> list[str]:
    """A note with the number of results without a checksum. None if all have one."""
    number = sum(not result.verified for result in results.values())
    if not number:
        return []
    return [f"{number} of {len(results)} results are unverified: they were written in store format 1, which has no checksum of a result"]


OUTCOMES = ("episodes_cut", "real_steps")
"""Entries of a protocol record that are outcomes of a run, and not conditions."""


def conditions(record: Mapping[str, Any], game: str) -> str:
    """The conditions of a protocol record, the same for every game and run of one protocol. Empty without a record."""
    kept = {name: value for name, value in record.items() if name not in OUTCOMES}
    return "; ".join(f"{name.replace('_', ' ')}: {str(value).replace(game, '<game>')}" for name, value in kept.items())


def protocol_records(plan: SavedPlan, store: Store, stored: Mapping[JobRef, StoredResult] | None = None) -> list[str]:
    """The conditions of an agent study's scores: one line per distinct record, with the ranges of the runs' outcomes.

    `stored`: the plan's results, if they were read before.
    """
    if plan.protocol != "agent":
        return []
    found = finished_results(plan, store) if stored is None else stored
    outcomes: dict[str, dict[str, list[Any]]] = {}
    for ref, game in {point.jobs["evaluation"]: point.game for point in plan.points}.items():
        record = found[ref].info.get("protocol_record") if ref in found else None
        if record:
            of_line = outcomes.setdefault(conditions(record, game), {name: [] for name in OUTCOMES})
            for name, values in of_line.items():
                values.append(record.get(name))
    return [
        f"protocol: {'; '.join([line, *(_range(name, values) for name, values in outcome.items())])}" for line, outcome in outcomes.items()
    ]


def _range(name: str, values: Sequence[Any]) -> str:
    known = [value for value in values if value is not None]
    low, high = min(known, default="not recorded"), max(known, default="not recorded")
    unknown = f" ({len(values) - len(known)} runs not recorded)" if known and len(known) < len(values) else ""
    return f"{name.replace('_', ' ')}: {low if low == high else f'{low} to {high}'}{unknown}"


def save_results(table: "pd.DataFrame", folder: Path) -> Path:
    """Writes results.parquet into a study's folder."""
    import io

    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomic(folder / "results.parquet", buffer.getvalue(), durable=False)
    return folder / "results.parquet"


def seed_means(table: "pd.DataFrame") -> "pd.DataFrame":
    """Mean over seeds of each game, variant and metric of a results table, with the 95% interval that all tables print.

    -> game, variant, metric, mean, low, high, in order of appearance. The interval is Student's over seeds, clipped to the metric's bounds.
    low and high are NaN below MIN_RUNS seeds, for baselines (rows without a seed), if all seeds have one value (such as the number of
    denoiser calls), and if a value is not finite: the mean is then infinite or NaN.
    """
    import numpy as np
    import pandas as pd

    from analysis.curves import mean_over_seeds

    keys = ["game", "variant", "metric"]
    finite = table.assign(finite=np.isfinite(table["value"])).groupby(keys, sort=False)["finite"].transform("all")
    means = within_bounds(mean_over_seeds(table[finite], keys))
    endless = table[~finite].groupby(keys, sort=False)["value"].agg(lambda values: values.sum(skipna=False)).rename("mean").reset_index()
    seeds = table.groupby(keys, sort=False)["seed"].count().rename("seeds").reset_index()
    found = seeds.merge(pd.concat([means, endless]) if len(endless) else means, on=keys, how="left")
    equal = found["high"] - found["low"] <= _SAME * found["mean"].abs()
    found.loc[equal | (found["seeds"] == 0), ["low", "high"]] = np.nan
    return found[[*keys, "mean", "low", "high"]]


INTERVALS_NAMED = f"mean over seeds, and [its 95% interval, Student's t] from {MIN_RUNS} seeds on"
"""The meaning of the cells of `pivot`."""


def number_in_words(value: float, digits: int = 4) -> str:
    """A number for people, with so many significant digits. One that does not exist or is not finite is described in words."""
    if math.isfinite(value):
        return f"{value:.{digits}g}"
    return "∞" if value == math.inf else "no number" if math.isnan(value) else "not finite"


def pivot(table: "pd.DataFrame", only: Sequence[str] | None = None, words: bool = False) -> "pd.DataFrame":
    """A table for people: one line per game and variant, one column per metric (of `only`), cells as INTERVALS_NAMED says.

    Variants without any of the metrics have no line. `words`: describe means that are no finite numbers (`number_in_words`).
    """
    import pandas as pd

    order = list(dict.fromkeys(zip(table["game"], table["variant"], strict=True)))
    found = list(dict.fromkeys(table["metric"]))
    metrics = found if only is None else [metric for metric in only if metric in found]
    lines: dict[tuple[Any, Any], dict[str, str]] = {cell: {"game": cell[0], "variant": cell[1]} for cell in order}
    for game, variant, metric, mean, low, high in seed_means(table).itertuples(index=False, name=None):
        number = number_in_words(mean) if words else f"{mean:.4g}"
        lines[game, variant][metric] = number + (f" [{low:.4g}, {high:.4g}]" if low == low else "")
    shown = [cells for cells in lines.values() if any(metric in cells for metric in metrics)]
    return pd.DataFrame(shown, columns=["game", "variant", *metrics]).fillna("")

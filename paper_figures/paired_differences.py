"""Each variant of a study against the baseline that its file names: difference with interval, test and verdict."""

from collections.abc import Mapping
from typing import Any

from diamond_bench.report.drawing import Drawn, scale_warning
from paper_figures.parts import Inputs, Lack, Output, StudyResults, slug, study_source
from paper_figures.tables import Cell, Head, Table, number, words

_NUMBERS = {
    "difference": "Difference",
    "low": "low",
    "high": "high",
    "probability_of_improvement": "P(better)",
    "effect_size": "Hedges' g",
    "p_holm": "p (Holm)",
}


def make(inputs: Inputs) -> Output:
    """One table for all requested studies with the primary metric of each, and one figure per study."""
    if not inputs.studies:
        return Output(
            lacks=(Lack("studies: none was asked for; name swept ones with --results", "diamond-bench sweep sampling_steps scale=small"),)
        )
    from analysis.score_figures import Interval, IntervalPanel, interval_figure
    from diamond_bench.metrics.columns import metric_label
    from diamond_bench.report.comparison import OF_COPYING, compare_study
    from diamond_bench.report.facts import gather
    from diamond_bench.report.looks import variant_looks

    rows: list[tuple[Cell, ...]] = []
    figures: dict[str, Drawn] = {}
    rules, lacks, sources = set(), [], []
    for study in inputs.studies:
        compared = compare_study(study.plan, inputs.store, gather(study.plan, inputs.store))
        primary = compared.primary
        if primary.empty:
            reason = compared.problem or "no variant and its baseline are both finished"
            lacks.append(Lack(f"{study.name}: {reason}", "" if compared.problem else study.plan.command))
            continue
        rules.add(len(rows))
        found = {}
        for row in primary.to_dict(orient="records"):
            rows.append(_row(study, row))
            if row["difference"] == row["difference"]:
                found[str(row["variant"])] = Interval(row["difference"], row["low"], row["high"])
        jobs = study.table[(study.table["metric"] == compared.metric) & study.table["seed"].notna()]["job"]
        sources.append(study_source(study, list(jobs)))
        if found:
            baseline = ", ".join(dict.fromkeys(map(str, compared.baselines.values())))
            panel = IntervalPanel(
                f"difference of {metric_label(compared.metric)}{f', {OF_COPYING}' if compared.margin.relative else ''}",
                found,
                [(0.0, "")],
                (-compared.margin.value, compared.margin.value) if compared.margin.value else None,
            )
            figure = interval_figure([panel], list(found), looks=variant_looks(study.plan))
            margin = f"; shaded: the margin, ±{compared.margin.words()}" if compared.margin.value else ""
            caption = f"{study.name}; against {baseline}{margin}; bars: 95% intervals, where there are enough runs"
            figures[slug(study.plan.study, study.plan.scale, taken=figures)] = Drawn(figure, caption, scale_warning(study.plan.scale))
    if not rows:
        return Output(lacks=tuple(lacks))
    heads = [Head("Study"), Head("Metric"), Head("Variant"), Head("Baseline"), Head("Verdict"), *(Head(t, k) for k, t in _NUMBERS.items())]
    heads += [Head("Runs", "runs"), Head("Paired", "paired"), Head("Margin", "margin"), Head("Unit", "unit"), Head("Scope", "scope")]
    notes = [
        "Difference: variant minus baseline, in the metric's unit, or as a share of copy-last-frame's error where the margin is one. "
        "P(better): probability that a run of the variant is better.",
        "Metric, baseline and margin are those that the study's file names; p is corrected over the study's variants.",
        *(note for study in inputs.studies for note in study.remarks),
    ]
    table = Table(tuple(heads), tuple(rows), frozenset(rules - {0}), tuple(dict.fromkeys(notes)))
    return Output(table=table, figures=figures, sources=tuple(sources), lacks=tuple(lacks))


def _row(study: StudyResults, row: Mapping[Any, Any]) -> tuple[Cell, ...]:
    missing = [f"{row['missing'][0].upper()}{row['missing'][1:]}."] if isinstance(row["missing"], str) and row["missing"] else []
    texts = [words(study.name), words(str(row["metric"])), words(str(row["variant"]), missing), words(str(row["baseline"]))]
    numbers = [_signed(row[key]) if key in ("difference", "low", "high") else number(row[key]) for key in _NUMBERS]
    runs = number(None if row["runs"] != row["runs"] else int(row["runs"]), 0)
    paired = Cell() if row["paired"] is None or row["paired"] != row["paired"] else words("yes" if row["paired"] else "no")
    return (
        *texts,
        words(str(row["verdict"])),
        *numbers,
        runs,
        paired,
        Cell(row["margin"], f"{row['margin']:g}"),
        words(row["unit"]),
        words(row["scope"]),
    )


def _signed(value: float) -> Cell:
    return Cell() if value is None or value != value else Cell(value, f"{value:+.3g}".replace("-", "−"))

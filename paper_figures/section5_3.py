"""Section 5.3's claim as numbers: errors of objects that the state probe reads in frames of token models and of diffusion."""

from collections.abc import Iterator

from diamond_bench.metrics.baselines import COPY_LAST, RECONSTRUCTED, STATE_PROBE
from diamond_bench.results.table import INTERVALS_NAMED, seed_means
from paper_figures.figure5 import both_families
from paper_figures.parts import Inputs, Lack, Output, StudyResults, study_source
from paper_figures.tables import Cell, Head, Table, number, words

_POSITION, _PRESENCE = "state_position_error", "state_presence_error"
_COMMAND = "diamond-bench sweep world_model_families scale=small 'metrics=[drift,state]'"
_REFERENCES = {
    RECONSTRUCTED: "true frames after the tokenizer",
    COPY_LAST: "reference: copy last frame",
    STATE_PROBE: "floor: the probe on true frames",
}
_NOTES = (
    "Errors are means over the imagined frames of all references. Position: pixels, of objects that are in both the true and the imagined "
    "frame. Lost or made up: share of frames in which an object is in one of them alone.",
    f"Cells: {INTERVALS_NAMED}.",
    "The rows after the tokenizer show what compression alone loses. The rest of a token model's error is that of its dynamics.",
)


def make(inputs: Inputs) -> Output:
    """A row for each variant, reference, game and object of studies that measured `state` of both families."""
    rows: list[tuple[Cell, ...]] = []
    sources, rules, notes = [], set[int](), list[str]()
    for study in inputs.studies:
        before = len(rows)
        rows += _rows(inputs, study)
        if len(rows) > before:
            rules.add(before)
            jobs = study.table.loc[study.table["metric"].str.startswith("state_") & study.table["seed"].notna(), "job"]
            sources.append(study_source(study, list(jobs)))
            notes += study.remarks
    if not rows:
        what = "errors of objects: no study asked for measured the metric state of a token model and of diffusion in one game"
        return Output(lacks=(Lack(what, _COMMAND),))
    heads = [Head("Game"), Head("Object"), Head("Method"), Head("Position error\n(pixels) ↓"), Head("Lost or\nmade up ↓"), Head("Runs")]
    table = Table(tuple(heads), tuple(rows), frozenset(rules - {0}), tuple(dict.fromkeys([*_NOTES, *notes])))
    return Output(table=table, sources=tuple(sources))


def _rows(inputs: Inputs, study: StudyResults) -> Iterator[tuple[Cell, ...]]:
    table = study.table
    for game, variants in both_families(inputs, study).items():
        of_game = table[(table["game"] == game) & table["metric"].str.startswith((_POSITION, _PRESENCE))]
        means = seed_means(of_game).set_index(["variant", "metric"]) if len(of_game) else of_game
        objects = [name.removeprefix(_POSITION).lstrip("_") for name in dict.fromkeys(of_game["metric"]) if name.startswith(_POSITION)]
        shown = {name: f"{study.plan.study}: {name}" for name in variants}
        for baseline, text in _REFERENCES.items():
            named = [str(name) for name in dict.fromkeys(of_game["variant"]) if name == baseline or str(name).startswith(f"{baseline}, ")]
            shown |= {name: f"{text}{name.removeprefix(baseline)}" for name in named}
        for thing in [name for name in objects if not name.endswith("final")]:
            for variant, text in shown.items():
                cells = [_cell(means, variant, f"{measure}_{thing}" if thing else measure) for measure in (_POSITION, _PRESENCE)]
                runs = int(of_game.loc[of_game["variant"] == variant, "seed"].nunique())
                if any(cell.value is not None for cell in cells):
                    yield words(game), words(thing or "all objects"), words(text), *cells, number(runs or None, 0)


def _cell(means: "object", variant: str, metric: str) -> Cell:
    if (variant, metric) not in means.index:  # type: ignore[attr-defined]
        return Cell()
    found = means.loc[(variant, metric)]  # type: ignore[attr-defined]
    cell, low, high = (number(float(found[name]), 2) for name in ("mean", "low", "high"))
    return cell if low.value is None else Cell(cell.value, f"{cell.text} [{low.text}, {high.text}]")

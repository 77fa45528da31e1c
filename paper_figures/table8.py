"""Table 8: visual quality, sampling rate and size of world models: the paper's rows, and those of studies in the same layout."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from diamond_bench.errors import UserError
from diamond_bench.report.facts import device_name
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from paper_figures.parts import Inputs, Lack, Output, StudyResults, paper_source, study_source
from paper_figures.tables import Cell, Head, Table, number, words

if TYPE_CHECKING:
    import pandas as pd

_PRINTED = (
    ("DreamerV3", (106.8, 509.1, 0.173), (167.5, 733.7, 0.160), 266.7, 181),
    ("IRIS (K = 16)", (24.5, 110.1, 0.129), (51.4, 368.7, 0.188), 4.2, 123),
    ("IRIS (K = 64)", (22.8, 85.7, 0.116), (44.3, 276.9, 0.148), 1.5, 111),
    ("DIAMOND frame-stack", (9.6, 34.8, 0.107), (16.7, 80.3, 0.058), 7.4, 122),
    ("DIAMOND cross-attention", (11.6, 81.4, 0.125), (35.2, 299.9, 0.119), 2.5, 184),
)
"""The printed rows: method, FID, FVD and LPIPS on CS:GO and on motorway driving, frames per second on an A6000, and million parameters."""
_SETTING = (
    "Rows of the paper: 64 × 64, 6 past frames, 20 denoising steps, 1024 clips of 16 frames, rate on an A6000. They are other data, "
    "lengths and numbers of images than rows of studies, which FID and FVD depend on: read down one data set, never across."
)
_LPIPS = "LPIPS of studies: AlexNet's. Which network the paper took is not recorded here."
_NO_FVD = "FVD of studies: no job measures it yet, so the column is empty there."


def make(inputs: Inputs) -> Output:
    """The printed rows, two for each method, then a row for each variant and game of world-model studies."""
    rows: list[tuple[Cell, ...]] = []
    for data in (0, 1):
        for name, *both, rate, millions in _PRINTED:
            fid, fvd, lpips = both[data]
            cells = (number(fid, 1), number(fvd, 1), number(lpips), number(rate, 1), number(millions, 0))
            rows.append((words(name), words(("CS:GO", "motorway driving")[data]), words("as printed"), *cells))
    rules, sources, notes = {len(_PRINTED), len(rows)}, [paper_source("Table 8")], [_SETTING]
    for study in inputs.studies:
        own = _rows(study, inputs.store)
        rows += own
        if own:
            sources.append(study_source(study, list(_numbers(study)["job"])))
            notes += [_LPIPS, _NO_FVD, *study.remarks]
    heads = [Head(text) for text in ("Method", "Data", "Label", "FID ↓", "FVD ↓", "LPIPS ↓", "Frames/s ↑", "Parameters\n(million)")]
    keys = ("method", "data", "label", "fid", "fvd", "lpips", "frames_per_second", "parameters_million")
    heads = [Head(head.text, key) for head, key in zip(heads, keys, strict=True)]
    lacks = [Lack("FVD of studies: no job measures it yet")]
    if len(sources) == 1:
        lacks.append(inputs.lack("sampling_steps", "rows of world models of one's own", "table8"))
    return Output(
        table=Table(tuple(heads), tuple(rows), frozenset(rules), tuple(dict.fromkeys(notes))), sources=tuple(sources), lacks=tuple(lacks)
    )


def _numbers(study: StudyResults) -> "pd.DataFrame":
    table = study.table
    shown = ("fid", "lpips", "frames_per_second", "parameters")
    return table[(table["protocol"] == "world_model") & table["seed"].notna() & table["metric"].isin(shown)]


def _batches(store: Store, job: str) -> Iterator[int]:
    """Number of trajectories that an evaluation imagined at once; None if its config belongs to another version."""
    try:
        config = store.spec(JobRef("evaluate_world_model", job)).config
    except UserError:
        return
    yield min(config.evaluation.batch_size, config.evaluation.num_trajectories)


def _rows(study: StudyResults, store: Store) -> list[tuple[Cell, ...]]:
    """One row for each variant and game: means over seeds."""
    found: list[tuple[Cell, ...]] = []
    numbers = _numbers(study)
    for (variant, game), of in numbers.groupby(["variant", "game"], sort=False):
        value = of.groupby("metric")["value"].mean().to_dict()
        rates = of[of["metric"] == "frames_per_second"]
        devices = sorted({device_name(study.results[job].recorded) for job in rates["job"]})
        sizes = sorted({size for job in rates["job"] for size in _batches(store, job)})
        runs = of["seed"].nunique()
        together = f"{' or '.join(map(str, sizes))} trajectories imagined together" if sizes else "a batch whose size is not recorded"
        said = f"Rate measured on {', '.join(devices)}, frames of {together}: a throughput, which the rates of the paper may not be."
        notes = [said] if devices else []
        parameters = value.get("parameters")
        cells = (
            number(value.get("fid"), 1),
            Cell(),
            number(value.get("lpips")),
            number(value.get("frames_per_second"), 1, notes=notes),
            number(None if parameters is None else parameters / 1e6, 2),
        )
        label = f"scale {study.plan.scale}, {runs} {'run' if runs == 1 else 'runs'}"
        found.append((words(f"{study.plan.study}: {variant}"), words(str(game)), words(label), *cells))
    return found

"""Table 8: visual quality, sampling rate and size of world models: the paper's rows, and those of studies under a heading of their own."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from diamond_bench.errors import UserError
from diamond_bench.metrics.baselines import COPY_LAST, FROZEN_FIRST, RECONSTRUCTED, SHUFFLED_TIME, TRUE_FRAMES
from diamond_bench.metrics.fvd import ENOUGH_CLIPS, KERNEL
from diamond_bench.models.i3d_cost import SIDE
from diamond_bench.report.facts import device_name
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from paper_figures.parts import Inputs, Output, StudyResults, paper_source, study_source
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
PAPER, OTHER = "The paper's data", "Other data than the paper's"
_SETTING = (
    "Rows of the paper: 64 × 64, 6 past frames, 20 denoising steps, 1024 clips of 16 frames, rate on an A6000. FID and FVD depend on the "
    "data, on the length and on the number of clips or images: compare values of one data set only, never across data sets or headings."
)
_LPIPS = (
    "LPIPS of studies: AlexNet's, a mean over all imagined frames. The paper does not name its network. Token models whose tokenizer "
    "is trained with LPIPS (VGG), as in IRIS, have an advantage in this column."
)
_FLOORS = {
    TRUE_FRAMES: "floor: other true frames or clips",
    RECONSTRUCTED: "true frames after the tokenizer",
    COPY_LAST: "reference: copy last frame",
    FROZEN_FIRST: "reference: true clips, first frame frozen",
    SHUFFLED_TIME: "reference: true clips, time shuffled",
}
_QUALITY = {"fid": 1, "kid": 4, "fvd": 1, "kvd": 3, "lpips": 3}
"""Digits after the point of each column of quality."""
_OWN = ("kid", "kvd")
"""Columns that the paper lacks. They are left out where no study has them."""
_COUNTS = ("fid_images", "clips", "clip_frames")
_HEADS = {
    "method": "Method",
    "data": "Data",
    "label": "Label",
    "fid": "FID ↓",
    "kid": "KID ↓",
    "fvd": "FVD ↓",
    "kvd": "KVD ↓",
    "lpips": "LPIPS ↓",
    "frames_per_second": "Frames/s ↑",
    "parameters_million": "Parameters\n(million)",
}


def make(inputs: Inputs) -> Output:
    """The printed rows, two for each method. Below a heading of their own, for each study and game: its variants and reference rows."""
    rows: list[tuple[Cell, ...]] = []
    for data in (0, 1):
        for name, *both, rate, millions in _PRINTED:
            fid, fvd, lpips = both[data]
            cells = (number(fid, 1), Cell(), number(fvd, 1), Cell(), number(lpips), number(rate, 1), number(millions, 0))
            rows.append((words(name), words(("CS:GO", "motorway driving")[data]), words("as printed"), *cells))
    printed, rules = len(rows), {len(_PRINTED)}
    sources, notes = [paper_source("Table 8")], [_SETTING]
    for study in inputs.studies:
        numbers = _numbers(study)
        for game in dict.fromkeys(numbers["game"]):
            rules.add(len(rows))
            rows += _rows(study, inputs.store, game)
        if len(numbers):
            sources.append(study_source(study, list(numbers["job"])))
            notes += [_LPIPS, *_protocol(study), *study.remarks]
    headings = {0: PAPER, printed: OTHER} if len(rows) > printed else {}
    lacks = [] if headings else [inputs.lack("table8", "rows of world models of one's own", "table8")]
    shown = [i for i, key in enumerate(_HEADS) if key not in _OWN or any(row[i].value is not None for row in rows)]
    heads = [Head(text, key) for key, text in _HEADS.items()]
    table = Table(
        tuple(heads[i] for i in shown),
        tuple(tuple(row[i] for i in shown) for row in rows),
        frozenset(rules),
        tuple(dict.fromkeys(notes)),
        headings,
    )
    return Output(table=table, sources=tuple(sources), lacks=tuple(lacks))


def _numbers(study: StudyResults) -> "pd.DataFrame":
    """Numbers of runs, without baselines."""
    table = study.table
    shown = (*_QUALITY, "frames_per_second", "parameters")
    return table[(table["protocol"] == "world_model") & table["seed"].notna() & table["metric"].isin(shown)]


def _protocol(study: StudyResults) -> Iterator[str]:
    """How the distances of a study were measured: their numbers of images and clips."""
    counts = {name: sorted({int(value) for value in study.table.loc[study.table["metric"] == name, "value"]}) for name in _COUNTS}
    said = {name: " or ".join(map(str, values)) for name, values in counts.items()}
    if counts["fid_images"]:
        yield f"FID and KID of {study.name}: {said['fid_images']} images a side."
    if counts["clips"]:
        few = f" FVD of fewer than {ENOUGH_CLIPS} clips is biased upwards." if min(counts["clips"]) < ENOUGH_CLIPS else ""
        yield (
            f"FVD and KVD of {study.name}: I3D logits of {said['clips']} clips of {said['clip_frames']} frames a side, frames resized to "
            f"{SIDE} × {SIDE} ({KERNEL}). In brackets: the 95% interval of one run over held-out episodes (jackknife).{few}"
        )


def _batches(store: Store, job: str) -> Iterator[int]:
    """Number of trajectories that an evaluation imagined at once; None if its config belongs to another version."""
    try:
        config = store.spec(JobRef("evaluate_world_model", job)).config
    except UserError:
        return
    yield min(config.evaluation.batch_size, config.evaluation.num_trajectories)


def _rows(study: StudyResults, store: Store, game: str) -> list[tuple[Cell, ...]]:
    """One row for each variant, means over seeds, and one for each reference that needs no model."""
    found: list[tuple[Cell, ...]] = []
    numbers = _numbers(study)
    for variant, of in numbers[numbers["game"] == game].groupby("variant", sort=False):
        value = _means(of)
        rates = of[of["metric"] == "frames_per_second"]
        devices = sorted({device_name(study.results[job].recorded) for job in rates["job"]})
        sizes = sorted({size for job in rates["job"] for size in _batches(store, job)})
        runs = of["seed"].nunique()
        together = f"{' or '.join(map(str, sizes))} trajectories imagined together" if sizes else "a batch whose size is not recorded"
        said = f"Rate measured on {', '.join(devices)}, frames of {together}: a throughput, which the rates of the paper may not be."
        parameters = value.get("parameters")
        cells = (
            *_quality(value, _ends(study, str(variant), game) if runs == 1 else {}),
            number(value.get("frames_per_second"), 1, notes=[said] if devices else []),
            number(None if parameters is None else parameters / 1e6, 2),
        )
        label = f"scale {study.plan.scale}, {runs} {'run' if runs == 1 else 'runs'}"
        found.append((words(f"{study.plan.study}: {variant}"), words(game), words(label), *cells))
    return [*found, *_references(study, game)]


def _references(study: StudyResults, game: str) -> Iterator[tuple[Cell, ...]]:
    table = study.table
    of_game = table[(table["game"] == game) & table["seed"].isna() & table["metric"].isin(list(_QUALITY))]
    for baseline, words_of_it in _FLOORS.items():
        for name in dict.fromkeys(of_game["variant"]):  # a baseline with several settings has several rows
            if name == baseline or str(name).startswith(f"{baseline}, "):
                value = _means(of_game[of_game["variant"] == name])
                text = f"{study.plan.study}: {words_of_it}{str(name).removeprefix(baseline)}"
                label = words(f"scale {study.plan.scale}")
                yield (words(text), words(game), label, *_quality(value, {}), Cell(), Cell())


def _ends(study: StudyResults, variant: str, game: str) -> Mapping[str, float]:
    """The ends of the intervals of a variant's distances, by column."""
    table = study.table
    of = table[(table["variant"] == variant) & (table["game"] == game) & table["metric"].str.endswith(("_low", "_high"))]
    return dict(zip(of["metric"], of["value"], strict=True))


def _means(rows: "pd.DataFrame") -> dict[str, float]:
    return {str(metric): float(value) for metric, value in rows.groupby("metric")["value"].mean().items()}


def _quality(value: Mapping[str, float], ends: Mapping[str, float]) -> Sequence[Cell]:
    cells = []
    for name, digits in _QUALITY.items():
        cell = number(value.get(name), digits)
        low, high = (number(ends.get(f"{name}_{end}", math.nan), digits) for end in ("low", "high"))
        cells.append(Cell(cell.value, f"{cell.text} [{low.text}, {high.text}]") if low.value is not None else cell)
    return cells

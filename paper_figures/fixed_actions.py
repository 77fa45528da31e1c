"""Figures 10 to 12: evaluations that also imagined fixed actions, their trajectories, and the same start under each fixed action."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diamond_bench.errors import UserError
from diamond_bench.report.drawing import Drawn, scale_warning, stored_arrays
from diamond_bench.report.figures import frame_times
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies.plan import Point
from paper_figures.parts import Inputs, Output, StudyResults, slug, study_source

if TYPE_CHECKING:
    import numpy as np

    from analysis.chart import Chart

FILE = "media/fixed_actions.npz"
_COLUMNS = 8


@dataclass(frozen=True)
class Evaluated:
    """The finished evaluations of one game of a study that imagined fixed actions: the lowest seed of each variant."""

    study: StudyResults
    game: str
    points: tuple[Point, ...]

    @property
    def caption(self) -> str:
        """Notes that every figure of it needs."""
        return "; ".join([f"{self.study.plan.study}, {self.game}", f"scale {self.study.plan.scale}", *self.study.notes])

    def arrays(self, inputs: Inputs, point: Point, file: str, *names: str) -> "dict[str, np.ndarray]":
        """Arrays of an evaluation's file. Raises UserError if it is damaged."""
        return stored_arrays(inputs.store, point.jobs["evaluation"], file, *names)


def evaluated(inputs: Inputs) -> Iterator[Evaluated]:
    """The studies' games, in order."""
    for study in inputs.studies:
        found: dict[str, dict[str, Point]] = {}
        for point in sorted(study.plan.points, key=lambda point: point.seed):
            ref = point.jobs.get("evaluation")
            if ref is None or ref.kind != "evaluate_world_model" or ref.id not in study.results:
                continue
            if _imagined_them(inputs.store, ref):
                found.setdefault(point.game, {}).setdefault(point.variant, point)
        for game in dict.fromkeys(point.game for point in study.plan.points):
            if game in found:
                order = dict.fromkeys(point.variant for point in study.plan.points)
                yield Evaluated(study, game, tuple(found[game][name] for name in order if name in found[game]))


def _imagined_them(store: Store, ref: JobRef) -> bool:
    try:
        return bool(store.spec(ref).config.evaluation.fixed_actions)
    except UserError:  # its config belongs to another version
        return False


def trajectories(inputs: Inputs) -> Output:
    """A figure for each game: true frames, and those of each variant from the same start with the same actions."""

    def figures() -> Iterator[tuple[Evaluated, str, "Chart", str]]:
        from analysis.figures import trajectory_figure

        for of in evaluated(inputs):
            kept = {point.variant: of.arrays(inputs, point, "media/frames.npz", "true", "imagined") for point in of.points}
            true = next(iter(kept.values()))["true"][0]
            imagined = {variant: arrays["imagined"][0] for variant, arrays in kept.items()}
            caption = f"{of.caption}; one held-out trajectory, the same start and true actions in every row; lowest seed of each variant"
            yield of, "", trajectory_figure(true, imagined, frame_times(len(true), _COLUMNS)), caption

    return _output(inputs, figures, "imagined trajectories on other data", "figure10")


def same_start(inputs: Inputs, continuous: bool, what: str, name: str) -> Output:
    """A figure for each game and variant: one start under each fixed action, of games whose actions are numbers (`continuous`) or of all
    others."""

    def figures() -> Iterator[tuple[Evaluated, str, "Chart", str]]:
        from analysis.figures import trajectory_figure

        for of in evaluated(inputs):
            for point in of.points:
                found = of.arrays(inputs, point, FILE, "names", "kind", "frames")
                if (str(found["kind"]) == "Box") != continuous:
                    continue
                true = of.arrays(inputs, point, "media/frames.npz", "true")["true"][0]
                rows = dict(zip(found["names"].tolist(), found["frames"], strict=True))
                caption = (
                    f"{of.caption}; {point.variant}, seed {point.seed}; the same start and noise in every row, each action held; "
                    "+ and −: half way to the end of its range; top row: the true frames with their own actions"
                )
                yield of, point.variant, trajectory_figure(true, rows, frame_times(len(true), _COLUMNS)), caption

    return _output(inputs, figures, what, name)


def _output(inputs: Inputs, figures: Callable[[], Iterator[tuple[Evaluated, str, "Chart", str]]], what: str, name: str) -> Output:
    drawn: dict[str, Drawn] = {}
    jobs: dict[str, tuple[StudyResults, list[str]]] = {}
    for of, variant, figure, caption in figures():
        words = (of.study.plan.study, of.study.plan.scale, of.game, variant)
        drawn[slug(*(word for word in words if word), taken=drawn)] = Drawn(figure, caption, scale_warning(of.study.plan.scale))
        ids = jobs.setdefault(of.study.name, (of.study, []))[1]
        ids += [point.jobs["evaluation"].id for point in of.points]
    lacks = () if drawn else (inputs.lack("table8", what, name),)
    footnotes = tuple(dict.fromkeys(remark for study, _ in jobs.values() for remark in study.remarks))
    return Output(figures=drawn, footnotes=footnotes, sources=tuple(study_source(*of) for of in jobs.values()), lacks=lacks)

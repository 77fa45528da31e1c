"""Imagined frames and drift of studies for figures: selects jobs and rows, and reads their files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diamond_bench.report.drawing import stored_arrays
from diamond_bench.studies.plan import Point
from paper_figures.parts import Inputs, StudyResults, slug

if TYPE_CHECKING:
    import numpy as np

_STEPS = "sampler.num_steps"


@dataclass(frozen=True)
class Group:
    """Finished evaluations of one game that differ in the number of denoising steps, of one arm or of an EDM and a DDPM arm."""

    study: StudyResults
    game: str
    arms: Mapping[str, str]
    """Title -> arm: one, or DDPM and EDM."""
    at: Mapping[str, Any]
    """The value at which every other axis is shown."""
    points: tuple[Point, ...]
    steps: str
    """The axis of the number of steps."""

    @property
    def slug(self) -> str:
        """For a file's name."""
        return slug(self.study.plan.study, self.study.plan.scale, self.game, self.arm)

    @property
    def arm(self) -> str:
        """The common part of the arms' names, such as `controlled/ k=1`."""
        arms = list(self.arms.values())
        return arms[0] if len(arms) == 1 else arms[0].replace("ddpm", "")

    @property
    def caption(self) -> str:
        """Notes that every figure of it needs."""
        where = [f"{name} = {value}" for name, value in self.at.items()]
        arms = [f"arm{'s' * (len(self.arms) > 1)} {' and '.join(self.arms.values())}"] if any(self.arms.values()) else []
        return "; ".join([f"{self.study.plan.study}, {self.game}", *arms, *where, f"scale {self.study.plan.scale}", *self.study.notes])

    def of(self, title: str) -> "dict[int, list[Point]]":
        """The points of an arm by their number of steps, fewest first."""
        found: dict[int, list[Point]] = {}
        for point in self.points:
            if point.arm == self.arms[title]:
                found.setdefault(int(point.axes[self.steps]), []).append(point)
        return dict(sorted(found.items()))


def pairs(inputs: Inputs) -> Iterator[Group]:
    """Groups that pair an arm of DDPM with the corresponding arm of EDM: `group/ddpm ...` and `group/edm ...`. Crossed samplers (`+`) form
    groups of their own."""
    for study in inputs.studies:
        arms = list(dict.fromkeys(point.arm for point in study.plan.points))
        for arm in arms:
            other = arm.replace("edm", "ddpm", 1)
            if "edm" in arm and "+" not in arm and other in arms:
                yield from _groups(study, {"DDPM": other, "EDM": arm})


def singles(inputs: Inputs) -> Iterator[Group]:
    """Groups of studies along the number of steps, which only one of their arms varies. Other arms are references at one number."""
    for study in inputs.studies:
        numbers: dict[str, set[Any]] = {}
        for point in study.plan.points:
            numbers.setdefault(point.arm, set()).update(point.axes[name] for name in _step_axes(study))
        varied = [arm for arm, found in numbers.items() if len(found) > 1 or len(numbers) == 1]
        if len(varied) == 1:
            yield from _groups(study, {study.plan.study: varied[0]})


def _step_axes(study: StudyResults) -> list[str]:
    return [name for name, axis in study.plan.axes.items() if axis["key"] == _STEPS]


def _groups(study: StudyResults, arms: Mapping[str, str]) -> Iterator[Group]:
    steps = next(iter(_step_axes(study)), None)
    of_arms = [p for p in study.plan.points if p.arm in arms.values()]
    done = [p for p in of_arms if "evaluation" in p.jobs and p.jobs["evaluation"].kind == "evaluate_world_model"]
    done = [p for p in done if p.jobs["evaluation"].id in study.results]
    if steps is None:
        return
    at = {name: of_arms[-1].axes[name] for name in study.plan.axes if name != steps}
    shown = [p for p in done if all(p.axes[name] == value for name, value in at.items())]
    for game in dict.fromkeys(p.game for p in shown):
        of_game = tuple(p for p in shown if p.game == game)
        if {p.arm for p in of_game} == set(arms.values()):
            yield Group(study, game, arms, at, of_game, steps)


def frames(inputs: Inputs, group: Group) -> "tuple[np.ndarray, dict[str, dict[str, np.ndarray]], int]":
    """The true frames of one held-out trajectory, what was imagined by title of arm and by row (`n = 3`), and the run's seed.

    The seed is the lowest that every row has. Raises ValueError if there is none, or if rows belong to different true trajectories.
    """
    import numpy as np

    by_title = {title: group.of(title) for title in group.arms}
    seeds = set.intersection(*({p.seed for p in points} for of_arm in by_title.values() for points in of_arm.values()))
    if not seeds:
        raise ValueError("no seed is finished in every row")
    seed, true = min(seeds), None
    imagined: dict[str, dict[str, Any]] = {title: {} for title in group.arms}
    for title, of_arm in by_title.items():
        for n, points in of_arm.items():
            point = next(p for p in points if p.seed == seed)
            kept = arrays(inputs, point, "media/frames.npz", "true", "imagined")
            if true is not None and not np.array_equal(true, kept["true"][0]):
                raise ValueError("its rows would be of different true trajectories")
            true = kept["true"][0]
            imagined[title][f"n = {n}"] = kept["imagined"][0]
    assert true is not None
    return true, imagined, seed


def arrays(inputs: Inputs, point: Point, file: str, *names: str) -> "dict[str, np.ndarray]":
    """Arrays of an evaluation's file. If the file is damaged, raises UserError and sets the job aside; the next sweep repeats it."""
    return stored_arrays(inputs.store, point.jobs["evaluation"], file, *names)


def remarks(groups: Sequence[Group]) -> tuple[str, ...]:
    """The footnotes of the studies shown."""
    return tuple(dict.fromkeys(note for group in groups for note in group.study.remarks))


def jobs(groups: Sequence[Group]) -> dict[str, tuple[StudyResults, list[str]]]:
    """The evaluations shown, by study."""
    found: dict[str, tuple[StudyResults, list[str]]] = {}
    for group in groups:
        found.setdefault(group.study.name, (group.study, []))[1].extend(p.jobs["evaluation"].id for p in group.points)
    return found

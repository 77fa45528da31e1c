"""Figure 5: consecutive frames imagined by token models and by diffusion, and the scores of IRIS and DIAMOND in the paper's games."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from diamond_bench.report.drawing import Drawn, scale_warning
from diamond_bench.studies.plan import Point
from paper_figures.columns import own, published
from paper_figures.imagined import arrays
from paper_figures.methods import DIAMOND, MEAN, WORLD_MODELS
from paper_figures.parts import Inputs, Output, StudyResults, slug, study_source
from paper_figures.score_tables import score_table

GAMES = ("Asterix", "Breakout", "RoadRunner")
"""The games of the paper's figure."""
_FRAMES = 9
_FAMILIES = ("tokens", None)
"""The families of the rows. None is diffusion."""


def make(inputs: Inputs) -> Output:
    """A table of published scores and of agents of studies, and one figure for each study and game with both families."""
    from analysis.figures import trajectory_figure

    methods = (*(method for method in WORLD_MODELS if method.name == "IRIS"), DIAMOND)
    table = score_table([*(published(method) for method in methods), *own(inputs)], GAMES, "Figure 5", aggregates=(MEAN,), printed=())
    figures: dict[str, Drawn] = {}
    notes, sources = [], list(table.sources)
    for study in inputs.studies:
        for game, variants in both_families(inputs, study).items():
            where = f"{study.plan.study}, {game}, scale {study.plan.scale}"
            seeds = set.intersection(*({point.seed for point in points} for points in variants.values()))
            shown = {name: next(p for p in points if p.seed == min(seeds)) for name, points in variants.items()} if seeds else {}
            kept = {name: arrays(inputs, point, "media/frames.npz", "true", "imagined") for name, point in shown.items()}
            true = [stored["true"][0] for stored in kept.values()]
            if not kept or any((frames != true[0]).any() for frames in true[1:]):
                notes.append(f"{where}: left out, no seed is finished in every row with the same true trajectory.")
                continue
            imagined = {name: stored["imagined"][0] for name, stored in kept.items()}
            figure = trajectory_figure(true[0], imagined, range(1, min(_FRAMES, len(true[0])) + 1))
            caption = f"{where}; the first frames of one held-out trajectory, the same start and actions in every row; seed {min(seeds)}"
            name = slug(study.plan.study, study.plan.scale, game, taken=figures)
            figures[name] = Drawn(figure, "; ".join([caption, *study.notes]), scale_warning(study.plan.scale))
            sources.append(study_source(study, [point.jobs["evaluation"].id for point in shown.values()]))
            notes += study.remarks
    lack = inputs.lack("world_model_families", "frames imagined by a token model and by diffusion", "figure5")
    return replace(table, figures=figures, footnotes=tuple(dict.fromkeys(notes)), sources=tuple(sources), lacks=() if figures else (lack,))


def both_families(inputs: Inputs, study: StudyResults) -> Mapping[str, Mapping[str, Sequence[Point]]]:
    """The finished evaluations of each game and variant of token models and of diffusion, for games that have both."""
    found: dict[str, dict[str | None, dict[str, list[Point]]]] = {}
    for point, family in _families(inputs, study):
        if family in _FAMILIES:
            found.setdefault(point.game, {}).setdefault(family, {}).setdefault(point.variant, []).append(point)
    return {game: {**of[_FAMILIES[0]], **of[_FAMILIES[1]]} for game, of in found.items() if len(of) == len(_FAMILIES)}


def _families(inputs: Inputs, study: StudyResults) -> Iterator[tuple[Point, str | None]]:
    for point in study.plan.points:
        ref = point.jobs["evaluation"]
        if ref.kind == "evaluate_world_model" and ref.id in study.results:
            family = inputs.store.spec(ref).config.family
            yield point, None if family is None else family.name

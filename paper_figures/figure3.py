"""Figure 3: trajectories imagined by a DDPM and by an EDM world model, with one row per number of denoising steps."""

from diamond_bench.report.drawing import Drawn, scale_warning
from diamond_bench.report.figures import frame_times
from paper_figures.imagined import Group, frames, jobs, pairs, remarks
from paper_figures.parts import Inputs, Output, slug, study_source

_COLUMNS = 6


def make(inputs: Inputs) -> Output:
    """A figure for each pair of arms and each game, from the frames that evaluations keep."""
    from analysis.score_figures import TrajectoryBlock, side_by_side_figure

    figures: dict[str, Drawn] = {}
    shown, notes = list[Group](), list[str]()
    for group in pairs(inputs):
        try:
            true, imagined, seed = frames(inputs, group)
        except ValueError as error:
            notes.append(f"{group.caption}: left out, {error}.")
            continue
        blocks = [TrajectoryBlock(title, rows) for title, rows in imagined.items()]
        figure = side_by_side_figure(true, blocks, frame_times(len(true), _COLUMNS))
        caption = f"{group.caption}; one held-out trajectory, the same start and actions in every row; seed {seed}"
        name = slug(group.slug, taken=figures)
        figures[name] = Drawn(figure, caption, scale_warning(group.study.plan.scale))
        shown.append(group)
    lacks = () if shown else (inputs.lack("diffusion_objective", "imagined trajectories of DDPM and EDM", "figure3"),)
    sources = tuple(study_source(study, found) for study, found in jobs(shown).values())
    return Output(figures=figures, footnotes=(*notes, *remarks(shown)), sources=sources, lacks=lacks)

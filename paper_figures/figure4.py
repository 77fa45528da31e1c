"""Figure 4: frames imagined with one denoising step and with several. In Boxing the opponent blurs."""

import shlex

from diamond_bench.report.drawing import Drawn, scale_warning
from diamond_bench.report.figures import frame_times
from paper_figures.imagined import Group, frames, jobs, remarks, singles
from paper_figures.parts import Inputs, Lack, Output, slug, study_source

GAME = "Boxing"
_COLUMNS = 9


def _with_boxing(group: Group) -> str:
    """The study's command with Boxing added to its games. A plan at the same scale replaces the earlier one."""
    games = dict.fromkeys([*(point.game for point in group.study.plan.points), GAME])
    words = [word for word in shlex.split(group.study.plan.command) if not word.startswith("games=")]
    return shlex.join([*words, f"games=[{','.join(games)}]"])


def make(inputs: Inputs) -> Output:
    """One figure per study: of Boxing if it is finished, else of another game, with a note."""
    from analysis.figures import trajectory_figure

    figures: dict[str, Drawn] = {}
    shown, notes, lacks = list[Group](), list[str](), list[Lack]()
    found: dict[str, list[Group]] = {}
    for group in singles(inputs):
        found.setdefault(group.study.name, []).append(group)
    for groups in found.values():
        group = next((g for g in groups if g.game == GAME), groups[0])
        title = next(iter(group.arms))
        several = {n for n in group.of(title) if n > 1}
        if 1 not in group.of(title) or not several:
            notes.append(f"{group.caption}: left out, it has not both one step and several.")
            continue
        try:
            true, imagined, seed = frames(inputs, group)
        except ValueError as error:
            notes.append(f"{group.caption}: left out, {error}.")
            continue
        other = "" if group.game == GAME else f"; {group.game} in place of the paper's {GAME}"
        caption = f"{group.caption}{other}; one held-out trajectory, the same start and actions in every row; seed {seed}"
        figure = trajectory_figure(true, imagined[title], frame_times(len(true), _COLUMNS))
        name = slug(group.slug, taken=figures)
        figures[name] = Drawn(figure, caption, scale_warning(group.study.plan.scale))
        shown.append(group)
        if other:
            lacks.append(Lack(f"{GAME}: {group.study.name} has no finished trajectories of it", _with_boxing(group)))
    if not shown:
        lacks.append(inputs.lack("sampling_steps", f"{GAME} imagined with one step and with several", "figure4"))
    sources = tuple(study_source(study, jobs_of) for study, jobs_of in jobs(shown).values())
    return Output(figures=figures, footnotes=(*notes, *remarks(shown)), sources=sources, lacks=tuple(lacks))

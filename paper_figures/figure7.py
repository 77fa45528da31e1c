"""Figure 7: performance profiles, the share of runs and games above each human-normalised score."""

from diamond_bench.report.drawing import Drawn
from paper_figures.attained import NOT_SIMULATED
from paper_figures.columns import Column, no_findings, notes_between, of_runs, own
from paper_figures.looks import looks_of
from paper_figures.methods import WORLD_MODELS
from paper_figures.parts import SEED, Inputs, Output
from paper_figures.tables import sentence

_TOP, _POINTS = 8.0, 161


def make(inputs: Inputs) -> Output:
    """The methods of the paper whose runs are published, then the user's own."""
    import numpy as np
    import pandas as pd

    from analysis.aggregates import REPLICATES, Profile, performance_profile, profile_shares
    from analysis.score_figures import profile_figure
    from analysis.scores import ScoreError, general_footnotes

    taus = np.linspace(0.0, _TOP, _POINTS)
    profiles: dict[str, Profile] = {}
    notes: list[str] = []
    shown: list[Column] = []
    for column in [*(of_runs(method, iqm=False) for method in WORLD_MODELS if method.runs), *own(inputs)]:
        notes += column.notes
        try:
            matrix = column.matrix()
            if not column.has_runs:
                notes.append(f"{column.one_line}: left out; a profile of means is not a profile of runs.")
                continue
        except ScoreError as error:
            notes.append(sentence(error))
            continue
        try:
            profiles[column.one_line] = performance_profile(matrix, taus, SEED)
        except ScoreError as error:
            notes.append(sentence(error))
            nothing = np.full(len(taus), np.nan)
            profiles[column.one_line] = Profile(taus, profile_shares(matrix, taus), nothing, nothing)
        shown.append(column)
    notes.append("TWM: left out; Table 1 has the means of its 26 games, whose profile is not one of runs. --method TWM adds its runs.")
    basis = f"Bands: pointwise 95%, stratified bootstrap over runs, {REPLICATES} replicates, seed {SEED}."
    drawn = {column.drawn: profiles[column.one_line] for column in shown}
    caption = f"{basis} TWM, of which Table 1 has only means, is left out.{no_findings(shown)}"
    figure = profile_figure(drawn, looks=looks_of(shown, inputs))
    tidy = [pd.DataFrame({"method": name, "tau": p.taus, "share": p.share, "low": p.low, "high": p.high}) for name, p in profiles.items()]
    sources = tuple(dict(source) for column in shown for source in column.sources)
    footnotes = tuple(dict.fromkeys([NOT_SIMULATED, *notes, *general_footnotes(), *notes_between(shown, intervals=True)]))
    return Output(figures={"": Drawn(figure, caption)}, data=pd.concat(tidy), footnotes=footnotes, sources=sources)

"""Figure 8: the average pixel distance between imagined and true trajectories against t, DDPM and EDM, several numbers of steps."""

from diamond_bench.report.drawing import Drawn, scale_warning
from paper_figures.imagined import Group, arrays, jobs, pairs, remarks, singles
from paper_figures.parts import Inputs, Output, slug, study_source


def make(inputs: Inputs) -> Output:
    """One figure for each pair of arms and each game, or for the single arm of a study. The band is one standard deviation."""
    import numpy as np
    import pandas as pd

    from analysis.curves import Curve
    from analysis.figures import DriftPanel, drift_figure

    figures: dict[str, Drawn] = {}
    tidy = []
    paired, single = list(pairs(inputs)), list(singles(inputs))
    for group in (*paired, *single):
        panels = []
        for title in group.arms:
            curves = {}
            for n, points in group.of(title).items():
                drift = np.concatenate([arrays(inputs, p, "arrays.npz", "drift")["drift"].astype(np.float64) for p in points])
                mean, spread = drift.mean(axis=0), drift.std(axis=0, ddof=1 if len(drift) > 1 else 0)
                curve = Curve(mean, np.maximum(mean - spread, 0.0), mean + spread, len(points), len(drift) // len(points), "spread")
                curves[f"n = {n}"] = curve
                t = np.arange(1, len(mean) + 1)
                labels = {"study": group.study.plan.study, "scale": group.study.plan.scale, "game": group.game, "arm": group.arms[title]}
                numbers = {"n": n, "t": t, "mean": mean, "standard_deviation": spread, "trajectories": len(drift), "seeds": len(points)}
                tidy.append(pd.DataFrame({**labels, **numbers}))
            panels.append(DriftPanel(group.game if len(group.arms) == 1 else f"{group.game}: {title}", curves))
        counts = sorted({sum(c.num_trajectories * c.num_seeds for c in [curve]) for p in panels for curve in p.curves.values()})
        basis = f"mean and standard deviation over {' or '.join(map(str, counts))} imagined trajectories (all seeds)"
        caption = f"{group.caption}; {basis}; distance: mean absolute pixel error of frames in [0, 1]"
        name = slug(group.slug, taken=figures)
        figures[name] = Drawn(
            drift_figure(panels, ordered=True, ylabel="mean absolute pixel error"), caption, scale_warning(group.study.plan.scale)
        )
    shown: list[Group] = [*paired, *single]
    lacks = [] if paired else [inputs.lack("diffusion_objective", "drift of DDPM and EDM", "figure8")]
    sources = tuple(study_source(study, found) for study, found in jobs(shown).values())
    data = pd.concat(tidy) if tidy else None
    return Output(figures=figures, data=data, footnotes=remarks(shown), sources=sources, lacks=tuple(lacks))

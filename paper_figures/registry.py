"""Every table and figure that `diamond-bench paper` makes: one line and one module per artifact."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from diamond_bench.errors import UserError, nearest
from paper_figures.parts import Inputs, Output


@dataclass(frozen=True)
class Artifact:
    """A table or figure: its title, and the module whose `make` makes it."""

    title: str
    module: str
    ranks: bool = False
    """Whether it ranks or aggregates final scores of test episodes."""

    def make(self, inputs: Inputs) -> Output:
        """The artifact from these inputs."""
        return cast(Callable[[Inputs], Output], importlib.import_module(f"paper_figures.{self.module}").make)(inputs)


ARTIFACTS: dict[str, Artifact] = {
    "table1": Artifact("Table 1: scores of world models on 26 Atari games", "table1", ranks=True),
    "figure2": Artifact("Figure 2: mean and IQM of human-normalised scores", "figure2", ranks=True),
    "figure3": Artifact("Figure 3: imagined trajectories of DDPM and EDM", "figure3"),
    "figure4": Artifact("Figure 4: one denoising step against several", "figure4"),
    "figure5": Artifact("Figure 5: token models and diffusion, IRIS and DIAMOND", "figure5", ranks=True),
    "section5_3": Artifact("Section 5.3: errors of objects, token models against diffusion", "section5_3"),
    "table4": Artifact("Table 4: parameters, training time, mean HNS", "table4", ranks=True),
    "table5": Artifact("Table 5: time profile of a training", "table5"),
    "figure7": Artifact("Figure 7: performance profiles", "figure7", ranks=True),
    "table6": Artifact("Table 6: scores of search and model-free methods", "table6", ranks=True),
    "table7": Artifact("Table 7: three denoising steps against one", "table7", ranks=True),
    "figure8": Artifact("Figure 8: average pixel distance against t", "figure8"),
    "table8": Artifact("Table 8: visual quality, rate and size of world models", "table8"),
    "figure10": Artifact("Figure 10: trajectories imagined on other data than Atari", "figure10"),
    "figure11": Artifact("Figure 11: the same start under different fixed driving actions", "figure11"),
    "figure12": Artifact("Figure 12: the same start under different fixed keys", "figure12"),
    "probability_of_improvement": Artifact("Probability of improvement over each method", "probability_of_improvement", ranks=True),
    "optimality_gap": Artifact("Median and optimality gap", "optimality_gap", ranks=True),
    "per_game": Artifact("Human-normalised score of each game", "per_game", ranks=True),
    "sample_efficiency": Artifact("Sample efficiency: IQM of human-normalised scores against real steps", "sample_efficiency"),
    "paired_differences": Artifact("Differences between a study's variants", "paired_differences"),
}
"""In the paper's order, then what it lacks."""


def wanted(names: Sequence[str]) -> list[str]:
    """The artifacts named, each once, in the registry's order; `all` or none is all of them. Raises UserError, naming the nearest."""
    for name in names:
        if name != "all" and name not in ARTIFACTS:
            raise UserError(f"unknown artifact {name!r}: {nearest(name, [*ARTIFACTS, 'all'])}")
    return [name for name in ARTIFACTS if name in names or "all" in names or not names]


def refuse_training_episodes(names: Sequence[str], curves: Sequence[str]) -> None:
    """Raises UserError where an artifact that ranks scores of test episodes is asked for with a method of training episodes alone."""
    ranking = [name for name in names if ARTIFACTS[name].ranks]
    if ranking and curves:
        from analysis.score_curves import not_rankable

        raise UserError(f"--method {not_rankable(curves[0])}; ask for that alone, without {', '.join(ranking)}")

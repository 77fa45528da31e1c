"""The trainings behind the agents of a study: their jobs, the agents' sizes, their durations, and their test scores during training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diamond_bench.config import OdeSampler, predicts_outcomes, world_family
from diamond_bench.errors import UserError
from diamond_bench.models.actor_critic_cost import actor_critic_cost
from diamond_bench.models.description import AgentDescription
from diamond_bench.models.reward_end_cost import reward_end_cost
from diamond_bench.report.drawing import stored_arrays
from diamond_bench.report.facts import device_name
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import DamagedFile, read_json
from diamond_bench.studies.agents import AGENT_FOLDER, DESCRIPTION_FILE
from diamond_bench.studies.plan import Point
from diamond_bench.typed import build
from paper_figures.parts import StudyResults
from paper_figures.tables import Cell, number

if TYPE_CHECKING:
    import numpy as np

_DAY = 86400.0


def trained(study: StudyResults, variant: str) -> list[Point]:
    """The points of a variant whose agent is a finished training of this study."""
    points = [point for point in study.plan.points if point.variant == variant and "agent" in point.jobs]
    return [point for point in points if point.jobs["agent"].kind == "train_agent" and point.jobs["agent"].id in study.results]


def size_cell(study: StudyResults, variant: str, store: Store) -> Cell:
    """Million trained parameters of an agent (world model, reward/end model, policy): their mean over games, whose actions differ.

    Raises UserError where an agent's description is damaged.
    """
    points = {point.game: point for point in reversed(trained(study, variant))}  # one run a game
    counts = [_parameters(store, point) / 1e6 for point in points.values()]
    if not counts:
        return Cell()
    low, high, mean = min(counts), max(counts), sum(counts) / len(counts)
    between = f"{study.label(variant)}: {low:.3f} to {high:.3f} million parameters, by the game's number of actions; here their mean."
    return number(mean, 2, notes=[] if low == high else [between])


def _parameters(store: Store, point: Point) -> int:
    file = store.folder(point.jobs["agent"]) / AGENT_FOLDER / DESCRIPTION_FILE
    try:
        agent = build(AgentDescription, read_json(file))
    except (OSError, TypeError, DamagedFile, UserError) as error:
        raise UserError(f"{file} is damaged ({error}); run the study's sweep again, which repeats the job") from None
    given = ActionSpec.discrete(agent.num_actions), FrameSpec.square(agent.frame_size)
    policy = actor_critic_cost(agent.actor_critic, *given).parameters
    if agent.model_free:
        return policy
    family, spec = world_family(agent.family), WorldSpec(given[1], given[0])
    world = family.cost(agent.family or agent, spec, OdeSampler()).parameters
    signals = 0 if predicts_outcomes(agent) else reward_end_cost(agent.reward_end, *given).parameters
    return world + signals + policy


def days_cell(study: StudyResults, variant: str) -> Cell:
    """Days of one training, the mean over the finished ones; a footnote says on what, and how much they differ."""
    seconds, devices = [], dict[str, None]()
    for point in trained(study, variant):
        result = study.results[point.jobs["agent"].id]
        seconds += [float(row["value"]) for row in result.rows if row["metric"] == "training_seconds"]
        devices[device_name(result.recorded)] = None
    if not seconds:
        return Cell()
    days = [value / _DAY for value in seconds]
    runs = f"{len(days)} {'training' if len(days) == 1 else 'trainings'}"
    spread = "" if len(days) == 1 else f", {min(days):.2g} to {max(days):.2g} days, here their mean"
    note = f"{study.label(variant)}: {runs} on {', '.join(devices)}{spread}; test games included."
    mean = sum(days) / len(days)
    return Cell(mean, f"{mean:.2g}", notes=(note,))


def rounds(point: Point, store: Store) -> "Mapping[str, np.ndarray]":
    """The rounds of test games of a training: real_steps and test_return, each (rounds,); the last epochs collect no further steps.

    Empty where the training played none. Where the file is damaged, raises UserError and sets the job aside.
    """
    kept = stored_arrays(store, point.jobs["agent"], "arrays.npz", "test_real_steps", "test_return", optional=True)
    if not len(kept.get("test_return", ())):
        return {}
    return {"real_steps": kept["test_real_steps"], "test_return": kept["test_return"]}

"""How the metrics of world models rank the agents that learned in them: one row per agent with both evaluations."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diamond_bench.config import EvaluationConfig, world_family
from diamond_bench.config.worlds import DIAMOND
from diamond_bench.errors import UserError
from diamond_bench.metrics.columns import METRIC_INFO, metric_label
from diamond_bench.report.drawing import Drawn, StudyFigure, slug
from diamond_bench.report.write import draw_figures, write_table
from diamond_bench.results.table import conditions
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import require_folders
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import EvaluateWorldModel, TrainAgent
from diamond_bench.studies.agents import AGENT_KINDS
from diamond_bench.typed import to_plain

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "correlations"
"""Folder of a store with the results of `correlate`."""
OUTCOME = "test_return"
_COMPUTATION = {"metrics", "batch_size", "milestone", "weights", "world_model", "keep_frames", "fixed_actions"}
"""Settings of an evaluation that do not change what a metric means."""


@dataclass(frozen=True)
class Correlated:
    """The rank correlations of the games, and the agents from which they were computed."""

    table: "pd.DataFrame"
    """game, ranked (value, or distance from 1), and the columns of `analysis.correlation.rank_correlations`."""
    agents: "pd.DataFrame"
    """One row per agent: game, agent, cluster (its world model), group (the family of the world model), the outcome and each metric."""
    notes: tuple[str, ...]
    """Sentences on games and agents that are left out."""


def correlate(store: Store, refs: Iterable[JobRef]) -> Correlated:
    """The rank correlations, from the finished evaluations among `refs`.

    A game whose evaluations had different conditions, or with too few agents, is left out with a note. Raises UserError if none is left.
    """
    import pandas as pd

    from analysis.correlation import COLUMNS, MIN_AGENTS, rank_correlations

    agents, notes, alone = _agents(store, [ref for ref in dict.fromkeys(refs) if store.state(ref).status == "done"])
    tables = []
    for game, rows in agents.groupby("game", sort=False):
        if len(rows) < MIN_AGENTS:
            notes.append(f"{game}: {_count(len(rows))} with both evaluations, and a rank correlation needs {MIN_AGENTS}")
            continue
        metrics = [name for name in METRIC_INFO if name != OUTCOME and name in rows and rows[name].notna().any()]
        ranked = ["distance from 1" if METRIC_INFO[name].better == "near 1" else "value" for name in metrics]
        tables.append(rank_correlations(rows, metrics, OUTCOME).assign(game=game, ranked=ranked))
    if not tables:
        without = f" ({_count(alone)} with final games alone)" if alone else ""
        found = "; ".join(notes) or f"no agent has both evaluations{without}, and a rank correlation needs {MIN_AGENTS}"
        raise UserError(f"correlate: {found}; evaluate more agents, and their world models with evaluation.world_model=AGENT")
    metric, *others = COLUMNS
    return Correlated(pd.concat(tables, ignore_index=True)[["game", metric, "ranked", *others]], agents, tuple(notes))


def _count(number: int) -> str:
    return f"{number} agent{'' if number == 1 else 's'}"


def _agents(store: Store, done: Sequence[JobRef]) -> "tuple[pd.DataFrame, list[str], int]":
    """The table of agents, notes on the games and agents that it lacks, and the number of agents whose world models were not evaluated."""
    import pandas as pd

    worlds, measured = _worlds(store, [ref for ref in done if ref.kind == "evaluate_world_model"])
    returns: dict[JobRef, list[float]] = {}
    alone: set[JobRef] = set()
    played: dict[str, dict[str, str]] = {}
    for ref in (ref for ref in done if ref.kind == "evaluate_agent"):
        agent = store.spec(ref).inputs["agent"]
        world = _world_of(store, agent)
        if world not in worlds:
            alone.add(agent)
            continue
        result = store.result(ref)
        returns.setdefault(agent, []).extend(row["value"] for row in result.rows if row["metric"] == OUTCOME)
        said = conditions(result.info.get("protocol_record") or {}, world[0])
        played.setdefault(world[0], {})[said] = str(ref)
    refused = {game: _difference("world models", several) for game, several in measured.items() if len(several) > 1}
    refused |= {game: _difference("agents", several) for game, several in played.items() if len(several) > 1}
    notes = [f"{game}: {reason}; name studies that have one" for game, reason in refused.items()]
    rows = []
    for agent, values in returns.items():
        world = _world_of(store, agent)
        if world[0] in refused:
            continue
        sampler, evaluated = _sampler_of(store, agent), worlds[world]
        if sampler is None and len(evaluated) == 1:
            (sampler,) = evaluated
        if sampler is None or sampler not in evaluated:
            learned, others = "an unknown sampler" if sampler is None else sampler, " and ".join(evaluated)
            notes.append(f"{world[0]}: {agent} is left out: it learned with {learned}, and its world model was evaluated with {others}")
            continue
        own = {"game": world[0], "agent": str(agent), "cluster": world[1], "group": world[2], OUTCOME: sum(values) / len(values)}
        rows.append({**own, **evaluated[sampler]})
    return pd.DataFrame(rows, columns=None if rows else ["game"]), notes, len(alone)


World = tuple[str, str, str]
"""The game, a name of the world model, and its family."""


def _world_of(store: Store, agent: JobRef) -> World:
    """The world model that an agent learned in: its own one, or an untrained one with its settings."""
    config = store.spec(agent).config
    family = config.family if isinstance(config, TrainAgent) else None
    if family is not None and not world_family(family).trained:
        return (config.game, _untrained(family, config.env), family.name)
    return (config.game, str(agent), DIAMOND if family is None else family.name)


def _untrained(family: Any, env: Any) -> str:
    return str(to_plain(family) | {"env": to_plain(env)})


def _sampler_of(store: Store, agent: JobRef) -> str | None:
    """The settings of the sampler with which an agent's world model imagined. None if they are unknown, because it was imported."""
    config = store.spec(agent).config
    return _sampler(config.sampler) if isinstance(config, TrainAgent) else None


def _sampler(sampler: Any) -> str:
    settings = to_plain(sampler)
    neutral = to_plain(type(sampler)())
    changed = [f"{key}={value}" for key, value in settings.items() if key != "name" and value != neutral[key]]
    return " ".join(["sampler", str(settings["name"]), *changed])


def _worlds(store: Store, evaluations: Sequence[JobRef]) -> tuple[dict[World, dict[str, dict[str, float]]], dict[str, dict[str, str]]]:
    """The mean of each metric over the evaluations of a world model with one sampler, by its settings. A metric that is best at 1 is the
    mean distance from 1. Also an evaluation for each condition of a game."""
    values: dict[World, dict[str, dict[str, list[float]]]] = {}
    measured: dict[str, dict[str, str]] = {}
    for ref in evaluations:
        spec = store.spec(ref)
        world = _evaluated(store, spec)
        if world is None:
            continue
        of_sampler = values.setdefault(world, {}).setdefault(_sampler(spec.config.sampler), {})
        for row in store.result(ref).rows:
            column = METRIC_INFO.get(row["metric"])
            if column and column.better and not (column.cost or column.detail or row.get("baseline")):
                value = float(row["value"])
                of_sampler.setdefault(row["metric"], []).append(abs(value - 1) if column.better == "near 1" else value)
        measured.setdefault(world[0], {})[_conditions(spec)] = str(ref)
    means = {
        world: {sampler: {name: sum(own) / len(own) for name, own in of.items()} for sampler, of in by_sampler.items()}
        for world, by_sampler in values.items()
    }
    return means, measured


def _evaluated(store: Store, spec: JobSpec) -> World | None:
    """The world model of an evaluation, as `_world_of` names it. None if no agent can have learned in it."""
    config = spec.config
    assert isinstance(config, EvaluateWorldModel)
    model = spec.inputs.get("world_model")
    if model is not None:
        return _world_of(store, model) if model.kind in AGENT_KINDS else None
    dataset = store.spec(spec.inputs["dataset"])
    if config.family is None or dataset.kind != "collect_dataset":
        return None
    return (dataset.config.game, _untrained(config.family, dataset.config.env), config.family.name)


def _conditions(spec: JobSpec) -> str:
    own = {key: value for key, value in vars(spec.config.evaluation).items() if key not in _COMPUTATION}
    neutral = vars(EvaluationConfig())
    changed = [f"{key}={value}" for key, value in own.items() if value != neutral[key]]
    return ", ".join([f"dataset {spec.inputs['dataset'].id}", *changed])


def _difference(what: str, several: Mapping[str, str]) -> str:
    (one, first), (other, second) = list(several.items())[:2]
    return f"{what} were evaluated under different conditions ({first}: {one}; {second}: {other})"


def write_correlations(
    found: Correlated, store: Store, named: Sequence[str], say: Callable[[str], None], captions: bool = False
) -> list[Path]:
    """Writes correlations.csv, agents.csv and a figure for each game into a folder of the store, and returns the files.

    `named`: the words of the command, from which the folder has its name.
    """
    words = slug("-".join(named) or "all")[:80]
    digest = hashlib.sha256("\n".join(named).encode()).hexdigest()[:8]
    folder = store.root / FOLDER / f"{words}-{digest}"
    require_folders(store.root, folder)
    folder.mkdir(parents=True, exist_ok=True)
    tables = [write_table(found.table, folder / "correlations.csv"), write_table(found.agents, folder / "agents.csv")]
    shown, notes = draw_figures(_figures(found), folder, say, captions)
    for note in notes:
        say(note)
    return [*tables, *(file for figure in shown for file in figure.files)]


def _figures(found: Correlated) -> Iterable[StudyFigure]:
    for game in dict.fromkeys(found.table["game"]):
        title = f"Return against metrics: {game}"
        yield StudyFigure(f"correlation-{slug(game)}", "correlation", title, "", partial(_draw, found, game))


def _draw(found: Correlated, game: str) -> Drawn:
    from analysis.correlation import correlation_figure

    rows, agents = (frame[frame["game"] == game] for frame in (found.table, found.agents))
    labels = {
        name: metric_label(name) if ranked == "value" else f"{metric_label(name)}, {ranked}"
        for name, ranked in zip(rows["metric"], rows["ranked"], strict=True)
    }
    figure = correlation_figure(agents, rows, OUTCOME, labels, metric_label(OUTCOME))
    number = int(rows["clusters"].max())
    caption = (
        f"{game}. A point is the mean over the agents of one world model. {_count(len(agents))}, {number} world models, rank correlation"
    )
    return Drawn(figure, f"{caption} with its 95% interval over world models")

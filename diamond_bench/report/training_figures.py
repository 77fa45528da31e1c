"""Training losses of a study: of world models against updates, of agents against epochs and apart for each network."""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from diamond_bench.report.drawing import Drawn, StudyFigure, annotated, named, range_words, slug, stored_file
from diamond_bench.report.facts import config_of
from diamond_bench.report.looks import variant_looks
from diamond_bench.report.mode_figures import group_of
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies.plan import Point, SavedPlan

if TYPE_CHECKING:
    import pandas as pd

    from analysis.looks import Style

_LOG = "metrics.jsonl"
_ROLES = {"train_world_model": "world_model", "train_agent": "agent"}
"""The role of each kind of training that keeps a log of its losses."""
_STEPS = {"train_world_model": "update", "train_agent": "epoch"}
_NETWORKS = {"reward_end": "reward and end model", "actor_critic": "policy (actor-critic)"}
"""The titles of an agent's networks that are not part of its world model."""
_ORDINALS = {0: "first network", 1: "second network"}
_MAX_LINES = 12


def training_figures(plan: SavedPlan, store: Store, done: Collection[JobRef], notes: Sequence[str]) -> Iterator[StudyFigure]:
    """A figure for each game and group of arms whose finished trainings kept a log."""
    found: dict[tuple[str, str, str], list[Point]] = {}
    for point in plan.points:
        for kind, role in _ROLES.items():
            ref = point.jobs.get(role)
            if ref is not None and ref.kind == kind and ref in done:
                found.setdefault((point.game, group_of(point.arm), kind), []).append(point)
    for (game, group, kind), points in found.items():
        if any(_LOG in store.result(point.jobs[_ROLES[kind]]).files for point in points):
            stem = "-".join(part for part in ("losses", slug(game), slug(group)) if part)
            title = ", ".join(part for part in (f"Training losses: {game}", group) if part)
            yield StudyFigure(stem, "losses", title, "", partial(_draw, plan, store, kind, points, "; ".join(notes)))


def _draw(plan: SavedPlan, store: Store, kind: str, points: Sequence[Point], notes: str) -> Drawn | None:
    from analysis.training_figures import MAX_POINTS, binned, loss_figure

    table, lacking, sharing = _losses(store, kind, points)
    if table.empty:
        return None
    number = table["training"].nunique()
    if number > _MAX_LINES:
        raise ValueError(f"{number} trainings do not fit into one picture (at most {_MAX_LINES})")
    seeds = table.groupby("training")["seed"].nunique()
    basis = f"{range_words(seeds, 'seed', 'seeds')}, scale {plan.scale}"
    line = f"line: mean over seeds of the logged training loss, averaged in at most {MAX_POINTS} parts"
    band = "band: from the lowest seed to the highest" if seeds.max() > 1 else ""
    lost = f"{lacking} logged losses that are not finite are left out" if lacking else ""
    figure = loss_figure(binned(table), _STEPS[kind], _looks(plan, sharing))
    return annotated(figure, plan, basis, line, band, _scales(store, kind, points), lost, notes)


def _looks(plan: SavedPlan, sharing: Mapping[str, Sequence[str]]) -> "dict[str, Style]":
    """A training of one variant looks like it. A training that several variants share has no marker, and the colour of the one in the
    middle; that of every variant is grey."""
    from analysis.looks import LINES, Style

    own, found = variant_looks(plan), {}
    for i, (label, names) in enumerate(sharing.items()):
        color = own[names[len(names) // 2]].color if len(sharing) > 1 else "0.2"
        found[label] = own[names[0]] if len(names) == 1 else Style(color, LINES[i % len(LINES)], "None")
    return found


def _losses(store: Store, kind: str, points: Sequence[Point]) -> "tuple[pd.DataFrame, int, dict[str, list[str]]]":
    """The logged losses (network, training, seed, step, loss), the number of those that are not finite and left out, and the variants that
    share each training, by its label."""
    import pandas as pd

    from analysis.training_figures import COLUMNS

    variants: dict[JobRef, list[str]] = {}
    for point in points:
        variants.setdefault(point.jobs[_ROLES[kind]], []).append(point.variant)
    arms = {point.variant: point.arm for point in points}
    seeds = {point.jobs[_ROLES[kind]]: point.seed for point in points}
    rows, lost, sharing = [], 0, dict[str, list[str]]()
    for ref, names in variants.items():
        if _LOG not in store.result(ref).files:
            continue
        label = named(names, arms)
        sharing.setdefault(label, list(dict.fromkeys(names)))
        for network, step, loss in _logged(store, ref):
            if math.isfinite(loss):
                rows.append((network, label, seeds[ref], step, loss))
            else:
                lost += 1
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    if kind == "train_world_model" and (table.groupby("training")["network"].nunique() == 1).all():
        table["network"] = "world model"
    return table, lost, sharing


def _logged(store: Store, ref: JobRef) -> Iterator[tuple[str, int, float]]:
    """Network, step and loss of every line of a training's log. Networks that learn one after the other have steps of their own."""
    config, networks = config_of(store, ref), store.result(ref).info.get("networks", [])
    of_one = config.training.num_steps if ref.kind == "train_world_model" and config is not None else None
    for line in stored_file(store, ref, _LOG).decode().splitlines():
        values: dict[str, Any] = json.loads(line)  # not load_json: a value may be NaN
        step = int(values["step"])
        before = 0 if of_one is None else (step - 1) // of_one
        for key, value in values.items():
            network, slash, name = key.rpartition("/")
            if name == "loss" and slash:
                yield _NETWORKS.get(network, f"world model ({network})"), step, float(value)
            elif name == "loss":
                of_world = f"world model ({networks[before]})" if before < len(networks) else _ORDINALS.get(before, f"network {before + 1}")
                yield of_world, step - before * (of_one or 0), float(value)


def _scales(store: Store, kind: str, points: Sequence[Point]) -> str:
    """A warning where objectives differ: their losses have different scales."""
    configs = [config_of(store, ref) for ref in {point.jobs[_ROLES[kind]] for point in points}]
    known = [config for config in configs if config is not None and (kind == "train_world_model" or config.family is None)]
    objectives = {(config.objective, config.family) for config in known}
    return (
        "losses of different objectives have different scales: compare how they fall, not how high they are" if len(objectives) > 1 else ""
    )

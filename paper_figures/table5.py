"""Table 5: where the time of a training goes: as the paper measured it, and a column for each profile in the store."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from diamond_bench.errors import UserError
from diamond_bench.report.profile_table import lines_of
from diamond_bench.store.artifacts import Store, StoredResult
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.kinds import Profile, TrainAgent
from diamond_bench.studies.agents import training_job
from diamond_bench.studies.plan import run_config
from diamond_bench.studies.single import TIMED_GROUPS, TIMELESS
from diamond_bench.typed import to_plain
from paper_figures.parts import Inputs, Lack, Output, paper_source
from paper_figures.tables import Cell, Head, Table, number, words

_ROWS: tuple[tuple[str, str, float, str], ...] = (
    ("One update of the denoiser", "denoiser_update", 88.0, "ms"),
    ("One update of the reward/end model", "reward_end_update", 115.0, "ms"),
    ("One update of the actor-critic", "actor_critic_update", 340.0, "ms"),
    ("  of which 15 imagination steps, each", "imagination_step", 20.4, "ms"),
    ("    next frame", "next_frame", 12.7, "ms"),
    ("      of which 3 denoising steps, each", "denoiser_call", 4.2, "ms"),
    ("    reward and end", "reward_and_end", 7.0, "ms"),
    ("    action", "action", 0.7, "ms"),
    ("  of which loss and backward", "loss_and_backward", 34.0, "ms"),
    ("One epoch", "epoch", 217.0, "s"),
    ("One run", "run", 2.9, "days"),
)
"""What, its name in a profile, as printed, unit."""
_SECONDS = {"ms": 1e-3, "s": 1.0, "days": 86400.0}
_DIGITS = {"ms": 1, "s": 0, "days": 1}
_UNTIMED = TIMELESS | {"preload"}
"""Settings that take no time, or none that a profile counts; the preload takes memory."""


def make(inputs: Inputs) -> Output:
    """The printed numbers, then those of each finished profile."""
    profiles, lacks = _profiles(inputs.store)
    heads = [Head("What"), Head("RTX 4090\n(as printed)", "printed_rtx_4090")]
    heads += [_head(ref, config, result) for ref, config, result in profiles]
    rows = []
    for what, name, printed, unit in _ROWS:
        level = (len(what) - len(what.lstrip())) // 2
        cells = [words("– " * level + what.strip()), number(printed, 1 if unit != "s" else 0)]
        rows.append((*cells, *(_cell(result, name, unit) for _, _, result in profiles), words(unit)))
    notes = [
        "An epoch has 400 updates of each of the three networks: the printed 217 s are 400 times (88 + 115 + 340) ms. The parts are "
        "printed rounded and do not add up exactly."
    ]
    if profiles:
        notes.append(
            "Columns of profiles: medians of repeated timings on random data; loss and backward with the optimiser. Epoch and run are "
            "projected from them: updates, and unlike the printed epoch also start segments and real steps; without test games, "
            "checkpoints and the loop's own overhead. What a profile left out is empty."
        )
    else:
        lacks.append(Lack("a column of this machine: this store has no finished profile", "diamond-bench profile"))
    table = Table((*heads, Head("Unit")), tuple(rows), frozenset({9}), tuple(notes))
    sources = [paper_source("Table 5"), *(_source(ref, config, result) for ref, config, result in profiles)]
    return Output(table=table, sources=tuple(sources), lacks=tuple(lacks))


_Found = tuple[JobRef, Profile, StoredResult]


def _profiles(store: Store) -> tuple[list[_Found], list[Lack]]:
    """The finished profiles of a store, by device and precision. A damaged one is reported as missing."""
    found, lacks = [], []
    for ref in store.refs():
        if ref.kind != "profile" or store.state(ref).status not in ("done", "damaged"):
            continue
        try:
            config, result = store.spec(ref).config, store.result(ref)
            lines_of(result)
        except (UserError, KeyError, TypeError) as error:
            lacks.append(Lack(f"the column of {ref}, which is damaged or of another version ({error})", "diamond-bench profile"))
            continue
        if not config.packed:
            found.append((ref, config, result))
    return sorted(found, key=lambda one: (one[1].device_name, one[1].execution.precision, one[1].scale, one[0])), lacks


def _head(ref: JobRef, config: Profile, result: StoredResult) -> Head:
    """Device and precision, and notes on this column."""
    notes = [f"Job {ref.id}, game {config.training.game}, seed {config.training.seed}, {config.executed}, scale {config.scale}."]
    different = "; ".join(f"{key} {mine} (the paper: {theirs})" for key, mine, theirs in differences(config.training))
    if different:
        notes.append(f"Not the paper's sizes, so that its times are not comparable to the printed ones: {different}.")
    precision = result.info["ways"][0]["precision"]
    return Head(f"{config.device_name}\n{precision}, scale {config.scale}", f"profile_{ref.id}", tuple(notes))


def _cell(result: StoredResult, name: str, unit: str) -> Cell:
    line = lines_of(result).get(name)
    value = None if line is None or line["median"] is None else line["median"] / _SECONDS[unit]
    small = value is not None and 0 < value < 1
    return number(value, 1 - math.floor(math.log10(value)) if value is not None and small else _DIGITS[unit])


def differences(training: TrainAgent) -> Iterator[tuple[str, Any, Any]]:
    """(key, value, the paper's) of every setting that bears on a training's time and is not the paper's; precision apart."""
    paper = training_job(run_config({"scale": "paper"}, {})).config
    one, other = (dict(_flat({group: to_plain(getattr(config, group)) for group in TIMED_GROUPS})) for config in (training, paper))
    for key in dict.fromkeys([*one, *other]):
        if key.rpartition(".")[2] not in _UNTIMED and one.get(key) != other.get(key):
            yield key, one.get(key, "none"), other.get(key, "none")


def _flat(group: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in group.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _source(ref: JobRef, config: Profile, result: StoredResult) -> dict[str, Any]:
    """A row of the index, in the layout of a study's."""
    recorded = result.recorded
    commit, revision = recorded.get("commit"), recorded.get("revision")
    return {
        "kind": "study",
        "study": f"profile-{ref.id}",
        "scale": config.scale,
        "protocol": "agent",
        "jobs": [ref.id],
        "commits": [commit] if commit else [],
        "revisions": [str(revision)],
        "devices": [config.device_name],
        "notes": list(result.info.get("notes", [])),
        "command": f"diamond-bench show {ref.id}",
    }

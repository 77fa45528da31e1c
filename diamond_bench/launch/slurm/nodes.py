"""Checks whether any node of a partition can run the jobs of a kind: SLURM would let an impossible job wait forever."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from diamond_bench.config import Resources, SlurmCluster
from diamond_bench.errors import UserError
from diamond_bench.launch.resources import resources
from diamond_bench.launch.slurm.client import SlurmError, slurm

_UNITS = {"K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}


@dataclass(frozen=True)
class Node:
    """One node of one partition."""

    name: str
    partition: str
    default: bool
    cpus: int
    memory_mb: int
    gres: tuple[tuple[str, str, int], ...]
    """Generic resources as name, type (empty if there is none) and number."""


def nodes() -> list[Node]:
    """The nodes of each partition. Raises SlurmError, also if sinfo's answer cannot be parsed."""
    text = slurm("sinfo", "--all", "--Node", "--exact", "--noheader", "--format=%N|%P|%c|%m|%G")
    try:
        found = [line.strip().split("|") for line in text.splitlines() if line.strip()]
        return [
            Node(name, partition.rstrip("*"), partition.endswith("*"), int(cpus), int(memory), _gres(gres))
            for name, partition, cpus, memory, gres in found
        ]
    except ValueError as error:
        raise SlurmError("sinfo", f"unexpected answer: {error}") from None


def check_nodes(cluster: SlurmCluster, kinds: Iterable[str], say: Callable[[str], None]) -> None:
    """Raises UserError if no node of its partition can serve a kind's request. Calls `say` if SLURM does not show the nodes."""
    try:
        there = nodes()
        excluded = set(slurm("scontrol", "show", "hostnames", cluster.exclude).split()) if cluster.exclude else set()
    except SlurmError as error:
        if error.transient:
            raise
        say(f"not checked whether a node can serve the jobs' requests: {error}")
        return
    for kind in kinds:
        asked = resources(cluster, kind)
        names = set((asked.partition or "").split(",")) - {""}
        where = f"partition {asked.partition}" if names else "the default partition"
        of_partition = [node for node in there if node.partition in names or (not names and node.default)]
        kept = [node for node in of_partition if node.name not in excluded]
        if kept:
            _check(cluster, kind, asked, kept, where)
        elif of_partition:
            raise UserError(f"cluster.exclude={cluster.exclude}: no node of {where} is left for a {kind}")
        else:
            say(f"not checked whether a node of {where} can serve a {kind}: SLURM shows none of its nodes")


def _check(cluster: SlurmCluster, kind: str, asked: Resources, there: list[Node], where: str) -> None:
    wanted_gres = _wanted_gres(cluster, asked)
    memory = _megabytes(asked.memory)
    tests: dict[str, tuple[str, Callable[[Node], bool], str]] = {
        "cpus": (str(asked.cpus), lambda node: node.cpus >= (asked.cpus or 1), f"at most {max(node.cpus for node in there)} CPUs"),
        "memory": (
            str(asked.memory),
            lambda node: memory is None or node.memory_mb >= memory,
            f"at most {max(node.memory_mb for node in there) / 1024:.4g}G of memory",
        ),
        "gres" if wanted_gres and cluster.gres else "gpus": (
            str(cluster.gres if cluster.gres else asked.gpus),
            lambda node: all(_number(node, *wanted[:2]) >= wanted[2] for wanted in wanted_gres),
            f"{_offered(there)}",
        ),
    }
    for key, (value, serves, has) in tests.items():
        if not any(map(serves, there)):
            raise UserError(
                f"{_key(cluster, kind, key)}={value}: no node of {where} can serve a {kind}, since each has {has}; lower it, or take "
                "another cluster.partition"
            )
    serving = {node.name for node in there if all(serves(node) for _, serves, _ in tests.values())}
    if serving and len(serving) < (asked.nodes or 1):
        raise UserError(f"{_key(cluster, kind, 'nodes')}={asked.nodes}: {where} has {len(serving)} nodes that can serve a {kind}")
    if not serving:
        together = ", ".join(f"{_key(cluster, kind, key)}={value}" for key, (value, _, _) in tests.items() if value not in ("None", "0"))
        raise UserError(f"{together}: no node of {where} has all of these for a {kind}; lower one, or take another cluster.partition")


def _key(cluster: SlurmCluster, kind: str, name: str) -> str:
    own = getattr(cluster, kind, None)
    return f"cluster.{kind}.{name}" if own is not None and getattr(own, name, None) is not None else f"cluster.{name}"


def _wanted_gres(cluster: SlurmCluster, asked: Resources) -> tuple[tuple[str, str, int], ...]:
    if not asked.gpus:
        return ()
    return _gres(cluster.gres) if cluster.gres is not None else (("gpu", "", asked.gpus),)


def _number(node: Node, name: str, model: str) -> int:
    return sum(count for other, kind, count in node.gres if other == name and model in ("", kind))


def _offered(there: Iterable[Node]) -> str:
    shown = {",".join(f"{name}{f':{model}' if model else ''}:{count}" for name, model, count in node.gres) for node in there}
    return " or ".join(sorted(text or "none" for text in shown)) + " as generic resources"


def _gres(text: str) -> tuple[tuple[str, str, int], ...]:
    """Parses generic resources such as `gpu:a100:4(S:0-1),gpu:2,nvme`; `(null)` means none. Raises ValueError for an invalid number."""
    found = []
    for part in re.sub(r"\([^)]*\)", "", text).split(","):
        name, *rest = part.strip().removeprefix("gres/").split(":")
        if not name:
            continue
        last = rest.pop() if rest else "1"
        if not re.match(r"\d", last):  # a type without a number
            rest, last = [*rest, last], "1"
        digits = re.fullmatch(r"(\d+)([KMGT]?)", last, re.IGNORECASE)
        if digits is None:
            raise ValueError(f"{part!r} is no generic resource")
        thousand = 1024 ** " KMGT".index(digits[2].upper() or " ")
        found.append((name, rest[0] if rest else "", int(digits[1]) * thousand))
    return tuple(found)


def _megabytes(text: str | None) -> float | None:
    """Parses memory as sbatch does; a number without a unit counts megabytes. None if no memory, or all of a node's (0), is requested."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", str(text or "").strip(), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        return None
    return float(match[1]) * _UNITS[match[2].upper() or "M"]

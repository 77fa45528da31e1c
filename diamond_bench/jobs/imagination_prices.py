"""The cost of imagining an evaluation's rollouts, as rows of the results table."""

import torch

from diamond_bench.jobs.context import Row
from diamond_bench.jobs.memory import peak_bytes
from diamond_bench.store.twins import Twin
from diamond_bench.worlds.contract import WorldModel

_PRICES = ("nfe_per_frame", "parameters", "frames_per_second", "imagination_seconds", "peak_memory_mb")


def prices(world: WorldModel, frames: int, seconds: float, device: torch.device) -> list[Row]:
    """The cost of imagining this number of frames in this time."""
    trained = sum(weights.numel() for network in world.networks.values() for weights in network.parameters())
    return [
        Row("nfe_per_frame", float(world.calls_per_frame)),
        Row("parameters", float(trained)),
        Row("frames_per_second", frames / seconds, measured=True),
        Row("imagination_seconds", seconds, measured=True),
        Row("peak_memory_mb", peak_bytes(device) / 1e6, measured=True),
    ]


def known_prices(twin: Twin | None) -> list[Row]:
    """The cost in the evaluation that imagined the frames. None is known of frames that were given."""
    known = {} if twin is None else {row["metric"]: row for row in twin.result.rows}
    return [Row(name, known[name]["value"], known[name]["measured"]) for name in _PRICES if name in known]


def speed(world: WorldModel | None, frames: int, seconds: float) -> dict[str, float]:
    """Work and time of the imagination, for estimates. Empty if nothing was imagined."""
    return {} if world is None else {"work": (world.flops_per_frame or 1.0) * frames, "work_seconds": seconds}

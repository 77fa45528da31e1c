"""LPIPS (Zhang et al. 2018) with AlexNet."""

from typing import TYPE_CHECKING, Literal

from diamond_bench.config import EvaluationConfig, RunConfig
from diamond_bench.envs.games import family_of, frames
from diamond_bench.errors import UserError
from diamond_bench.metrics.frames import Score, of_frames
from diamond_bench.metrics.header import Column, pairs_compared, sampled_frames
from diamond_bench.metrics.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from diamond_bench.metrics.play import Setting

MIN_SIZE = 32
"""Minimum side of a frame in pixels. Smaller frames vanish in AlexNet and VGG16."""
_PAIRS_PER_SECOND = 1500.0


def lpips_metric(
    name: str, net: Literal["alex", "vgg"], title: str, definition: str, pairs_per_second: float, pairs_of_samples: bool = False
) -> Metric:
    """LPIPS with a backbone. `pairs_of_samples`: whether samples are also compared with each other."""

    def network(setting: "Setting") -> tuple[Score, str]:
        from diamond_bench.diffusion.quantization import from_bytes

        loaded = setting.lpips(net)

        def score(imagined: "Tensor", true: "Tensor") -> "Tensor":
            return loaded(from_bytes(imagined), from_bytes(true))

        return score, loaded.sha256

    def check(config: RunConfig) -> None:
        collected = config.data.dataset is None
        sides = frames(config.game, config.env) if collected else config.env.frames
        if min(sides.sides) < MIN_SIZE:
            sized = not collected or "frame_size" in family_of(config.game).reads
            sizes = {key: getattr(config.env, key) for key in ("frame_size", "frame_height", "frame_width")}
            given = " ".join(f"env.{key}={value}" for key, value in sizes.items() if value is not None)
            at_fault, remedy = (given, "; raise it") if sized else (f"games=[{config.game}]", "")
            raise UserError(
                f"{at_fault}: {name} needs frames of at least {MIN_SIZE} pixels a side, and these are {sides}{remedy}",
                keys=[f"env.{key}" for key, value in sizes.items() if value is not None] if sized else [],
            )

    def seconds(evaluation: EvaluationConfig) -> float:
        between = sampled_frames(evaluation) * (evaluation.num_samples - 1) / 2 if pairs_of_samples else 0.0
        return (pairs_compared(evaluation) + between) / pairs_per_second

    column = Column(
        title, "lower", low=0.0, definition=definition, headline=True, compared=True, drawn=True, copyable=True
    )  # fmt: skip
    return of_frames(name, column, network=network, weights=f"lpips-{net}", check=check, seconds=seconds)


METRIC = lpips_metric("lpips", "alex", "LPIPS, AlexNet", "LPIPS v0.1, AlexNet, learned heads", _PAIRS_PER_SECOND, pairs_of_samples=True)

"""The inverse-dynamics network: it reads the action from two consecutive frames (docs/evaluation.md)."""

from dataclasses import dataclass

from diamond_bench.config.fields import setting
from diamond_bench.config.probe import ProbeConfig


@dataclass(frozen=True)
class InverseDynamicsConfig(ProbeConfig):
    """The network and its training, with the settings of a state probe. All runs on a dataset share one network."""

    blur: float = setting(0.0, minimum=0.0, maximum=8.0)
    """Gaussian blur of training frames, because imagined frames are less sharp than true ones. Each frame's standard deviation in pixels is
    drawn from 0 to this value."""

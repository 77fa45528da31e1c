"""How a diffusion world model predicts rewards and ends itself, in place of an agent's separate network of `reward_end`."""

from dataclasses import dataclass
from typing import Literal

from diamond_bench.config.agent import RewardEndConfig
from diamond_bench.config.fields import setting


@dataclass(frozen=True)
class HeadsConfig:
    """Heads of rewards and ends on the deepest features of the denoiser (the joint trunk), or a network of their own."""

    reads: Literal["none", "last", "extra", "frames"] = setting("none")
    """none: the world model predicts no rewards and ends (the authors). last: in training, heads read the features of every denoising call,
    at its noise level. In sampling, they read those of the last call. extra: they read those of one more call, on the next frame with noise
    of the level `sigma`. frames: the authors' separate LSTM network (`lstm`), trained on the same static data."""
    sigma: float = setting(0.1, minimum=1e-3)
    """Noise level of the extra call."""
    width: int = setting(128, minimum=1)
    """Width of the hidden layer."""
    memory: int = setting(0, minimum=0)
    """Width of an LSTM over the predicted steps of a segment, and over an imagined game. 0: the heads see no more than the denoiser."""
    gradient: bool = setting(True)
    """Whether the denoiser learns from the losses of the heads, too. If not, the denoiser of a static data
    set with reads=last learns exactly as without heads. With reads=extra, its random numbers differ. In agents, its segments differ."""
    weights: Literal["fixed", "harmonised"] = setting("fixed")
    """How the losses are added. fixed: with the two weights below. harmonised: each of the three losses L becomes L / s + log(1 + s), with
    a learned s > 0 of its own (Ma et al. 2024, HarmonyDream)."""
    reward_weight: float = setting(1.0, minimum=0.0)
    """Fixed weight of the loss of rewards."""
    end_weight: float = setting(1.0, minimum=0.0)
    """Fixed weight of the loss of ends."""
    lstm: RewardEndConfig = RewardEndConfig()
    """The separate network of reads=frames, and its training. It has as many updates as the denoiser."""

    @property
    def used(self) -> bool:
        """Whether the world model predicts rewards and ends."""
        return self.reads != "none"

    @property
    def on_trunk(self) -> bool:
        """Whether they are predicted from features of the denoiser."""
        return self.reads in ("last", "extra")

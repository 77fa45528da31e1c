"""What the denoiser is conditioned on: past frames and actions, and how they enter the network (paper section 3.1 and appendix M)."""

from dataclasses import dataclass
from typing import Literal

from diamond_bench.config.fields import setting


@dataclass(frozen=True)
class ConditioningOption:
    """A registered conditioning: its code and its cost, each as "module:name" and imported on first use."""

    module: str
    """Builds the module, a `models.conditioning.Conditioning`."""
    cost: str
    """Computes the cost, without torch: a `models.cost.ConditioningCostFunction`. Plans import it, so its file must not import torch at the
    top."""


_FRAMES, _ACTIONS = "diamond_bench.models.frame_conditioning", "diamond_bench.models.action_conditioning"
FRAME_CONDITIONINGS: dict[str, ConditioningOption] = {
    "stack": ConditioningOption(f"{_FRAMES}:StackedFrames", f"{_FRAMES}_cost:stacked"),
    "cross_attention": ConditioningOption(f"{_FRAMES}:AttendedFrames", f"{_FRAMES}_cost:attended"),
    "both": ConditioningOption(f"{_FRAMES}:StackedAndAttendedFrames", f"{_FRAMES}_cost:both"),
}
"""The ways in which past frames enter, by the value of `conditioning.frames`."""

ACTION_CONDITIONINGS: dict[str, ConditioningOption] = {
    "group_norm": ConditioningOption(f"{_ACTIONS}:EmbeddedActions", f"{_ACTIONS}_cost:embedded"),
    "active_bits": ConditioningOption(f"{_ACTIONS}:ActiveBits", f"{_ACTIONS}_cost:bits"),
    "planes": ConditioningOption(f"{_ACTIONS}:ActionPlanes", f"{_ACTIONS}_cost:planes"),
    "none": ConditioningOption(f"{_ACTIONS}:NoActions", f"{_ACTIONS}_cost:none"),
}
"""The ways in which actions enter, by the value of `conditioning.actions`."""

WITHHELD = -1
"""The action that stands for a withheld action. A network trained with action dropout receives it in guidance's unconditional calls."""


@dataclass(frozen=True)
class ConditioningConfig:
    """What the denoiser is conditioned on."""

    num_frames: int = setting(4, minimum=1)
    """L, the number of past frames (and actions)."""
    frames: str = setting("stack")
    """How past frames enter: stack (on channels, the authors), cross_attention (to a shared light history encoder, appendix M), or both."""
    actions: str = setting("group_norm")
    """How actions enter: group_norm (embedded, through adaptive group norm, the authors), active_bits (the same, with one embedding per key
    or choice, and the sum of those that are active, as in the authors' CS:GO model), planes (as input channels), or none (withheld)."""
    action_width: int = setting(0, minimum=0)
    """Width of one action's embedding. 0 means the authors' network.cond_channels / L, which shrinks as L grows."""
    action_dropout: float = setting(0.0, minimum=0.0, maximum=0.99)
    """Share of training examples whose actions are withheld, so that sampling can use guidance on actions (sampler.guidance)."""
    frame_noise: float = setting(0.0, minimum=0.0)
    """Noise augmentation. In training, noise is added to the past frames of an example. Its standard deviation is drawn from 0 to this
    value and is an input of the network. Sampling adds no noise."""
    past_noise: Literal["none", "constant", "training"] = setting("none")
    """The authors' noise on past frames, with a second embedding of its level (CS:GO branch). none: without it. training: each prediction
    in training adds noise with a level of its own, from the objective's distribution, and sampling adds sampler.s_cond. constant: only the
    embedding, always of the input 0, as in the authors' upsampler."""
    history_depths: tuple[int, ...] = setting((1, 1, 1, 1), minimum=1)
    """Residual blocks per level of the history encoder (cross_attention and both)."""
    history_channels: tuple[int, ...] = setting((32, 32, 32, 32), minimum=1)
    """Channels per level of the history encoder."""
    attended_levels: tuple[bool, ...] = setting((False, False, True, True))
    """Levels of the U-Net, finest first, whose residual blocks attend to the history encoder's activations at that level."""

"""What the denoiser is told of the past: frames and actions, and how they enter the network (paper section 3.1 and appendix M)."""

from dataclasses import dataclass

from diamond_bench.config.fields import setting


@dataclass(frozen=True)
class ConditioningOption:
    """A registered conditioning: its code and its cost, each "module:name" and imported when used."""

    module: str
    """Builds it: a `models.conditioning.Conditioning`."""
    cost: str
    """Counts it, without torch: a `models.cost.ConditioningCostFunction`. Plans import it, so its file imports no torch at the top."""


_FRAMES, _ACTIONS = "diamond_bench.models.frame_conditioning", "diamond_bench.models.action_conditioning"
FRAME_CONDITIONINGS: dict[str, ConditioningOption] = {
    "stack": ConditioningOption(f"{_FRAMES}:StackedFrames", f"{_FRAMES}_cost:stacked"),
    "cross_attention": ConditioningOption(f"{_FRAMES}:AttendedFrames", f"{_FRAMES}_cost:attended"),
    "both": ConditioningOption(f"{_FRAMES}:StackedAndAttendedFrames", f"{_FRAMES}_cost:both"),
}
"""How past frames enter, by the value of `conditioning.frames`."""

ACTION_CONDITIONINGS: dict[str, ConditioningOption] = {
    "group_norm": ConditioningOption(f"{_ACTIONS}:EmbeddedActions", f"{_ACTIONS}_cost:embedded"),
    "planes": ConditioningOption(f"{_ACTIONS}:ActionPlanes", f"{_ACTIONS}_cost:planes"),
    "none": ConditioningOption(f"{_ACTIONS}:NoActions", f"{_ACTIONS}_cost:none"),
}
"""How actions enter, by the value of `conditioning.actions`."""

WITHHELD = -1
"""The action that stands for "not told": what a network trained with action dropout is fed for guidance."""


@dataclass(frozen=True)
class ConditioningConfig:
    """What the denoiser is told of the past."""

    num_frames: int = setting(4, minimum=1)
    """L, the number of past frames (and actions)."""
    frames: str = setting("stack")
    """How past frames enter: stack (on channels, the authors), cross_attention (to a shared light history encoder, appendix M), both."""
    actions: str = setting("group_norm")
    """How actions enter: group_norm (embedded, by adaptive group norm, the authors), planes (as channels of the input), none (withheld)."""
    action_width: int = setting(0, minimum=0)
    """Width of one action's embedding; 0 is the authors' network.cond_channels / L, which shrinks as L grows."""
    action_dropout: float = setting(0.0, minimum=0.0, maximum=0.99)
    """Share of training examples whose actions are withheld, so that sampling can be guided by actions (sampler.guidance)."""
    frame_noise: float = setting(0.0, minimum=0.0)
    """Noise augmentation: in training, noise of a standard deviation drawn from 0 to this is added to the past frames of an example, and
    the network is told how much. Nothing is added while sampling."""
    history_depths: tuple[int, ...] = setting((1, 1, 1, 1), minimum=1)
    """Residual blocks per level of the history encoder (cross_attention and both)."""
    history_channels: tuple[int, ...] = setting((32, 32, 32, 32), minimum=1)
    """Channels per level of the history encoder."""
    attended_levels: tuple[bool, ...] = setting((False, False, True, True))
    """Levels of the U-Net, finest first, whose residual blocks attend to the history encoder's activations of that level."""

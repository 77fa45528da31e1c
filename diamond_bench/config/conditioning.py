"""What the denoiser is told of the past: frames and actions, and how they enter the network (paper section 3.1 and appendix M)."""

from dataclasses import dataclass

from diamond_bench.config.fields import setting

FRAME_CONDITIONINGS: dict[str, str] = {
    "stack": "diamond_bench.models.frame_conditioning:StackedFrames",
    "cross_attention": "diamond_bench.models.frame_conditioning:AttendedFrames",
    "both": "diamond_bench.models.frame_conditioning:StackedAndAttendedFrames",
}
"""How past frames enter, by the value of `conditioning.frames`: "module:class"."""

ACTION_CONDITIONINGS: dict[str, str] = {
    "group_norm": "diamond_bench.models.action_conditioning:EmbeddedActions",
    "planes": "diamond_bench.models.action_conditioning:ActionPlanes",
    "none": "diamond_bench.models.action_conditioning:NoActions",
}
"""How actions enter, by the value of `conditioning.actions`: "module:class"."""

WITHHELD = -1
"""The action that stands for "not told": what a network trained with action dropout is fed for guidance."""


@dataclass(frozen=True)
class ConditioningConfig:
    """What the denoiser is told of the past."""

    num_frames: int = setting(4, least=1)
    """L, the number of past frames (and actions)."""
    frames: str = setting("stack")
    """How past frames enter: stack (on channels, the authors), cross_attention (to a shared light history encoder, appendix M), both."""
    actions: str = setting("group_norm")
    """How actions enter: group_norm (embedded, by adaptive group norm, the authors), planes (as channels of the input), none (withheld)."""
    action_width: int = setting(0, least=0)
    """Width of one action's embedding; 0 is the authors' network.cond_channels / L, which shrinks as L grows."""
    action_dropout: float = setting(0.0, least=0.0, most=0.99)
    """Share of training examples whose actions are withheld, so that sampling can be guided by actions (sampler.guidance)."""
    frame_noise: float = setting(0.0, least=0.0)
    """Noise augmentation: in training, noise of a standard deviation drawn from 0 to this is added to the past frames of an example, and
    the network is told how much. Nothing is added while sampling."""
    history_depths: tuple[int, ...] = setting((1, 1, 1, 1), least=1)
    """Residual blocks per level of the history encoder (cross_attention and both)."""
    history_channels: tuple[int, ...] = setting((32, 32, 32, 32), least=1)
    """Channels per level of the history encoder."""
    attended_levels: tuple[bool, ...] = setting((False, False, True, True))
    """Levels of the U-Net, finest first, whose residual blocks attend to the history encoder's activations of that level."""

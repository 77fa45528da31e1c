"""The state probe: a small network that locates a game's objects in one frame (docs/state_probe.md)."""

from dataclasses import dataclass

from diamond_bench.config.fields import setting


@dataclass(frozen=True)
class ProbeConfig:
    """The probe's network and its training. All runs on a dataset share one probe."""

    channels: int = setting(32, minimum=1)
    """Channels of every layer."""
    num_steps: int = setting(3000, minimum=1)
    """Optimiser updates."""
    batch_size: int = setting(64, minimum=1)
    """Frames of the training split per update."""
    learning_rate: float = setting(2e-3, minimum=0.0)
    """Learning rate of AdamW after the warm-up."""
    weight_decay: float = setting(1e-2, minimum=0.0)
    """Decoupled weight decay of AdamW."""
    adam_epsilon: float = setting(1e-8, minimum=0.0)
    """Epsilon in the denominator of AdamW."""
    adam_beta2: float = setting(0.99, minimum=0.0, maximum=0.99999)
    """Decay of the average of squared gradients."""
    warmup_steps: int = setting(20, minimum=0)
    """Updates over which the learning rate rises linearly from 0."""
    cooldown: float = setting(0.5, minimum=0.0, maximum=1.0)
    """Last share of the updates over which the rate falls linearly to 0."""
    pixel_noise: float = setting(0.0, minimum=0.0)
    """Noise added to training frames in [-1, 1], because imagined frames are less clean than true ones. The standard deviation of each
    example is drawn from 0 to this value."""
    seed: int = setting(0, minimum=0)
    """Seed of the initial weights and of the order of frames. It is independent of the run's seed."""
    checkpoint_every: int = setting(500, minimum=1, recorded=True)
    """Updates between checkpoints for resuming."""

"""The state probe: a small network that reads where a game's objects are from one frame (docs/state_probe.md)."""

from dataclasses import dataclass

from diamond_bench.config.fields import setting


@dataclass(frozen=True)
class ProbeConfig:
    """The probe's network and its training; one a dataset, whatever the run's seed."""

    channels: int = setting(32, minimum=1)
    """Of every layer."""
    num_steps: int = setting(3000, minimum=1)
    """Optimiser updates."""
    batch_size: int = setting(64, minimum=1)
    """Frames an update, of the training split."""
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
    """Noise of a standard deviation drawn from 0 to this, an example, is added to the frames, of range [-1, 1]: imagined frames are less
    clean than true ones."""
    seed: int = setting(0, minimum=0)
    """Of the weights' start and of the frames drawn, apart from the run's."""
    checkpoint_every: int = setting(500, minimum=1, recorded=True)
    """Updates between resumable checkpoints."""

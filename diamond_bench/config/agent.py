"""Settings of an agent trained inside its world model (paper sections 3.2 and D; method sections 1, 4, 5 and 6)."""

from dataclasses import dataclass
from typing import Literal

from diamond_bench.config.fields import setting


@dataclass(frozen=True)
class RewardEndConfig:
    """The reward/end model R and its training (method sections 1 and 4)."""

    depths: tuple[int, ...] = setting((2, 2, 2, 2), minimum=1)
    """Residual blocks per stage."""
    channels: tuple[int, ...] = setting((32, 32, 32, 32), minimum=1)
    """Channels per stage."""
    attention: tuple[bool, ...] = setting((False, False, False, False))
    """Whether a stage's residual blocks have self-attention (the last stage, of two blocks, always has)."""
    cond_channels: int = setting(128, minimum=1)
    """Width of the action embedding, which is the whole condition."""
    lstm_dim: int = setting(512, minimum=1)
    """Width of the LSTM."""
    segment_length: int = setting(19, minimum=2)
    """Frames of a training segment; the authors take L + H = 4 + 15."""
    final_frames: Literal["ends", "all"] = setting("ends")
    """Where the true final frame stands in for padding: at true ends (the authors), or also where an episode was cut or still runs."""
    batch_size: int = setting(32, minimum=1)
    """Segments per update."""
    learning_rate: float = setting(1e-4, minimum=0.0)
    """Learning rate of AdamW after the warm-up."""
    weight_decay: float = setting(1e-2, minimum=0.0)
    """Decoupled weight decay of AdamW."""
    adam_epsilon: float = setting(1e-8, minimum=0.0)
    """Epsilon in the denominator of AdamW."""
    adam_beta2: float = setting(0.999, minimum=0.0, maximum=0.99999)
    """Decay of the average of squared gradients; the authors keep PyTorch's."""
    warmup_steps: int = setting(100, minimum=0)
    """Updates over which the learning rate rises linearly from 0."""
    max_grad_norm: float = setting(100.0, minimum=0.0)
    """Gradients are clipped to this norm."""


@dataclass(frozen=True)
class ActorCriticConfig:
    """Policy and value, and how they are trained in imagination (method sections 1 and 5)."""

    channels: tuple[int, ...] = setting((32, 32, 64, 64), minimum=1)
    """Channels per stage of one small residual block."""
    down: tuple[bool, ...] = setting((True, True, True, True))
    """Whether a stage ends in 2x2 max-pooling."""
    lstm_dim: int = setting(512, minimum=1)
    """Width of the LSTM."""
    batch_size: int = setting(32, minimum=1)
    """Imagination environments."""
    steps_per_update: int = setting(15, minimum=1)
    """Environment steps between two updates (backup_every)."""
    horizon: int = setting(15, minimum=1)
    """H: imagined steps before an episode is truncated."""
    discount: float = setting(0.985, minimum=0.0, maximum=1.0)
    """gamma."""
    trace_decay: float = setting(0.95, minimum=0.0, maximum=1.0)
    """lambda of the lambda-returns."""
    value_weight: float = setting(1.0, minimum=0.0)
    """Weight of the value loss."""
    entropy_weight: float = setting(0.001, minimum=0.0)
    """Weight of the entropy bonus."""
    learning_rate: float = setting(1e-4, minimum=0.0)
    """Learning rate of AdamW after the warm-up."""
    weight_decay: float = setting(0.0, minimum=0.0)
    """Decoupled weight decay of AdamW."""
    adam_epsilon: float = setting(1e-8, minimum=0.0)
    """Epsilon in the denominator of AdamW."""
    adam_beta2: float = setting(0.999, minimum=0.0, maximum=0.99999)
    """Decay of the average of squared gradients; the authors keep PyTorch's."""
    warmup_steps: int = setting(100, minimum=0)
    """Updates over which the learning rate rises linearly from 0."""
    max_grad_norm: float = setting(100.0, minimum=0.0)
    """Gradients are clipped to this norm."""
    start_frames: int = setting(0, minimum=0)
    """Frames of real play that an imagined episode starts from, on which policy and reward/end model are burnt in; 0, or fewer than L, is
    the denoiser's own L."""
    discard_left_overs: bool = setting(False)
    """The authors throw the rest of a preloaded block of start segments away where it cannot serve all environments that end at
    a step; here every segment is used unless this is set."""
    preload: int = setting(256, minimum=1)
    """Batches of start segments loaded (and burnt in) at once."""


@dataclass(frozen=True)
class AgentConfig:
    """The loop: play, learn, imagine (method section 6)."""

    budget: int = setting(100_000, minimum=1)
    """Real environment steps that may be taken in all while training; test episodes are not counted."""
    initial_steps: int = setting(5000, minimum=1)
    """Steps played with the untrained policy before anything is trained, at least."""
    max_initial_steps: int = setting(10_000, minimum=1, identity="initial_steps_most")
    """Steps played before anything is trained, at most."""
    initial_rare_rewards: int = setting(10, minimum=0)
    """The initial collection goes on, up to max_initial_steps, until so many rewards of the rarer two signs were seen."""
    steps_per_epoch: int = setting(100, minimum=1)
    """Real steps per epoch; also the block by which the initial collection goes on."""
    collection: Literal["in_turn", "beside"] = setting("in_turn")
    """When an epoch's real steps are played: before its updates (the authors), or beside those of the epoch before, by the policy as it
    stood at their beginning. Faster where a step takes long; the policy that plays is an epoch older. The initial collection is in turn."""
    epsilon: float = setting(0.01, minimum=0.0, maximum=1.0)
    """Share of uniformly random steps in collection (one coin for all environments)."""
    temperature: float = setting(1.0, minimum=1e-3)
    """Softmax temperature of the policy in collection."""
    first_denoiser_updates: int = setting(10_000, minimum=0)
    """Denoiser updates of the first epoch, after the initial collection."""
    first_reward_end_updates: int = setting(10_000, minimum=0)
    """Updates of the reward/end model in the first epoch."""
    first_actor_critic_updates: int = setting(5_000, minimum=0)
    """Updates of the actor-critic in the first epoch."""
    denoiser_updates: int = setting(400, minimum=0)
    """Denoiser updates of every later epoch."""
    reward_end_updates: int = setting(400, minimum=0)
    """Updates of the reward/end model in every later epoch."""
    actor_critic_updates: int = setting(400, minimum=0)
    """Updates of the actor-critic in every later epoch."""
    final_epochs: int = setting(50, minimum=0)
    """Epochs without collection at the end."""
    model_free: bool = setting(False)
    """Train the actor-critic on the real environment, without a world model."""
    test_every: int = setting(50, minimum=0)
    """Epochs between test episodes while training, which select nothing; 0 plays none."""
    test_episodes: int = setting(4, minimum=1)
    """Test episodes each time."""
    test_max_steps: int = setting(27_000, minimum=1)
    """Steps after which a test game is cut: the emulator's own 108,000 frames at frame skip 4."""
    checkpoint_every: int = setting(1, minimum=1, recorded=True)
    """Epochs between resumable checkpoints."""
    checkpoint_units: int = setting(1000, minimum=1, recorded=True)
    """Updates (or stretches of play) after which a checkpoint is written inside a long epoch too."""


@dataclass(frozen=True)
class AgentEvaluationConfig:
    """The final test of a policy (method section 6)."""

    episodes: int = setting(100, minimum=1)
    """Episodes played."""
    epsilon: float = setting(0.0, minimum=0.0, maximum=1.0)
    """Share of uniformly random actions."""
    temperature: float = setting(1.0, minimum=1e-3)
    """The policy is sampled, never its best action taken."""
    num_envs: int = setting(10, minimum=1)
    """Games played side by side; each plays its own share of the episodes to their end, so that long ones are not left out."""
    max_steps: int = setting(27_000, minimum=1)
    """Steps after which an episode is cut: the emulator's own 108,000 frames at frame skip 4."""
    seed: int = setting(0, minimum=0)
    """Seed of the games and of the policy's samples."""
    video: bool = setting(False)
    """Also write a video of an episode beside the agent's imagination of it."""

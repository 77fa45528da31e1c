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
    """Whether the residual blocks of a stage have self-attention. The last stage, of two blocks, always has it."""
    cond_channels: int = setting(128, minimum=1)
    """Width of the action embedding, which is the only condition."""
    lstm_dim: int = setting(512, minimum=1)
    """Width of the LSTM."""
    segment_length: int = setting(19, minimum=2)
    """Frames of a training segment; the authors take L + H = 4 + 15."""
    final_frames: Literal["ends", "all"] = setting("ends")
    """Where the true final frame replaces padding: at true ends (the authors), or also where an episode was truncated or is still
    running."""
    batch_size: int = setting(32, minimum=1)
    """Segments per update."""
    learning_rate: float = setting(1e-4, minimum=0.0)
    """Learning rate of AdamW after the warm-up."""
    weight_decay: float = setting(1e-2, minimum=0.0)
    """Decoupled weight decay of AdamW."""
    adam_epsilon: float = setting(1e-8, minimum=0.0)
    """Epsilon in the denominator of AdamW."""
    adam_beta2: float = setting(0.999, minimum=0.0, maximum=0.99999)
    """Decay of the average of squared gradients. The authors use PyTorch's default."""
    warmup_steps: int = setting(100, minimum=0)
    """Updates over which the learning rate rises linearly from 0."""
    max_grad_norm: float = setting(100.0, minimum=0.0)
    """Gradients are clipped to this norm."""


@dataclass(frozen=True)
class ActorCriticConfig:
    """Policy and value, and their training in imagination (method sections 1 and 5)."""

    channels: tuple[int, ...] = setting((32, 32, 64, 64), minimum=1)
    """Channels per stage of one small residual block."""
    down: tuple[bool, ...] = setting((True, True, True, True))
    """Whether a stage ends in 2x2 max-pooling."""
    lstm_dim: int = setting(512, minimum=1)
    """Width of the LSTM."""
    observations: Literal["frames", "reconstructions"] = setting("frames")
    """What the policy sees of the real game: its frames, or these frames after the world model's tokenizer (IRIS). Imagined frames are
    decoded from tokens in both cases."""
    batch_size: int = setting(32, minimum=1)
    """Imagination environments."""
    steps_per_update: int = setting(15, minimum=1)
    """Environment steps between two updates (`backup_every` in the authors' code)."""
    horizon: int = setting(15, minimum=1)
    """H: number of imagined steps after which an episode is truncated."""
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
    """Decay of the average of squared gradients. The authors use PyTorch's default."""
    warmup_steps: int = setting(100, minimum=0)
    """Updates over which the learning rate rises linearly from 0."""
    max_grad_norm: float = setting(100.0, minimum=0.0)
    """Gradients are clipped to this norm."""
    start_frames: int = setting(0, minimum=0)
    """Frames of real play that an imagined episode starts from. The policy and the reward/end model are burnt in on them. 0, or less than
    L, means the denoiser's own L."""
    discard_left_overs: bool = setting(False)
    """Discard the rest of a preloaded block of start segments if it cannot serve all environments that end at a step (the authors).
    Otherwise every segment is used."""
    preload: int = setting(256, minimum=1)
    """Batches of start segments that are loaded (and burnt in) at once."""


@dataclass(frozen=True)
class AgentConfig:
    """The training loop: play, learn, imagine (method section 6)."""

    budget: int = setting(100_000, minimum=1)
    """Total number of real environment steps during training. Steps of test episodes do not count."""
    initial_steps: int = setting(5000, minimum=1)
    """Minimum number of steps played with the untrained policy before any training."""
    max_initial_steps: int = setting(10_000, minimum=1, identity="initial_steps_most")
    """Maximum number of steps played before any training."""
    initial_rare_rewards: int = setting(10, minimum=0)
    """The initial collection continues, up to max_initial_steps, until it contains this many rewards of the rarer of the two signs."""
    steps_per_epoch: int = setting(100, minimum=1)
    """Real steps per epoch. The initial collection also grows in blocks of this many steps."""
    collection: Literal["sequential", "concurrent"] = setting("sequential", former={"in_turn": "sequential", "beside": "concurrent"})
    """When an epoch's real steps are played: before its updates (sequential, the authors), or by a thread during the updates of the epoch
    before, with the policy from before those updates (concurrent). Concurrent collection is faster if steps take long, and its policy is
    an epoch older. The initial collection is always sequential."""
    epsilon: float = setting(0.01, minimum=0.0, maximum=1.0)
    """Share of uniformly random steps in collection. One random number decides for all environments."""
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
    """Train the actor-critic in the real environment, without a world model."""
    test_every: int = setting(50, minimum=0)
    """Epochs between rounds of test episodes during training. Test episodes select nothing. 0 plays none."""
    test_episodes: int = setting(4, minimum=1)
    """Test episodes per round."""
    test_max_steps: int = setting(27_000, minimum=1)
    """Steps after which a test game is truncated: the emulator's limit of 108,000 frames at frame skip 4."""
    checkpoint_every: int = setting(1, minimum=1, recorded=True)
    """Epochs between checkpoints for resuming."""
    checkpoint_units: int = setting(1000, minimum=1, recorded=True)
    """Updates or blocks of play after which a checkpoint is also written within a long epoch."""


@dataclass(frozen=True)
class AgentEvaluationConfig:
    """The final test of a policy (method section 6)."""

    episodes: int = setting(100, minimum=1)
    """Episodes played."""
    epsilon: float = setting(0.0, minimum=0.0, maximum=1.0)
    """Share of uniformly random actions."""
    temperature: float = setting(1.0, minimum=1e-3)
    """Softmax temperature. Actions are sampled from the policy, never its most likely action."""
    num_envs: int = setting(10, minimum=1)
    """Games played in parallel. Each plays its own share of the episodes to their end, so that long episodes are not left out."""
    max_steps: int = setting(27_000, minimum=1)
    """Steps after which an episode is truncated: the emulator's limit of 108,000 frames at frame skip 4."""
    seed: int = setting(0, minimum=0)
    """Seed of the games and of the policy's samples."""
    video: bool = setting(False)
    """Also write a video that shows an episode next to the agent's imagination of it."""

"""Names of the reference predictors, and the evaluation settings on which their numbers depend. Without torch."""

from collections.abc import Mapping

COPY_LAST = "copy-last-frame"
"""Predictor that repeats the last true frame of the context."""
COPY_UPSAMPLED = "copy-last-frame-upsampled"
"""Predictor that repeats the last true frame without its details, at low resolution and enlarged again."""
UNRELATED = "unrelated-frames"
"""The true future of another reference: the level of a prediction that has lost all information about its start."""
RECONSTRUCTED = "tokenizer-reconstruction"
"""The true frames after the model's own tokenizer: the loss by compression alone. It exists for families with a tokenizer only."""
TRUE_FRAMES = "true-frames"
"""Other true frames or clips: the floor of FID, KID, FVD and KVD at this number of images or clips."""
FROZEN_FIRST = "frozen-first-frame"
"""True clips in which the first frame replaces all others: how much FVD and KVD see of motion."""
SHUFFLED_TIME = "shuffled-time"
"""True clips with their frames in random order: how much FVD and KVD see of the order of frames."""
TRUE_DISTRIBUTION = "true-distribution"
"""As many samples from the true distribution: the score of a perfect model with this number of samples."""
UNIFORM_RANKS = "uniform-ranks"
"""As many independent, uniform ranks as there are starts: the distance of a histogram of ranks from the uniform one by chance alone."""
STATE_PROBE = "state-probe"
"""Predictor that returns the true frames themselves. It shows the probe's own error, the floor of the metric state."""
EMULATOR = "emulator"
"""The game itself, from the same starts and under the same held or imposed actions."""
REAL_IMPOSED = "real-imposed"
"""Real frames after uniformly random actions from states of random play: how well the inverse-dynamics network reads real frames."""
REAL_HELDOUT = "real-heldout"
"""Held-out real frames and their recorded actions: the same if the game cannot save its state."""
RANDOM_PLAY = "random-play"
"""The uniformly random policy, under the conditions of an agent's final games."""
DATASET = "dataset"
"""The variant's name in rows about a dataset."""

NETWORKS = {"state_probe": "probe", "inverse_dynamics": "inverse_dynamics"}
"""The roles of networks that read imagined frames, with the groups of their settings."""
_ROLLOUTS = ("horizon", "num_trajectories", "seed")
DEPENDS: Mapping[str, tuple[str, ...]] = {
    COPY_LAST: (*_ROLLOUTS, "num_one_step", "num_sample_starts", "sample_horizon", "clip_frames"),
    COPY_UPSAMPLED: ("num_one_step", "seed"),
    UNRELATED: _ROLLOUTS,
    RECONSTRUCTED: (*_ROLLOUTS, "num_fid_images", "clip_frames", "probe."),
    TRUE_FRAMES: (*_ROLLOUTS, "num_fid_images", "clip_frames"),
    FROZEN_FIRST: ("num_trajectories", "seed", "clip_frames"),
    SHUFFLED_TIME: ("num_trajectories", "seed", "clip_frames"),
    TRUE_DISTRIBUTION: ("num_one_step", "num_samples", "seed"),
    UNIFORM_RANKS: ("num_samples", "num_sample_starts"),
    EMULATOR: ("seed", "horizon", "hold_frames", "num_trajectories", "num_sample_starts"),
    STATE_PROBE: (*_ROLLOUTS, "num_sample_starts", "sample_horizon", "probe."),
    REAL_IMPOSED: ("inverse_dynamics.",),
    REAL_HELDOUT: ("inverse_dynamics.",),
    RANDOM_PLAY: (),
    DATASET: (),
}
"""Evaluation settings that change a baseline's numbers. All baselines also depend on the dataset (data.*, env.*)."""

OF_MODEL = (RECONSTRUCTED,)
"""Baselines whose numbers depend on the model, so that each variant has its own."""

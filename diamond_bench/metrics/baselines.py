"""Names of the reference predictors, and the settings of an evaluation on which their numbers depend. No torch."""

from collections.abc import Mapping

COPY_LAST = "copy-last-frame"
"""Predictor that repeats the last true frame it was shown."""
UNRELATED = "unrelated-frames"
"""The true future of another reference: the level at which nothing of the start is left."""
TRUE_FRAMES = "true-frames"
"""Other true frames: the floor of FID and KID at this number of images."""
TRUE_DISTRIBUTION = "true-distribution"
"""As many samples of the true distribution: what a perfect model would score with so many."""
UNIFORM_RANKS = "uniform-ranks"
"""As many independent, uniform ranks as there are starts: how far chance alone takes a histogram of ranks from the uniform one."""
STATE_PROBE = "state-probe"
"""Predictor that is shown the true frames themselves: the probe's own error, the floor of the metric state."""
DATASET = "dataset"
"""The variant's name in rows about a dataset itself."""

PROBE = "probe."
"""Prefix of all settings of the state probe."""
_ROLLOUTS = ("horizon", "num_trajectories", "seed")
DEPENDS: Mapping[str, tuple[str, ...]] = {
    COPY_LAST: (*_ROLLOUTS, "num_one_step", "num_sample_starts", "sample_horizon"),
    UNRELATED: _ROLLOUTS,
    TRUE_FRAMES: (*_ROLLOUTS, "num_fid_images"),
    TRUE_DISTRIBUTION: ("num_one_step", "num_samples", "seed"),
    UNIFORM_RANKS: ("num_samples", "num_sample_starts"),
    STATE_PROBE: (*_ROLLOUTS, "num_sample_starts", "sample_horizon", PROBE),
    DATASET: (),
}
"""Settings of an evaluation that change a baseline's numbers; besides, all baselines depend on the dataset (data.*, env.*)."""

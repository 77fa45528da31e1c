"""Configs of the jobs that prepare a dataset for metrics. Their only input is `dataset`."""

from dataclasses import dataclass

from diamond_bench.config import ExecutionConfig, InverseDynamicsConfig, ProbeConfig


@dataclass(frozen=True)
class TrainStateProbe:
    """Config of `train_state_probe`. Its input `dataset` is a collected one, which states its game. Always in fp32."""

    probe: ProbeConfig = ProbeConfig()
    execution: ExecutionConfig = ExecutionConfig()


@dataclass(frozen=True)
class TrainInverseDynamics:
    """Config of `train_inverse_dynamics`. Its input is `dataset`. Always in fp32."""

    inverse_dynamics: InverseDynamicsConfig = InverseDynamicsConfig()
    execution: ExecutionConfig = ExecutionConfig()


@dataclass(frozen=True)
class ExtractFeatures:
    """Config of `extract_features`: the settings of an evaluation that choose the true frames of FID and KID. Its input is `dataset`. The
    network always runs in fp32."""

    seed: int
    num_trajectories: int
    horizon: int
    num_images: int
    execution: ExecutionConfig = ExecutionConfig()


@dataclass(frozen=True)
class ExtractClipFeatures:
    """Config of `extract_clip_features`, always in fp32: the settings of an evaluation that choose the true clips of FVD and KVD."""

    seed: int
    num_clips: int
    clip_frames: int
    execution: ExecutionConfig = ExecutionConfig()

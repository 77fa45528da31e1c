"""Where jobs run: on this machine, or as arrays of a SLURM cluster. Nothing of it enters an identity."""

from dataclasses import dataclass

from diamond_bench.config.fields import setting


@dataclass(frozen=True)
class LocalCluster:
    """This machine."""

    name: str = "local"
    num_workers: int = setting(0, minimum=0, recorded=True)
    """Worker processes, one a device; 0 is one a GPU, or one where there is none."""
    mps: bool = setting(False, recorded=True)
    """CUDA's Multi-Process Service while the workers are there, for those that share a GPU."""


@dataclass(frozen=True)
class Resources:
    """What the jobs of one kind ask for where it differs from the profile; none takes the profile's."""

    partition: str | None = setting(None, recorded=True)
    """Partition of the allocation."""
    gpus: int | None = setting(None, minimum=0, recorded=True)
    """GPUs of an allocation."""
    cpus: int | None = setting(None, minimum=1, recorded=True)
    """CPU cores of an allocation."""
    memory: str | None = setting(None, recorded=True)
    """Memory of an allocation, such as 16G."""
    time: str | None = setting(None, recorded=True)
    """Limit of an allocation, as SLURM writes it."""
    packed: int | None = setting(None, minimum=1, recorded=True)
    """Jobs that share one allocation."""


@dataclass(frozen=True)
class SlurmCluster:
    """A SLURM cluster's profile (docs/slurm.md). What is none is left to the cluster's own defaults."""

    name: str = "slurm"
    partition: str | None = setting(None, recorded=True)
    """Partition of the allocation."""
    account: str | None = setting(None, recorded=True)
    """Account that is charged."""
    qos: str | None = setting(None, recorded=True)
    """Quality of service."""
    constraint: str | None = setting(None, recorded=True)
    """Features that a node must have."""
    exclude: str | None = setting(None, recorded=True)
    """Nodes not to be used, such as node03,node[10-12]."""
    gpus: int = setting(1, minimum=0, recorded=True)
    """GPUs of an allocation; kinds that use none ask for 0 in their own group."""
    gres: str | None = setting(None, recorded=True)
    """A generic resource in place of `gpus`, such as gpu:a100:1, for the kinds that want a GPU."""
    cpus: int = setting(4, minimum=1, recorded=True)
    """CPU cores of an allocation."""
    memory: str | None = setting(None, recorded=True)
    """Memory of an allocation, such as 16G."""
    time: str = setting("4:00:00", recorded=True)
    """Limit of an allocation, as SLURM writes it; a job that needs longer is saved, requeued and goes on."""
    parallelism: int = setting(0, minimum=0, recorded=True)
    """Tasks of an array that run at once, at most; 0 leaves it to the cluster."""
    largest: int = setting(0, minimum=0, recorded=True)
    """Tasks of an array, at most, where an account may not submit as many as MaxArraySize at once; 0 is MaxArraySize."""
    packed: int = setting(1, minimum=1, recorded=True)
    """Jobs that share one allocation and its GPUs, each in a process of its own."""
    mps: bool = setting(False, recorded=True)
    """CUDA's Multi-Process Service in allocations whose jobs share a GPU."""
    signal_seconds: int = setting(120, minimum=10, recorded=True)
    """How long before the limit SLURM tells the jobs to save."""
    retries: int = setting(1, minimum=0, recorded=True)
    """How often a job that failed by an exception, or whose process died, is requeued."""
    retry_seconds: float = setting(30.0, minimum=0.0, recorded=True)
    """Pause before the first of these tries; it doubles with each."""
    setup: tuple[str, ...] | None = setting(None, recorded=True)
    """Shell commands before the job, such as `module load cuda`; only in a profile's file."""
    extra: tuple[str, ...] | None = setting(None, recorded=True)
    """Further options of sbatch, such as mail-type=FAIL; only in a profile's file."""
    scratch: str | None = setting(None, recorded=True)
    """A folder of the node (such as $TMPDIR) into which datasets are copied before they are read."""
    collect_dataset: Resources = Resources()
    import_dataset: Resources = Resources()
    train_world_model: Resources = Resources()
    train_state_probe: Resources = Resources()
    extract_features: Resources = Resources()
    evaluate_world_model: Resources = Resources()
    train_agent: Resources = Resources()
    import_agent: Resources = Resources()
    evaluate_agent: Resources = Resources()


Cluster = LocalCluster | SlurmCluster
ONLY_IN_PROFILES = ("setup", "extra")
"""What runs, or asks for, anything at all: taken from a file of the user's alone, never from a study or a command line."""

"""Where jobs run: on this machine, or as arrays of a SLURM cluster. None of these settings enters an identity."""

from dataclasses import dataclass

from diamond_bench.config.fields import setting


@dataclass(frozen=True)
class LocalCluster:
    """This machine."""

    name: str = "local"
    num_workers: int = setting(0, minimum=0, recorded=True)
    """Number of worker processes. Each uses one device. 0 means one per GPU, or one if there is no GPU. On a CPU, fewer
    run while the threads of so many jobs would exceed the cores, unless the command gives this number."""
    mps: bool = setting(False, recorded=True)
    """Run CUDA's Multi-Process Service together with the workers, for workers that share a GPU."""


@dataclass(frozen=True)
class Resources:
    """Requests of one kind of job that differ from the profile. None takes the profile's value."""

    partition: str | None = setting(None, recorded=True)
    """Partition of the allocation."""
    gpus: int | None = setting(None, minimum=0, recorded=True)
    """GPUs per allocation."""
    cpus: int | None = setting(None, minimum=1, recorded=True)
    """CPU cores per allocation."""
    memory: str | None = setting(None, recorded=True)
    """Memory per allocation, such as 16G."""
    time: str | None = setting(None, recorded=True)
    """Time limit of an allocation, in SLURM's notation."""
    packed: int | None = setting(None, minimum=1, recorded=True)
    """Jobs that share one allocation."""
    nodes: int | None = setting(None, minimum=1, recorded=True)
    """Nodes per allocation, each with these GPUs, cores and this memory. A training of several processes can use more than one."""


@dataclass(frozen=True)
class SlurmCluster:
    """A SLURM cluster's profile (docs/slurm.md). For settings that are none, the cluster's own defaults apply."""

    name: str = "slurm"
    partition: str | None = setting(None, recorded=True)
    """Partition of the allocation."""
    account: str | None = setting(None, recorded=True)
    """Account to charge."""
    qos: str | None = setting(None, recorded=True)
    """Quality of service."""
    constraint: str | None = setting(None, recorded=True)
    """Features that a node must have."""
    exclude: str | None = setting(None, recorded=True)
    """Nodes to avoid, such as node03,node[10-12]."""
    gpus: int = setting(1, minimum=0, recorded=True)
    """GPUs per allocation. Kinds of jobs without a GPU ask for 0 in their own group."""
    gres: str | None = setting(None, recorded=True)
    """A generic resource that replaces `gpus`, such as gpu:a100:1, for kinds of jobs that use a GPU."""
    cpus: int = setting(4, minimum=1, recorded=True)
    """CPU cores per allocation."""
    memory: str | None = setting(None, recorded=True)
    """Memory per allocation, such as 16G."""
    time: str = setting("4:00:00", recorded=True)
    """Time limit of an allocation, in SLURM's notation. A job that needs longer is saved, requeued and resumed."""
    parallelism: int = setting(0, minimum=0, recorded=True)
    """Maximum number of tasks of an array that run at once. 0 leaves it to the cluster."""
    largest: int = setting(0, minimum=0, recorded=True)
    """Maximum number of tasks per array, for accounts that may not submit MaxArraySize tasks at once. 0 is MaxArraySize."""
    packed: int = setting(1, minimum=1, recorded=True)
    """Jobs that share one allocation and its GPUs, each in its own process."""
    mps: bool = setting(False, recorded=True)
    """Run CUDA's Multi-Process Service in allocations whose jobs share a GPU."""
    signal_seconds: int = setting(120, minimum=10, recorded=True)
    """Seconds before the time limit at which SLURM signals jobs to save."""
    retries: int = setting(1, minimum=0, recorded=True)
    """How often a job is requeued after an exception or after its process died."""
    retry_seconds: float = setting(30.0, minimum=0.0, recorded=True)
    """Seconds before the first retry. The pause doubles with each retry."""
    setup: tuple[str, ...] | None = setting(None, recorded=True)
    """Shell commands before the job, such as `module load cuda`. Only a profile's file may set them."""
    extra: tuple[str, ...] | None = setting(None, recorded=True)
    """Further options of sbatch, such as mail-type=FAIL. Only a profile's file may set them."""
    scratch: str | None = setting(None, recorded=True)
    """A folder on the node (such as $TMPDIR) to which datasets are copied before they are read."""
    collect_dataset: Resources = Resources()
    import_dataset: Resources = Resources()
    train_world_model: Resources = Resources()
    train_state_probe: Resources = Resources()
    train_inverse_dynamics: Resources = Resources()
    extract_features: Resources = Resources()
    extract_clip_features: Resources = Resources()
    evaluate_world_model: Resources = Resources()
    train_agent: Resources = Resources()
    import_agent: Resources = Resources()
    import_world_model: Resources = Resources()
    evaluate_agent: Resources = Resources()
    play_random: Resources = Resources()


Cluster = LocalCluster | SlurmCluster
ONLY_IN_PROFILES = ("setup", "extra")
"""Settings that execute commands or request anything at all. Only a file of the user may set them, never a study or a command line."""

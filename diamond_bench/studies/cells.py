"""The jobs of one cell of a study, by role. Without torch."""

from dataclasses import replace
from typing import Any

from diamond_bench.config import DataConfig, RunConfig, world_family
from diamond_bench.metrics.planning import input_jobs
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import CollectDataset, EvaluateWorldModel, ImportDataset, TrainWorldModel
from diamond_bench.studies import agents
from diamond_bench.studies.execution import of_imagination, of_no_compilation, of_training


class Cells:
    """Collects the jobs of a study's cells, each artifact once."""

    def __init__(self) -> None:
        self.jobs: dict[JobRef, JobSpec] = {}
        """In dependency order."""
        self._known: dict[tuple[Any, ...], JobRef] = {}

    def of(self, config: RunConfig, protocol: str) -> dict[str, JobRef]:
        """The jobs of a run by role. In the protocol agent: agent, evaluation. In the protocol world_model: dataset, world_model (if the
        family is trained), evaluation, and the jobs that the metrics need."""
        return self._agent(config) if protocol == "agent" else self._world_model(config)

    def _add(self, spec: JobSpec) -> JobRef:
        key = (spec.kind, spec.config, *spec.inputs.values())
        if key not in self._known:  # variants share most jobs, and an identity costs ten times this look-up
            self._known[key] = spec.ref
            self.jobs.setdefault(spec.ref, spec)
        return self._known[key]

    def _agent(self, config: RunConfig) -> dict[str, JobRef]:
        agent = self._add(agents.training_job(config))
        return {"agent": agent, "evaluation": self._add(agents.evaluation_job(config, agent))}

    def _world_model(self, config: RunConfig) -> dict[str, JobRef]:
        dataset = self._add(dataset_job(config))
        trained = {"world_model": self._trained(config, dataset)} if world_family(config.family).trained else {}
        execution = replace(of_no_compilation(config.execution), precision="fp32")  # one job per dataset, whatever the precision
        extra_jobs = input_jobs(config, execution)
        of_dataset = {role: self._add(JobSpec(kind, making, {"dataset": dataset})) for role, kind, making in extra_jobs}
        evaluating = EvaluateWorldModel(config.sampler, config.evaluation, of_imagination(config.execution), config.family)
        evaluation = self._add(JobSpec("evaluate_world_model", evaluating, {"dataset": dataset, **trained, **of_dataset}))
        return {"dataset": dataset, **trained, "evaluation": evaluation, **of_dataset}

    def _trained(self, config: RunConfig, dataset: JobRef) -> JobRef:
        """The job that trains the world model, or an agent with a world model."""
        if config.evaluation.world_model is not None:
            return JobRef.parse(config.evaluation.world_model)
        execution = of_training(config.execution)
        described = (config.objective, config.conditioning, config.network)
        training = TrainWorldModel(config.seed, *described, config.training, execution, config.family)
        return self._add(JobSpec("train_world_model", training, {"dataset": dataset}))


def dataset_job(config: RunConfig) -> JobSpec:
    """The job that creates a run's dataset: collected from its game, or imported if `data.dataset` names one."""
    if config.data.dataset is None:
        policy = config.data.policy
        inputs = {"agent": JobRef.parse(policy)} if agents.is_agent(policy) else {}
        return JobSpec("collect_dataset", CollectDataset(config.game, config.env, config.data), inputs)
    from diamond_bench.data.foreign import dataset_digest, find_dataset, heldout_set

    folder = find_dataset(config.data.dataset)
    neutral = DataConfig()  # the settings of a collection do not affect an imported dataset
    data = replace(config.data, policy=neutral.policy, epsilon=neutral.epsilon, random_start_steps=neutral.random_start_steps)
    data = replace(data, heldout=heldout_set(folder, config.data.heldout))
    return JobSpec("import_dataset", ImportDataset(dataset_digest(folder), config.env, data), {})

"""Plans of one agent outside a study: to train, import or evaluate it, or to profile its training. The same store, the same jobs. Without
torch."""

import platform
import shlex
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path

from diamond_bench.compose import Override, groups, output_root, parse, scale_keys
from diamond_bench.config import SlurmCluster
from diamond_bench.diffusion.schedules import check_closed_loop
from diamond_bench.errors import UserError, nearest
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import Profile, TrainAgent
from diamond_bench.store.profiled import COMPARED, PACKING_PAIRS, PROFILED
from diamond_bench.store.provenance import provenance, source_digest
from diamond_bench.studies.agents import (
    check_agent,
    check_model_free,
    evaluation_job,
    find_agent,
    import_job,
    per_game,
    random_play_job,
    trained_with,
    training_job,
    with_agents,
)
from diamond_bench.studies.bounds import seeds_of
from diamond_bench.studies.check import check_run
from diamond_bench.studies.execution import check_execution, has_compiler, usable_cores
from diamond_bench.studies.families import UnreadSettings, of_family
from diamond_bench.studies.job_plan import RANDOM_PLAY, Plan, Point
from diamond_bench.studies.plan import run_config, scale_of
from diamond_bench.studies.spec import SCALES, check_use, games_of
from diamond_bench.studies.unread import check_read, in_effect
from diamond_bench.typed import to_plain

_QUESTION = "How well does this agent play?"


def plan_train(tokens: Sequence[str]) -> Plan:
    """The plan of `diamond-bench train game=Breakout seed=0 [overrides]`: one training and its evaluation. Raises UserError."""
    return _plan_one(tokens, "train trains one agent", "for more, write a study (see docs/studies.md)")


def _plan_one(tokens: Sequence[str], what: str, for_more: str) -> Plan:
    """`what`, `for_more`: parts of the message for several games, seeds or values."""
    renamed = [_RENAMED.get(key, key) + equals + value for key, equals, value in (token.partition("=") for token in tokens)]
    overrides = parse(renamed)
    rule = f"{what}: one game, one seed, one value a key; {for_more}"
    for token, override in zip(tokens, overrides, strict=True):
        if len(override.values) > 1:
            raise UserError(f"{token}: takes one value; {rule}")
    given = {override.key: override for override in overrides}
    game = games_of(given["games"].value) if "games" in given else ("Breakout",)
    seeds = (
        seeds_of([given["seeds"].value] if isinstance(given["seeds"].value, int) else given["seeds"].value) if "seeds" in given else (0,)
    )
    if len(game) > 1 or len(seeds) > 1:
        raise UserError(rule)
    command = " ".join(["diamond-bench train", *map(shlex.quote, tokens)])
    return _training_plan(game[0], seeds[0], [override for override in overrides if override.key not in ("games", "seeds")], command)


def _training_plan(game: str, seed: int, overrides: Sequence[Override], command: str) -> Plan:
    """The jobs that train an agent and play its final episodes."""
    scale, chosen = scale_of(overrides), {o.key: o.value for o in overrides if o.key in ("scale", "cluster")}
    keys = {"evaluation.metrics" if o.key == "metrics" else o.key: o.value for o in overrides if o.key not in (*chosen, "output_dir")}
    for key in keys:
        check_use(key, "agent", key)
    settings = {**per_game(game), **keys}
    check_model_free(keys)
    config = of_family(replace(run_config({"scale": scale, **chosen}, settings), game=game, seed=seed), "agent")
    config = with_agents(config, Store(output_root(overrides)))
    unread = UnreadSettings("agent")
    check_read(unread.of_variant(keys, config), config)
    unread.check()
    check_run(config, "agent")
    execution, cluster = config.execution, config.cluster
    config = in_effect(config)
    training = training_job(config)
    evaluation = evaluation_job(config, training.ref)
    at_random = random_play_job(config)
    roles = {"agent": training.ref, "evaluation": evaluation.ref, RANDOM_PLAY: at_random.ref}
    point = Point("default", "", {}, game, seed, config.execution.precision, roles)
    name, scale = f"train-{game.replace('/', '-')}-seed{seed}", f"{scale}*" if keys.keys() & scale_keys(scale) else scale
    jobs = {spec.ref: spec for spec in (training, evaluation, at_random)}
    return Plan(name, _QUESTION, scale, command, jobs, (point,), execution, cluster)


_RENAMED = {"game": "games", "seed": "seeds"}


def plan_import(file: Path, tokens: Sequence[str]) -> Plan:
    """The plan of `diamond-bench import FILE [game=...] [sigma_data=...]`: one job. Raises UserError."""
    options = dict(token.partition("=")[::2] for token in tokens)
    for key in options:
        if key not in ("game", "frame_size", *_CONSTANTS, "output_dir"):
            raise UserError(f"{key!r}: import takes game=, frame_size=, sigma_data=, sigma_offset_noise= and output_dir= alone")
    size = options.get("frame_size")
    if size is not None and not (size.isdecimal() and len(size) < 10):
        raise UserError(f"frame_size={size[:40]}: expected a whole number of pixels")
    constants = {key: _number(key, options[key]) for key in _CONSTANTS if key in options}
    spec = import_job(file, options.get("game"), None if size is None else int(size), **constants)
    config = run_config({"scale": "paper"}, {})
    point = Point("imported", "", {}, spec.config.game, 0, "", {"agent": spec.ref, "evaluation": spec.ref})
    command = " ".join(["diamond-bench import", shlex.quote(str(file)), *map(shlex.quote, tokens)])
    name = f"import-{spec.config.game.replace('/', '-')}"
    return Plan(name, "", "imported", command, {spec.ref: spec}, (point,), config.execution, config.cluster)


_CONSTANTS = ("sigma_data", "sigma_offset_noise")
"""Constants of an objective that a checkpoint file does not contain."""


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{key}={text[:40]}: expected a number") from None


def plan_evaluate(checkpoint: str, tokens: Sequence[str], episodes: int | None, video: bool) -> Plan:
    """The plan of `diamond-bench evaluate CHECKPOINT [--episodes 100] [--video] [overrides]`: one job for an agent of the store.

    The game and its preprocessing are those of the agent's training, unless overrides change them. Raises UserError.
    """
    overrides = parse([token for token in tokens if token.partition("=")[0] not in _RENAMED])
    if len(overrides) < len(tokens):
        raise UserError("game=, seed=: an evaluation plays the game that the agent was trained on")
    store = Store(output_root(overrides))
    agent = find_agent(store, checkpoint)
    game, seed, env = trained_with(store, agent)
    trained = trained_at(store, agent)
    asked_scale = next((str(o.value) for o in overrides if o.key == "scale"), None)
    scale = asked_scale or (trained if trained in SCALES else "paper")
    changed = bool(video or episodes is not None or [o for o in overrides if o.key not in ("scale", "cluster", "output_dir")])
    label = f"{trained}*" if changed or scale != trained else trained
    allowed = ("scale", "cluster", "output_dir")
    chosen = {o.key: o.value for o in overrides if o.key in groups()}
    asked = {o.key: o.value for o in overrides if o.key not in groups() and o.key not in allowed}
    settings = {f"env.{key}": value for key, value in to_plain(env).items()} | asked
    if episodes is not None:
        settings |= {"agent_evaluation.episodes": episodes}
    if video:
        settings["agent_evaluation.video"] = True
    for key in (*asked, *(key for key in chosen if key == "family")):
        if key.partition(".")[0] not in ("env", "agent_evaluation", "execution", "sampler"):
            raise UserError(f"{key}: an evaluation of an agent takes env.*, agent_evaluation.*, sampler.* and execution.* alone")
        if key == "env.pooling":
            raise UserError(f"{key}: it has no effect; an evaluation shows the agent no final observation")
    config = run_config({"scale": scale, **chosen}, settings)
    if episodes is not None and config.agent_evaluation.num_envs > episodes:
        config = replace(config, agent_evaluation=replace(config.agent_evaluation, num_envs=episodes))
    if config.env.frame_size != env.frame_size:
        raise UserError(f"env.frame_size={config.env.frame_size}: the agent sees frames of {env.frame_size} pixels")
    check_agent(config)
    check_closed_loop(config.sampler, "an agent")
    config = replace(config, game=game, seed=seed)
    spec = evaluation_job(config, agent)
    at_random = random_play_job(config)
    roles = {"agent": agent, "evaluation": spec.ref, RANDOM_PLAY: at_random.ref}
    point = Point("evaluated", "", {}, game, seed, config.execution.precision, roles)
    options = [*(["--episodes", str(episodes)] if episodes is not None else []), *(["--video"] if video else [])]
    command = " ".join(["diamond-bench evaluate", shlex.quote(checkpoint), *options, *map(shlex.quote, tokens)])
    jobs = {spec.ref: spec, at_random.ref: at_random}
    return Plan(f"evaluate-{agent.id}", _QUESTION, label, command, jobs, (point,), config.execution, config.cluster)


TIMELESS = frozenset(
    {"learning_rate", "weight_decay", "adam_epsilon", "adam_beta2", "warmup_steps", "max_grad_norm", "discount", "trace_decay"}
    | {"value_weight", "entropy_weight", "epsilon", "temperature", "sticky_actions", "minority_share", "max_noops", "initial_rare_rewards"}
    | {"pooling"}
    | {"checkpoint_every", "checkpoint_units", "log_every", "test_every", "test_episodes", "test_max_steps", "segments"}
)
"""Settings of a training (last part of the key) without effect on the time that a profile measures, and on memory."""
TIMED_GROUPS = ("env", "conditioning", "network", "training", "sampler", "reward_end", "actor_critic", "agent")
"""The groups of a training that affect its time."""


def plan_profile(
    tokens: Sequence[str],
    compare: str | None,
    model_of: Callable[[str], tuple[str, str]],
    parts: Sequence[str] = (),
    packed: Sequence[int] = (),
    pairs: int | None = None,
) -> Plan:
    """The plan of `diamond-bench profile [overrides] [--compare plain|authors] [--parts NAME,NAME] [--packed N,M]`: one job, for the
    training that the overrides describe, on this machine with this software.

    `model_of` maps execution.device to (the actual device, its model). `parts`: of PROFILED, or none for all. `packed`: numbers of such
    trainings to run at once, in place of the parts of one. `pairs`: how often each of them is measured. Raises UserError.
    """
    if compare is not None and compare not in COMPARED:
        raise UserError(f"--compare {compare}: {nearest(compare, COMPARED)}")
    for part in parts:
        if part not in PROFILED:
            named = nearest(part, PROFILED) if part else "an empty name; names are apart by commas, without spaces"
            raise UserError(f"--parts {part}: {named}")
    if packed and (compare is not None or parts):
        raise UserError("--packed compares whole trainings at once with one alone; --compare and --parts are for the parts of one training")
    if any(number < 2 for number in packed) or len(set(packed)) < len(packed):
        raise UserError(f"--packed {','.join(map(str, packed))}: expected different numbers of runs at once, 2 at least, such as 2,4")
    if pairs is not None and (not packed or pairs < 2 or pairs % 2):
        raise UserError(f"--pairs {pairs}: expected an even number of pairs, 2 at least, together with --packed")
    for token in tokens:
        if token.startswith(("agent_evaluation.", "agent_evaluation=")):
            raise UserError(f"{token.partition('=')[0]}: a profile measures a training, which has no final episodes; it has no effect")
    plan = _plan_one(tokens, "profile measures one training", "for more, run it once for each")
    if isinstance(plan.cluster, SlurmCluster):
        raise UserError("cluster=slurm: a profile measures the device of this machine; run the command itself on a node, such as with srun")
    if plan.cluster.mps and not packed:
        raise UserError("cluster.mps=true: one process has the device to itself, so it has no effect; use it with --packed")
    training = next(spec.config for spec in plan.jobs.values() if isinstance(spec.config, TrainAgent))
    if training.family is not None:
        raise UserError(f"family={training.family.name}: a profile measures the networks of family=diamond; leave it out")
    if training.network.heads.used:
        reads = training.network.heads.reads
        raise UserError(f"network.heads.reads={reads}: a profile measures the separate model of rewards and ends; use none")
    if training.agent.model_free:
        raise UserError("agent.model_free=true: a profile measures the networks of a world model; leave it false")
    device, model = model_of(plan.execution.device)
    execution = replace(training.execution, device=device)
    check_execution(execution, device.partition(":")[0])
    if compare == "authors" and device == "cpu" and not has_compiler(device):
        raise UserError("--compare authors: their imagination is compiled, for which torch.compile needs a C++ compiler, and none is here")
    training = replace(_timed(training), execution=execution)
    executed = " ".join(f"{f.name}={getattr(execution, f.name)}" for f in fields(execution) if f.name not in ("device", "num_processes"))
    measured = "" if set(parts) == set(PROFILED) else ",".join(part for part in PROFILED if part in parts)
    numbers = tuple(sorted(set(packed))) or None
    software, host, mps = _software(), _host(), plan.cluster.mps
    profile = Profile(model, executed, training, compare or "", measured, software, host, numbers, mps, pairs or PACKING_PAIRS, plan.scale)
    spec = JobSpec("profile", profile)
    point = Point("profiled", "", {}, training.game, training.seed, execution.precision, {"evaluation": spec.ref})
    asked = [*tokens, *(["--compare", compare] if compare else []), *(["--parts", measured] if measured else [])]
    asked += ["--packed", ",".join(map(str, numbers))] if numbers else []
    asked += ["--pairs", str(pairs)] if pairs is not None else []
    command = " ".join(["diamond-bench profile", *map(shlex.quote, asked)])
    question = "Where does the time of a training go?"
    return Plan(f"profile-{spec.id}", question, plan.scale, command, {spec.ref: spec}, (point,), execution, plan.cluster)


def _timed(training: TrainAgent) -> TrainAgent:
    """The training with neutral values for settings that take no time, so that they do not change the profile's identity."""
    groups = {}
    for name in TIMED_GROUPS:
        group = getattr(training, name)
        neutral = {f.name: f.default for f in fields(group) if f.name in TIMELESS and f.default is not MISSING}
        groups[name] = replace(group, **neutral)
    return replace(training, **groups)


def _software() -> str:
    record = provenance()
    versions = [f"{name} {record['versions'].get(name, 'of no known version')}" for name in ("torch", "diamond-bench")]
    code = f"commit {record['commit']}" if record["commit"] else f"code {source_digest()}"
    return ", ".join([*versions, code])


def _host() -> str:
    return f"{platform.node()}, {usable_cores()} cores"


def trained_at(store: Store, agent: JobRef) -> str:
    """The scale of an agent's training: its name, `imported`, or `own` for any other settings."""
    config = store.spec(agent).config
    if not isinstance(config, TrainAgent):
        return "imported"
    for scale in SCALES:
        of_scale = run_config({"scale": scale}, {**per_game(config.game), "env.pooling": config.env.pooling})
        if training_job(in_effect(replace(of_scale, game=config.game, seed=config.seed))).ref == agent:
            return scale
    return "own"

"""Opens jobs, studies, families and games for play: their models, the real play to start from, and the real game."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from diamond_bench.config import SAMPLERS, Sampler
from diamond_bench.data.foreign import PLAYED_GAME
from diamond_bench.data.static import load_info
from diamond_bench.diffusion.schedules import check_closed_loop
from diamond_bench.envs.games import spec as game_spec
from diamond_bench.errors import UserError
from diamond_bench.models.actor_critic import Policy
from diamond_bench.models.threads import torch_threads
from diamond_bench.play.lanes import Lane, Real, Setting
from diamond_bench.play.naming import Named, Request, sampler_with
from diamond_bench.play.opened import LaneFacts, Opened
from diamond_bench.play.sources import places, start_at, trained, untrained
from diamond_bench.play.spawns import as_play, check_low, chosen_start, read_spawns, recordings_of, spawn_starts
from diamond_bench.spaces import FrameSpec
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.stored.imagination import (
    START_STEPS,
    How,
    Imagination,
    RealPlay,
    agent_play,
    dataset_play,
    has_replay,
    imagination_of,
    random_play,
)
from diamond_bench.stored.kept_play import kept_play
from diamond_bench.stored.models import check_placement, load_agent, spec_behind
from diamond_bench.studies.agents import AGENT_KINDS
from diamond_bench.worlds.contract import Reconstructing, TrainedWorld, TwoStages, Watchable

MOST_STARTS = 48
"""Places to begin that are offered."""
MOST_REPLAYED = 10_000
"""Steps of a long recording in which places are offered next to the real game, which replays all steps before a place: some seconds."""
REAL = "real game"
"""The name of the real game's lane."""


def open_sources(
    store: Store,
    asked: Request,
    real: bool = False,
    how: How = How(),
    threads: int = 1,
    say: Callable[[str], None] = print,
    spawn: Path | None = None,
) -> Opened:
    """Opens what a request names (docs/play.md): jobs, studies, families and games.

    Args:
        store: the store of the jobs. Imported agents, which have no real play, play some once, and the store keeps it (`kept_play`).
        asked: from `naming.request`.
        real: adds the real game. A word that stands for no model, such as the name of a game, adds it too.
        how: milestone, device and precision of the models.
        threads: CPU threads of torch while it opens.
        say: gets a line before something that takes seconds.
        spawn: a folder of start states (`spawns.read_spawns`), in place of real play of the store.

    Raises UserError for jobs that are not finished, and for settings that they do not take.
    """
    check_placement(how.device, how.precision)
    if how.milestone is not None and not any(one.model for one in asked.named):
        raise UserError(f"milestone={how.milestone}: no world model is named")
    with torch_threads(threads):
        return _open(store, asked, real, how, say, spawn)


@dataclass(frozen=True)
class _Model:
    """One opened lane of a world model."""

    facts: LaneFacts
    lane: Callable[[], Lane]
    length: int
    low: FrameSpec | None
    """The size of its frames at low resolution, if it has two stages."""


def _open(store: Store, asked: Request, real: bool, how: How, say: Callable[[str], None], spawn: Path | None) -> Opened:
    named, notes = asked.named, list(asked.notes)
    real = real or not all(one.model for one in named)
    first = next((one for one in named if one.job is not None), named[0])
    spec = None if spawn is None else spec_behind(store, first.job)
    spawns = () if spawn is None or spec is None else read_spawns(spawn, spec)
    given = None if spec is None else as_play(spawns, spec.actions)
    agent = None if asked.policy is None else load_agent(store, asked.policy, how.device, how.precision)
    models, play, policy = _models(store, asked, how, None if agent is None else agent.policy, notes, say, given)
    if len(named) > 1 and spawn is None:
        notes.append(f"All pictures start from the real play of {first.name}.")
    recording = play.recording
    facts = [model.facts for model in models]
    makers = [model.lane for model in models]
    if recording is None:
        missing = f"No real game: the episodes of {first.name} were imported, and nobody recorded their seeds."
        if spawn is not None:
            missing = f"No real game: {spawn} contains frames and actions, and no game."
        if real:
            raise UserError(missing)
        notes.append(missing)
    elif real:
        given_by = game_spec(recording.game, recording.env)
        facts.append(LaneFacts(REAL, recording.game, True, rewards=given_by.rewards, ends=given_by.ends, policy=policy is not None))
        makers.append(lambda: Lane(REAL, Real(recording), policy, recording.game))
    for model in models:
        if spawn is not None and model.low is not None:
            check_low(spawn, spawns, model.low, model.facts.name)
    makers[-1]()  # raises where the real game cannot be played
    lengths = [model.length for model in models] + ([] if agent is None else [agent.description.actor_critic.start_frames])
    length = max(lengths, default=1)
    episodes = play.episodes
    begun = spawn_starts(spawns, length) if spawns else None
    return Opened(
        game=_title(store, first),
        actions=play.actions,
        facts=tuple(facts),
        lanes=lambda: tuple(make() for make in makers),
        starts=places(episodes, MOST_STARTS, length, MOST_REPLAYED if real else None) if begun is None else tuple(begun),
        start=lambda place: start_at(episodes, *place, length) if begun is None else chosen_start(begun, place),
        notes=tuple(notes),
        env=None if recording is None else recording.env,
        play=recording,
        compared=0 if real and len(models) == 1 else None,
        recordings=recordings_of(spawns, play.actions),
    )


def _models(
    store: Store,
    asked: Request,
    how: How,
    given: Policy | None,
    notes: list[str],
    say: Callable[[str], None],
    play: RealPlay | None,
) -> tuple[list[_Model], RealPlay, Policy | None]:
    """The world models in the order of the request, the real play from which all lanes start, and the policy for the real game.

    `given`: the policy of lanes without one of their own. `notes` gets sentences about what was done. `play` is where to start; None is
    the play of a job.
    """
    policies = [given]
    models: dict[str, _Model] = {}
    for one in sorted(asked.named, key=lambda one: one.job is None):  # jobs first: families start from their play
        if play is None and (play := _played_for(store, one, how, say)) is not None:
            notes.append(f"{one.name}: the store has no real play of its training, so its policy played {START_STEPS:,} steps.")
        if one.model:
            own = replace(how, game=one.game) if one.job is None else replace(how, sampler=one.sampler)
            imagination = imagination_of(store, one.source, own, play)
            models[one.name] = _model(store, one, own, imagination, asked, given)
            play = play or imagination.real
            policies.append(imagination.policy)
        else:
            play, policy = _without_model(store, one, how, play)
            policies.append(policy)
    assert play is not None
    return [models[one.name] for one in asked.named if one.model], play, next((found for found in policies if found is not None), None)


def _title(store: Store, first: Named) -> str:
    """The name of the game. For an imported dataset it is the game that was recorded, if its recordings name one."""
    kind, _, identity = first.game.partition("/")
    if kind != "import_dataset":
        return first.game
    return str(load_info(store.folder(JobRef(kind, identity))).content.get(PLAYED_GAME, first.game))


def _played_for(store: Store, one: Named, how: How, say: Callable[[str], None]) -> RealPlay | None:
    """Real play of the agent behind a job, if the store holds none of its training. None for everything else."""
    agent = None if one.job is None else _agent_behind(store, one.job)
    return None if agent is None or has_replay(store, agent) else kept_play(store, agent, how, say)


def _agent_behind(store: Store, ref: JobRef) -> JobRef | None:
    """The agent of a job whose play is that of the agent. A dataset has its own, whoever collected it."""
    if ref.kind == "collect_dataset":
        return None
    return next((found for found in (ref, *store.spec(ref).inputs.values()) if found.kind in AGENT_KINDS), None)


def _model(store: Store, one: Named, how: How, imagination: Imagination, asked: Request, policy: Policy | None) -> _Model:
    """`policy`: plays where the lane has none of its own."""
    world, policy, load = imagination.world, imagination.policy or policy, imagination.load
    samplers: tuple[str, ...] = ()
    guidance = False
    if load is None or imagination.sampler is None:
        if asked.sampler:
            raise UserError(f"{asked.sampler[0].key}: {one.name} samples nothing; leave it out")
        dynamics = replace(untrained(world), reward_end=imagination.reward_end)
    else:
        sampler = sampler_with(imagination.sampler, asked.sampler)
        samplers, guidance = _fitting(load(None), sampler)
        dynamics = trained(load, Setting(sampler if samplers else None, imagination.milestone), sampler, imagination.reward_end)

    def lane() -> Lane:
        if world.pure or load is not None:
            return Lane(one.name, dynamics, policy, one.source, isinstance(world, Reconstructing))
        again = imagination_of(store, one.source, how, imagination.real).world  # it holds a game, which only one thread may step
        return Lane(one.name, replace(untrained(again), reward_end=imagination.reward_end), policy, one.source)

    facts = LaneFacts(
        one.name,
        one.source,
        milestones=imagination.milestones if len(imagination.milestones) > 1 else (),
        samplers=samplers,
        guidance=guidance,
        rewards=imagination.rewarded,
        ends=imagination.reward_end is not None or world.spec.ends,
        policy=policy is not None,
        watchable=isinstance(world, Watchable),
        two_stages=isinstance(world, TwoStages),
    )
    return _Model(facts, lane, imagination.length, world.low_frames if isinstance(world, TwoStages) else None)


def _fitting(model: TrainedWorld, sampler: Sampler) -> tuple[tuple[str, ...], bool]:
    """The samplers that a model takes with their own settings, and whether it takes guidance.

    A model that samples nothing takes none.
    """
    if model.bound(sampler) is model:
        return (), False

    def fits(candidate: Sampler) -> bool:
        try:
            check_closed_loop(candidate, "a player")
            model.bound(candidate)
        except UserError:
            return False
        return True

    names = tuple(name for name in SAMPLERS if name == sampler.name or fits(_like(sampler, name)))
    return names, fits(replace(sampler, guidance=2.0))


def _like(sampler: Sampler, name: str) -> Sampler:
    """Another sampler that treats frames as this one does."""
    settings: type[Sampler] = SAMPLERS[name].settings_type()
    kept = {field.name for field in fields(settings)} & vars(sampler).keys() & {"quantization", "s_cond"}
    return settings(name=name, **{key: getattr(sampler, key) for key in kept})


def _without_model(store: Store, one: Named, how: How, play: RealPlay | None) -> tuple[RealPlay, Policy | None]:
    """The real play and the policy behind a word that stands for the real game alone."""
    if one.job is None:
        assert one.env is not None
        return play or random_play(one.game, one.env, how), None
    agent_job = _agent_behind(store, one.job)
    if agent_job is None:
        return play or dataset_play(store, one.job), None
    agent = load_agent(store, agent_job, how.device, how.precision)
    return play or agent_play(store, agent_job, agent, how), agent.policy

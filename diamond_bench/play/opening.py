"""Opens jobs, studies, families and games for play: their models, the real play to start from, and the real game."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from diamond_bench.config import SAMPLERS, Sampler
from diamond_bench.errors import UserError
from diamond_bench.models.actor_critic import ActorCritic
from diamond_bench.models.precision import Precision
from diamond_bench.models.threads import torch_threads
from diamond_bench.play.lanes import Lane, Real, Setting
from diamond_bench.play.naming import Named, Request, request, sampler_with
from diamond_bench.play.opened import LaneFacts, Opened
from diamond_bench.play.sources import places, start_at, trained, untrained
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
from diamond_bench.stored.models import check_placement, load_agent
from diamond_bench.studies.agents import AGENT_KINDS
from diamond_bench.worlds.contract import TrainedWorld, Watchable

MOST_STARTS = 48
"""Places to begin that are offered."""
REAL = "real game"
"""The name of the real game's lane."""


def open_sources(
    store: Store,
    words: Sequence[str],
    real: bool = False,
    milestone: float | None = None,
    device: str = "cpu",
    precision: Precision = "fp32",
    threads: int = 1,
) -> Opened:
    """Opens what the words of the command name (docs/play.md): jobs, studies, families and games, and settings `key=value`.

    Args:
        store: the store of the jobs.
        words: as on the command line.
        real: adds the real game. A word that stands for no model, such as the name of a game, adds it too.
        milestone: see `Setting.milestone`.
        device: torch's name of the models' device.
        precision: of the networks' arithmetic.
        threads: CPU threads of torch while it opens.

    Raises UserError for words that name nothing, jobs that are not finished or not of one game, and settings that they do not take.
    """
    asked = request(store, words)
    check_placement(device, precision)
    if milestone is not None and not any(one.model for one in asked.named):
        raise UserError(f"milestone={milestone}: no world model is named")
    with torch_threads(threads):
        return _open(store, asked, real, How(milestone=milestone, device=device, precision=precision))


@dataclass(frozen=True)
class _Model:
    """One opened lane of a world model."""

    facts: LaneFacts
    lane: Callable[[], Lane]
    length: int
    policy: ActorCritic | None


def _open(store: Store, asked: Request, real: bool, how: How) -> Opened:
    named = asked.named
    real = real or not all(one.model for one in named)
    play: RealPlay | None = None
    policy: ActorCritic | None = None
    notes = list(asked.notes)
    models: dict[str, _Model] = {}
    for one in sorted(named, key=lambda one: one.job is None):  # jobs first: families start from their play
        if one.model:
            own, more = _how(store, one, how, play)
            imagination = imagination_of(store, one.source, own, play)
            models[one.name] = _model(store, one, own, imagination, asked)
            play = play or imagination.real
        else:
            play, policy, more = _without_model(store, one, how, play)
        notes += more
    assert play is not None
    opened = [models[one.name] for one in named if one.model]
    policy = next((model.policy for model in opened if model.policy is not None), policy)
    first = next((one for one in named if one.job is not None), named[0])
    if len(named) > 1:
        notes.append(f"All pictures start from the real play of {first.name}.")
    recording = play.recording
    facts = [model.facts for model in opened]
    makers = [model.lane for model in opened]
    if recording is None:
        missing = f"No real game: the episodes of {first.name} were imported, and nobody recorded their seeds."
        if real:
            raise UserError(missing)
        notes.append(missing)
    elif real:
        facts.append(LaneFacts(REAL, recording.game, True, rewards=True, ends=True, policy=policy is not None))
        makers.append(lambda: Lane(REAL, Real(recording), policy, recording.game))
    makers[-1]()  # raises where the real game cannot be played
    length = max((model.length for model in opened), default=1)
    episodes = play.episodes
    return Opened(
        game=first.game,
        actions=play.actions,
        facts=tuple(facts),
        lanes=lambda: tuple(make() for make in makers),
        starts=places(episodes, MOST_STARTS, length),
        start=lambda place: start_at(episodes, *place, length),
        notes=tuple(notes),
        env=None if recording is None else recording.env,
        play=recording,
        difference=(0, 1) if real and len(opened) == 1 else None,
    )


def _how(store: Store, one: Named, how: How, play: RealPlay | None) -> tuple[How, list[str]]:
    """How a lane is opened, and a sentence where its real play has to be played first."""
    if one.job is None:
        return replace(how, game=one.game), []
    how = replace(how, sampler=one.sampler)
    agent = _agent_behind(store, one.job)
    if play is not None or agent is None or has_replay(store, agent):
        return how, []
    return replace(how, start_steps=START_STEPS), [
        f"{one.name}: the store holds no real play of its training, so its policy played {START_STEPS:,} steps to start from."
    ]


def _agent_behind(store: Store, ref: JobRef) -> JobRef | None:
    inputs = store.spec(ref).inputs
    return next((found for found in (ref, *inputs.values()) if found.kind in AGENT_KINDS), None)


def _model(store: Store, one: Named, how: How, imagination: Imagination, asked: Request) -> _Model:
    world, policy, load = imagination.world, imagination.policy, imagination.load
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
        if world.pure:
            return Lane(one.name, dynamics, policy, one.source)
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
    )
    return _Model(facts, lane, imagination.length, policy)


def _fitting(model: TrainedWorld, sampler: Sampler) -> tuple[tuple[str, ...], bool]:
    """The samplers that a model takes with their own settings, and whether it takes guidance.

    A model that samples nothing takes none.
    """
    if model.bound(sampler) is model:
        return (), False

    def fits(candidate: Sampler) -> bool:
        try:
            model.bound(candidate)
        except UserError:
            return False
        return True

    others = {name: SAMPLERS[name].settings_type()(name=name, quantization=sampler.quantization) for name in SAMPLERS}
    names = tuple(name for name, other in others.items() if name == sampler.name or fits(other))
    return names, fits(replace(sampler, guidance=2.0))


def _without_model(store: Store, one: Named, how: How, play: RealPlay | None) -> tuple[RealPlay, ActorCritic | None, list[str]]:
    """The real play and the policy behind a word that stands for the real game alone."""
    if one.job is None:
        assert one.env is not None
        return play or random_play(one.game, one.env, how), None, []
    agent_job = _agent_behind(store, one.job)
    if agent_job is None:
        return play or dataset_play(store, one.job), None, []
    agent = load_agent(store, agent_job, how.device, how.precision)
    own, notes = _how(store, one, how, play)
    return play or agent_play(store, agent_job, agent, own), agent.actor_critic, notes

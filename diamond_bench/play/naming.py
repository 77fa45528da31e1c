"""From the words of `diamond-bench play` to the lanes that they name. Reads the store's descriptions of jobs. Without torch."""

import contextlib
import difflib
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from diamond_bench.compose import Override, base, parse, with_values
from diamond_bench.config import SAMPLERS, WORLD_FAMILIES, EnvConfig, OpenLoopSampler, RunConfig, Sampler
from diamond_bench.config.worlds import DIAMOND, untrained_families
from diamond_bench.diffusion.schedules import check_closed_loop
from diamond_bench.envs import games
from diamond_bench.errors import UserError, joined, nearest
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.kinds import CollectDataset, TrainAgent
from diamond_bench.studies.agents import AGENT_KINDS, find_agent, trained_with
from diamond_bench.studies.plan import SavedPlan, find_plan, load_plan, run_config, study_folders
from diamond_bench.studies.spec import study_files
from diamond_bench.typed import build, to_plain

MOST_MODELS = 6
"""World models next to each other."""
PLAYABLE = ("train_world_model", "evaluate_world_model", "import_world_model", *AGENT_KINDS, "evaluate_agent", "collect_dataset")
"""Kinds of jobs that can be named."""
_OF_ENV = "env."
_NEAR = 5
"""Jobs that the message of an unknown id names."""
OWN_KEYS = ("game", "seed", "variant", "output_dir")
"""Keys that choose what is opened. Other keys are those of the sampler, and those that name a sweep of a study, such as scale."""


@dataclass(frozen=True)
class Named:
    """One thing to open."""

    name: str
    """Short, for its picture."""
    source: str
    """A job in the form kind/id, or the name of a family or of a game."""
    game: str
    """The game, or the job of an imported dataset. Empty for a family without a game."""
    env: EnvConfig | None = None
    """The environment's settings. None for a family, which takes those of the jobs next to it."""
    job: JobRef | None = None
    model: bool = True
    """Whether it imagines. Otherwise it stands for the real game."""
    sampler: Sampler | None = None
    """The sampler to begin with. None is the job's own."""


@dataclass(frozen=True)
class Request:
    """All that the words of a command name, checked without loading a model."""

    named: tuple[Named, ...]
    sampler: tuple[Override, ...] = ()
    """Changes of the sampler of each lane."""
    notes: tuple[str, ...] = ()
    """Sentences about what was chosen."""
    policy: JobRef | None = None
    """The agent whose policy plays in pictures without one of their own."""


@dataclass
class _Words:
    sources: list[str] = field(default_factory=list)
    sampler: list[str] = field(default_factory=list)
    sweep: list[str] = field(default_factory=list)
    """Overrides that name a sweep of a study."""
    own: dict[str, list[str]] = field(default_factory=dict)


def request(store: Store, words: Sequence[str], policy: str | None = None) -> Request:
    """What the words name: sources, and settings `key=value`. Raises UserError for anything that cannot be played together.

    `policy`: the job of an agent whose policy plays in all pictures without one of their own.
    """
    given = _sorted(words)
    sampler = parse(given.sampler)
    _check_sampler(sampler)
    if not given.sources:
        raise UserError(f"play: name a job, a study or a game, such as `diamond-bench play {_example(store)}`")
    found, notes, of_study, games_alone = list[Named](), list[str](), False, True
    for source in dict.fromkeys(_without_folder(store, source) for source in given.sources):
        kind, more = _kind(store, source), list[Named]()
        games_alone = games_alone and kind == "game"
        if kind == "study":
            more, said = _of_study(store, source, given)
            notes += said
            of_study = True
        elif kind == "family":
            more = [Named(source, source, "")]
        elif kind == "game":
            more = [Named(source, source, source, _env(source, given), model=False)]
        else:
            more = [_of_job(store, _find(store, source))]
        found += [one for one in more if one.source not in {known.source for known in found}]
    if not of_study:
        _refuse_choices(given, games_alone)
    names = [one.name for one in found]
    found = [replace(one, name=f"{one.name} ({one.job.id[:6]})") if one.job and names.count(one.name) > 1 else one for one in found]
    found, said = _with_samplers(store, found)
    notes += said
    agent = None if policy is None else _of_job(store, find_agent(store, policy))
    found = _of_one_game(found, given.own.get("game", [""])[0], agent)
    models = [one.name for one in found if one.model]
    if len(models) > MOST_MODELS:
        raise UserError(f"{len(models)} world models are named, and {MOST_MODELS} fit next to each other: {_listed(models)}")
    return Request(tuple(found), tuple(sampler), tuple(notes), None if agent is None else agent.job)


def sampler_with(sampler: Sampler, overrides: Iterable[Override]) -> Sampler:
    """A sampler with changes such as sampler=heun or sampler.num_steps=1. Raises UserError for an unknown key or value."""
    chosen = tuple(sorted((override.key, str(override.value)) for override in overrides if override.is_group))
    plain: dict[str, Any] = {"sampler": to_plain(sampler)}
    if chosen:
        composed = base(chosen)["sampler"]
        plain["sampler"] = composed if dict(chosen).get("sampler") else {**plain["sampler"], "schedule": composed["schedule"]}
    changed = with_values(plain, {override.key: override.value for override in overrides if not override.is_group})
    return build(RunConfig, changed).sampler


def _check_sampler(overrides: Sequence[Override]) -> None:
    """Raises UserError for changes that no sampler takes."""
    refusals = []
    for name, option in SAMPLERS.items():
        try:
            check_closed_loop(sampler_with(option.settings_type()(name=name), overrides), "a player")
            return
        except UserError as error:
            refusals.append(error)
    raise refusals[0]


def _sorted(words: Sequence[str]) -> _Words:
    given = _Words()
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            given.sources.append(word)
        elif key in OWN_KEYS:
            if key in given.own and key != "variant":
                raise UserError(f"{key}: given twice")
            given.own.setdefault(key, []).append(value)
        else:
            (given.sampler if key.partition(".")[0].partition("/")[0] == "sampler" else given.sweep).append(word)
    return given


def _without_folder(store: Store, source: str) -> str:
    """A job in the form kind/id for a path in its folder. Everything else as it is."""
    path = Path(source).absolute()
    inside = path.relative_to(store.root).parts if path.exists() and path.is_relative_to(store.root) else ()
    return "/".join(inside[:2]) if inside[:1] and inside[0] in store.kinds else source


def _kind(store: Store, source: str) -> str:
    """What a source is: a family, a game, a study or a job."""
    families, swept = untrained_families(), {folder.parent.name for folder in study_folders(store.root, lambda reason: None)}
    if source in families:
        return "family"
    if source == DIAMOND or source in WORLD_FAMILIES:
        raise UserError(f"{source}: models of this family are trained; name a job that trained one, or {' or '.join(families)}")
    if source in games.games():
        return "game"
    if source in swept or source in study_files() or source.endswith((".yaml", ".yml")):
        return "study"
    kind, _, identity = source.rpartition("/")
    if identity and set(identity) <= set("0123456789abcdef") and kind in ("", *store.kinds):
        return "job"
    known = [*study_files(), *swept, *families, *games.games()]
    raise UserError(f"{source!r}: neither a job's id nor a study, a family or a game; {nearest(source, known)}")


def _find(store: Store, source: str) -> JobRef:
    """The job of an id. Raises UserError, with the nearest jobs that can be played, if there is none."""
    kind, _, identity = source.rpartition("/")
    if any(ref.id.startswith(identity) and kind in ("", ref.kind) for ref in store.refs()):
        return store.find(source)
    known = {ref.id: ref for ref in store.refs() if ref.kind in PLAYABLE}
    near = [known[found] for found in difflib.get_close_matches(identity, known, n=_NEAR, cutoff=0.0)]
    listed = "; ".join(f"{ref} ({', '.join(filter(None, _where(store, ref)))})" for ref in near)
    hint = f"the nearest: {listed}. `diamond-bench status` lists the studies and their jobs" if near else "there are none to play"
    raise UserError(f"{source!r} names no job of {store.root}; {hint}")


def _where(store: Store, ref: JobRef) -> tuple[str, str]:
    """The game and the variant of a job. The variant is empty for a job of no study."""
    variant = ""
    for folder in study_folders(store.root, lambda reason: None):
        with contextlib.suppress(OSError, UserError):
            variant = next((point.variant for point in load_plan(folder).points if ref in point.jobs.values()), variant)
    try:
        return _of_job(store, ref).game, variant
    except UserError:
        return "", variant


def _of_job(store: Store, ref: JobRef, name: str = "") -> Named:
    """The lane of a job. Raises UserError if it cannot be played."""
    if ref.kind not in PLAYABLE:
        raise UserError(f"{ref}: there is nothing to play in it; name a job of {', '.join(PLAYABLE)}")
    spec = store.spec(ref)
    name = name or f"{_SHORT[ref.kind]} {ref.id[:6]}"
    if ref.kind == "collect_dataset":
        return Named(name, str(ref), spec.config.game, spec.config.env, ref, model=False)
    trained = next((spec.inputs[key] for key in ("agent", "world_model") if key in spec.inputs), ref)
    if trained.kind in AGENT_KINDS:
        config, (game, _, env) = store.spec(trained).config, trained_with(store, trained)
        return Named(name, str(ref), game, env, ref, model=not (isinstance(config, TrainAgent) and config.agent.model_free))
    if ref.kind == "import_world_model":
        return Named(name, str(ref), str(ref), EnvConfig(), ref)
    dataset = spec.inputs["dataset"]
    collected = store.spec(dataset).config
    return Named(name, str(ref), collected.game if isinstance(collected, CollectDataset) else str(dataset), collected.env, ref)


def _with_samplers(store: Store, found: Sequence[Named]) -> tuple[list[Named], list[str]]:
    """The same, where trainings begin with the sampler of their evaluation, which fits the model, and a sentence about each of them."""
    evaluations = _evaluations(store, {one.job for one in found if one.job is not None and one.job.kind == "train_world_model"})
    chosen = [replace(one, sampler=store.spec(evaluations[one.job]).config.sampler) if one.job in evaluations else one for one in found]
    notes = [f"{one.name}: begins with the sampler of its evaluation {evaluations[one.job]}." for one in found if one.job in evaluations]
    return chosen, notes


def _evaluations(store: Store, trainings: Set[JobRef]) -> dict[JobRef | None, JobRef]:
    """The first finished evaluation of each world model in the store's studies. Reads the plan of each study once, until all are found."""
    found: dict[JobRef | None, JobRef] = {}
    for folder in study_folders(store.root, lambda reason: None) if trainings else ():
        with contextlib.suppress(OSError, UserError):  # a plan that cannot be read is another command's matter
            for point in load_plan(folder).points:
                training, evaluation = point.jobs.get("world_model"), point.jobs.get("evaluation")
                if training in trainings - found.keys() and evaluation is not None and store.state(evaluation).status == "done":
                    found[training] = evaluation
        if found.keys() == trainings:
            break
    return found


_SHORT = {
    "train_world_model": "model",
    "evaluate_world_model": "evaluation",
    "train_agent": "agent",
    "import_agent": "import",
    "import_world_model": "import",
    "evaluate_agent": "evaluation",
    "collect_dataset": "dataset",
}


def _of_study(store: Store, study: str, given: _Words) -> tuple[list[Named], list[str]]:
    """The finished variants of a study, in one game and with one seed, and what was chosen."""
    where = [f"output_dir={value}" for value in given.own.get("output_dir", [])]
    plan = find_plan(store.root, study, [*given.sweep, *where])
    role = "agent" if plan.protocol == "agent" else "evaluation"
    points, notes = list(plan.points), list[str]()
    done = {point.jobs[role]: store.state(point.jobs[role]).status == "done" for point in points}
    if not any(done.values()):
        raise UserError(f"{study}: no variant is finished at scale {plan.scale}; run: {plan.command}")
    points = _chosen(plan, points, "game", given)
    variants = list(dict.fromkeys(point.variant for point in points))
    wanted = [_parts(value) for value in given.own.get("variant", [])]
    for value, parts in zip(given.own.get("variant", []), wanted, strict=True):
        if not any(parts <= _parts(variant) for variant in variants):
            raise UserError(f"variant={value}: {study} has no such variant; {nearest(value, variants)}")
    if wanted:
        points = [point for point in points if any(parts <= _parts(point.variant) for parts in wanted)]
    seeds = sorted({point.seed for point in points})
    if "seed" in given.own:
        points = _chosen(plan, points, "seed", given)
    elif len(seeds) > 1:
        first = min((point.seed for point in points if done[point.jobs[role]]), default=seeds[0])
        points = [point for point in points if point.seed == first]
        notes.append(f"{study}: the models of training seed {first}; seed={seeds[1]} takes another one.")
    if missing := [point.variant for point in points if not done[point.jobs[role]]]:
        notes.append(f"{study}: not finished, and left out: {_listed(missing)}.")
    points = [point for point in points if done[point.jobs[role]]]
    if not points:
        raise UserError(f"{study}: none of these variants is finished; run: {plan.command}")
    closed = [point for point in points if not _open_loop(store, point.jobs[role])]
    if closed and not wanted and len(closed) < len(points):
        rest = [point.variant for point in points if point not in closed]
        points = closed
        notes.append(f"{study}: left out, because a player chooses actions one by one, and these need all in advance: {_listed(rest)}.")
    if len(points) > MOST_MODELS:
        names = [point.variant for point in points]
        raise UserError(
            f"{study} has {len(names)} variants, and {MOST_MODELS} fit next to each other; name up to {MOST_MODELS} of them with "
            f"variant=NAME, such as 'variant={names[0]}': {_listed(names)}"
        )
    return [_of_job(store, point.jobs[role], point.variant) for point in points], notes


def _open_loop(store: Store, ref: JobRef) -> bool:
    """Whether an evaluation denoised the frames of a horizon together."""
    return isinstance(getattr(store.spec(ref).config, "sampler", None), OpenLoopSampler)


def _chosen(plan: SavedPlan, points: list[Any], key: str, given: _Words) -> list[Any]:
    """The points of the game or the seed that was given. Without one, a study of several games is refused."""
    known = list(dict.fromkeys(str(getattr(point, key)) for point in points))
    if key not in given.own:
        if len(known) > 1:
            raise UserError(f"{plan.study} has several games, and one session plays one; name one of them with game=: {_listed(known)}")
        return points
    (value,) = given.own[key]
    if value not in known:
        raise UserError(f"{key}={value}: {plan.study} has none such; {nearest(value, known)}")
    return [point for point in points if str(getattr(point, key)) == value]


def _parts(variant: str) -> frozenset[str]:
    return frozenset(part.strip() for part in variant.split(","))


def _refuse_choices(given: _Words, games_alone: bool) -> None:
    """Refuses settings that choose a part of a study, where no study is named. Games without models take settings of `env`."""
    parse(given.sweep)  # an unknown key first
    words = [word for word in given.sweep if not (games_alone and word.startswith(_OF_ENV))]
    if of_family := [word for word in words if word.startswith("family.")]:
        raise UserError(f"{of_family[0]}: the settings of a family are those of its training; in play, change those of the sampler")
    for word in [*words, *(f"{key}={values[0]}" for key, values in given.own.items() if key in ("seed", "variant"))]:
        raise UserError(f"{word}: chooses a part of a study, and no study is named; leave it out")


def _of_one_game(found: list[Named], game: str, agent: Named | None) -> list[Named]:
    """The same, with the game of each family. Raises UserError if they, and the agent whose policy plays, are not of one game with one
    preparation of its frames."""
    fixed = [one for one in (*found, agent) if one is not None and one.env is not None]
    if not fixed and not game:
        raise UserError(f"{found[0].name}: say in which game, such as game=Breakout")
    for one in fixed:
        if game and one.game != game:
            raise UserError(f"game={game}: {one.name} plays {one.game}; leave game= out, or name other jobs")
    if len({one.game for one in fixed}) > 1:
        groups = {one.game: [other.name for other in fixed if other.game == one.game] for one in fixed}
        listed = "; ".join(f"{name}: {_listed(members)}" for name, members in groups.items())
        raise UserError(f"one session plays one game, and these are of different ones: {listed}")
    jobs = [one for one in fixed if one.job is not None]
    for one in jobs[1:]:
        first = jobs[0]
        for key in (f.name for f in fields(EnvConfig)):
            ours, theirs = getattr(first.env, key), getattr(one.env, key)
            if ours != theirs:
                raise UserError(f"{first.name} has env.{key}={ours} and {one.name} env.{key}={theirs}; they see different games")
    played = fixed[0].game if fixed else games.check_game(game)
    return [one if one.job is not None else replace(one, game=played, env=jobs[0].env if jobs else one.env) for one in found]


def _env(game: str, given: _Words) -> EnvConfig:
    settings = {override.key: override.value for override in parse([word for word in given.sweep if word.startswith(_OF_ENV)])}
    env = run_config({"scale": "paper"}, settings).env
    games.check_env(game, env)
    return env


def _example(store: Store) -> str:
    """A source of the store, the newest one last."""
    known = [ref.id for ref in store.refs() if ref.kind in ("train_world_model", *AGENT_KINDS)]
    return known[-1] if known else "Breakout"


def _listed(names: Iterable[str]) -> str:
    return joined(list(names))

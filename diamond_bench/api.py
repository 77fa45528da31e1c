"""diamond_bench from Python and notebooks: a study's results, jobs, figures and comparison, and the games that its models imagine.

A study is named as on the command line, with the same overrides: `results("sampling_steps", "scale=smoke")`. The store is
`output_dir`, else $DIAMOND_BENCH_OUTPUTS, else ./outputs. A mistake raises `diamond_bench.errors.UserError`, which says what to do.
No function runs a job. Functions that need torch import it when they are called.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diamond_bench.compose import base, output_root, parse, with_values
from diamond_bench.config import RunConfig, Sampler
from diamond_bench.errors import UserError, nearest
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.plan import SavedPlan, find_plan
from diamond_bench.typed import build

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from analysis.chart import Chart
    from diamond_bench.agent import Agent
    from diamond_bench.imagination.games import ImaginedGames, Reward
    from diamond_bench.play.session import Session
    from diamond_bench.stored.frames import HeldOut
    from diamond_bench.worlds.contract import TrainedWorld

Say = Callable[[str], None]
Folder = Path | str | None


def find_study(study: str, *overrides: str, output_dir: Folder = None, say: Say = print) -> tuple[SavedPlan, Store]:
    """The plan of a swept study, and its store.

    Args:
        study: the study's name.
        overrides: as on the command line; `scale=...` chooses among several sweeps of the study.
        output_dir: the store's folder.
        say: called with one line for each damaged file that is set aside.

    Raises UserError if the study was not swept, or was swept several times and no override says which sweep is meant.
    """
    store = open_store(*overrides, output_dir=output_dir, say=say)
    return find_plan(store.root, study, overrides), store


def open_store(*overrides: str, output_dir: Folder = None, say: Say = print) -> Store:
    """The store in the folder `output_dir`, or that of an override `output_dir=...`. Creates nothing; the folder need not exist.

    Raises UserError for an override that cannot be parsed.
    """
    tokens = [*overrides, *([] if output_dir is None else [f"output_dir={output_dir}"])]
    return Store(output_root(parse(tokens)), say=say)


def results(study: str, *overrides: str, output_dir: Folder = None, say: Say = print) -> "pd.DataFrame":
    """The tidy table of a study's finished jobs, with one row per number (columns: docs/evaluation.md); empty if none is finished.

    Arguments and errors as in `find_study`.
    """
    from diamond_bench.results.table import collect

    return collect(*find_study(study, *overrides, output_dir=output_dir, say=say))


def jobs(study: str, *overrides: str, output_dir: Folder = None, say: Say = print) -> "pd.DataFrame":
    """The status of a study's jobs, with one row per job: kind, id, of (game, seed, variant), status, error, seconds.

    A job is `blocked` if a job that it needs has failed. Arguments and errors as in `find_study`.
    """
    from diamond_bench.report.facts import gather, job_rows

    plan, store = find_study(study, *overrides, output_dir=output_dir, say=say)
    return job_rows(plan, gather(plan, store))


def compare(
    study: str,
    *overrides: str,
    output_dir: Folder = None,
    metric: str | None = None,
    baseline: Mapping[str, Any] | None = None,
    margin: float | str | None = None,
    say: Say = print,
) -> "pd.DataFrame":
    """Each variant compared with the baseline, as in comparison.csv (columns: docs/report.md).

    By default this is the comparison that the study's file states (rows marked `primary`), and its headline metrics (`exploratory`).
    An argument chooses another comparison, which is exploratory.

    Args:
        metric: the name of one metric.
        baseline: the arm and the values of axes, such as {"n": 3}.
        margin: the largest difference that counts as none: a number from 0 in the metric's unit, or a share of copy-last-frame's error
            such as "10%".

    Other arguments as in `find_study`. Raises UserError for a metric or baseline that is not there, a metric that cannot be averaged over
    the study's games, or a wrong margin.
    """
    from diamond_bench.report.comparison import compare_study
    from diamond_bench.report.facts import gather
    from diamond_bench.report.registered import level
    from diamond_bench.studies.registration import registration_status

    plan, store = find_study(study, *overrides, output_dir=output_dir, say=say)
    facts = gather(plan, store)
    stands = registration_status(plan, facts.done)
    found = compare_study(plan, store, facts, None if metric is None else [metric], baseline, margin, level(stands))
    return found.table.assign(registration=stands.kind)


def power(study: str, *overrides: str, output_dir: Folder = None, say: Say = print) -> "pd.DataFrame":
    """The smallest differences that the primary comparison would detect with more seeds or references, as in power.csv.

    The columns are `report.power.COLUMNS`. The numbers follow from the variance between the finished runs. Arguments as in `find_study`.
    Raises UserError if no evaluation is finished.
    """
    from diamond_bench.report.power import finished_power, power_frame

    return power_frame(finished_power(*find_study(study, *overrides, output_dir=output_dir, say=say)))


def figures(study: str, *overrides: str, output_dir: Folder = None, say: Say = print) -> list[str]:
    """Names of the figures that can be drawn from a study's finished jobs, including those that the report leaves out when there are many.

    Arguments and errors as in `find_study`.
    """
    return list(_figures(*find_study(study, *overrides, output_dir=output_dir, say=say)))


def figure(study: str, name: str, *overrides: str, output_dir: Folder = None, say: Say = print) -> "Chart":
    """One figure of a study's report, drawn from the jobs that are finished now. `name`: one of `figures`.

    The figure's method `numbers` returns the numbers in it. Raises UserError for an unknown name, or if there is nothing to draw.
    """
    plan, store = find_study(study, *overrides, output_dir=output_dir, say=say)
    found = _figures(plan, store)
    if name not in found:
        raise UserError(f"{plan.study} has no figure {name!r}: {nearest(name, found)}")
    try:
        drawn = found[name].draw()
    except ValueError as error:
        raise UserError(f"{name} cannot be drawn: {error}") from None
    if drawn is None:
        raise UserError(f"{name}: the finished jobs of {plan.study} hold nothing to draw it from")
    drawn.finish()
    chart: Chart = drawn.figure
    return chart


def _figures(plan: SavedPlan, store: Store) -> dict[str, Any]:
    from diamond_bench.report.figures import study_figures
    from diamond_bench.results.table import collect, finished_results, mixtures

    stored = finished_results(plan, store)
    table = collect(plan, store, stored)
    return {found.stem: found for found in study_figures(plan, store, table, stored.keys(), mixtures(table))}


def report(study: str, *overrides: str, captions: bool | None = None, output_dir: Folder = None, say: Say = print) -> list[Path]:
    """Writes a study's report (docs/report.md) where it is not up to date. Returns its files, index.html first.

    `captions`: the files of figures have their captions in them (None: as before). Other arguments and errors as in `find_study`.
    """
    from diamond_bench.report import write_report

    plan, store = find_study(study, *overrides, output_dir=output_dir, say=say)
    return write_report(plan, store, say, captions)


def report_together(*studies: Sequence[str], captions: bool = False, output_dir: Folder = None, say: Say = print) -> list[Path]:
    """Writes one page on several studies, side by side (docs/report.md), and returns its files, index.html first.

    Each study is its name and its overrides, such as ["sampling_steps", "scale=smoke", "data=random"]. `captions` as in `report`. Raises
    UserError for fewer than two studies, one that is named twice, and one without a finished evaluation.
    """
    from diamond_bench.report.write_together import report_together

    if len(studies) < 2:
        raise UserError(f"a page of several studies needs at least two, got {len(studies)}; use report() for one")
    found = [find_study(*study, output_dir=output_dir, say=say) for study in studies]
    roots = list(dict.fromkeys(str(store.root) for _, store in found))
    if len(roots) > 1:
        raise UserError(f"the studies lie in different stores ({', '.join(roots)}); copy them into one with `diamond-bench merge`")
    return report_together([plan for plan, _ in found], found[0][1], say, captions)


# World models, agents and imagination


def load_world_model(
    job: str,
    milestone: float | None = None,
    *,
    output_dir: Folder = None,
    device: str = "cpu",
    precision: Literal["fp32", "tf32", "bf16"] = "fp32",
) -> "TrainedWorld":
    """The world model of a training, an agent, or an evaluation of either, after its files were checked against their SHA-256.

    Args:
        job: the job's id, or its beginning. An evaluation with evaluation.weights=ema gives the averaged weights, other jobs the last ones.
        milestone: the share of the training after which the model was saved, above 0 and at most 1. The default is the milestone of the
            evaluation, and 1 for a training. An agent keeps only the model of milestone 1.
        output_dir: the store's folder.
        device: torch's name of the device that the model runs on, such as `cuda:0`.
        precision: of the network's arithmetic.

    Raises UserError for a job of another kind, an unfinished or damaged one, a milestone that was not kept, or an agent without a world
    model.
    """
    from diamond_bench.stored.models import load_world_model as load

    store = open_store(output_dir=output_dir)
    return load(store, store.find(job), milestone, device, precision)


def load_agent(job: str, *, output_dir: Folder = None, device: str = "cpu", precision: Literal["fp32", "tf32", "bf16"] = "fp32") -> "Agent":
    """The agent of a training, an import or an evaluation, after its files were checked against their SHA-256.

    It has `actor_critic`, `policy` (the actor-critic as it plays the real game), `reward_end`, `world_model` and `description`.
    `reward_end` and `world_model` are None if it learned without a world model. `job`: the job's id, or its beginning. Other arguments
    as in `load_world_model`.

    Raises UserError for a job of another kind, an unfinished or a damaged one.
    """
    from diamond_bench.stored.models import load_agent as load

    store = open_store(output_dir=output_dir)
    return load(store, store.find(job), device, precision)


def held_out(job: str, number: int = 0, *, output_dir: Folder = None) -> "HeldOut":
    """One reference trajectory of an evaluation. `job`: the id, or its beginning, of a job of kind evaluate_world_model. `number`: from 0.

    Raises UserError for another kind of job, or a number that it does not have.
    """
    from diamond_bench.stored.frames import held_out as held_out_of

    store = open_store(output_dir=output_dir)
    return held_out_of(store, store.find(job), number)


def sampler(name: str = "euler", **settings: Any) -> Sampler:
    """A sampler by its name, with the defaults of conf/sampler and these settings, such as `sampler("heun", num_steps=2)`.

    The reference of configs lists names and settings under `sampler`. Raises UserError for an unknown name, setting or value.
    """
    choices = [override for override in parse([f"sampler={name}"]) if override.is_group]
    composed = base(tuple((override.key, str(override.value)) for override in choices))
    return build(RunConfig, with_values(composed, {f"sampler.{key}": value for key, value in settings.items()})).sampler


_sampler = sampler  # `imagine` has an argument of that name


def imagine(
    model: "TrainedWorld",
    past: "ArrayLike",
    actions: "ArrayLike",
    sampler: Sampler | str = "euler",
    seed: int | tuple[int, ...] = 0,
    *,
    threads: int = 1,
) -> "NDArray[np.uint8]":
    """The frames that follow `past` when these actions are taken, uint8 (T, h, w, 3).

    Args:
        model: a world model from `load_world_model`.
        past: uint8 frames (P, h, w, 3), oldest first. P is at least `model.context`, the number of frames that the model sees; it sees the
            last ones.
        actions: (P - 1 + T,), or (P - 1 + T, k) of a game with k columns. Action i is taken after frame i, so action P - 1 leads to the
            first imagined frame.
        sampler: from `sampler(...)`, or the name of one with its defaults.
        seed: the seed of the noise. The one of `held_out` gives the frames of the evaluation up to rounding, which depends on the machine,
            the threads and how many trajectories are imagined at once.
        threads: CPU threads for torch during the call, at least 1; afterwards torch has as many as before.

    Raises ValueError for another shape or dtype, or an action that the game does not have, and UserError for a sampler that asks for noise
    levels that the model was not trained on.
    """
    from diamond_bench.stored.frames import imagined

    chosen = _sampler(sampler) if isinstance(sampler, str) else sampler
    return imagined(model, past, actions, chosen, (seed,) if isinstance(seed, int) else seed, threads)


def imagination_env(
    source: str,
    num_envs: int = 8,
    horizon: int = 15,
    *,
    game: str | None = None,
    start_steps: int | None = None,
    reward: "Reward | None" = None,
    sampler: Sampler | str | None = None,
    milestone: float | None = None,
    render_mode: str | None = None,
    threads: int = 1,
    output_dir: Folder = None,
    device: str = "cpu",
    precision: Literal["fp32", "tf32", "bf16"] = "fp32",
) -> "ImaginedGames":
    """Imagined games as a `gymnasium.vector.VectorEnv`, in which any library can train a policy (docs/imagination.md).

    Args:
        source: the id, or its beginning, of a training of an agent or a world model, an import of an agent, or an evaluation of one of
            them; or the name of a family of world models that is not trained, such as `oracle`.
        num_envs: games imagined side by side, b, at least 1.
        horizon: steps after which an episode is truncated, at least 1.
        game: the game that a family plays; jobs have their own.
        start_steps: plays so many steps of the real game first (1 to 1,000,000) and starts from these. An agent plays them itself; a family
            takes random actions. By default imported agents and families play 1000 steps; all other jobs have real play to start from.
        reward: reward(before, actions, after) -> (b,) numbers, in place of predicted rewards, where frames are (b, h, w, 3) uint8.
            Required where nothing predicts rewards: world models outside an agent, and `copy_last_frame`.
        sampler: as in `imagine`; by default the one that the agent was trained with or the evaluation uses, else the first one that
            fits the model's training, such as `sampler()`.
        milestone: as in `load_world_model`.
        render_mode: `rgb_array` allows `render()`; None does not.
        threads: as in `imagine`.

    `output_dir`, `device` and `precision` are those of `load_world_model`.
    Raises UserError for a source that imagines nothing, an argument that does not go with it, and real play that is no longer in the store.
    """
    from gymnasium.envs.registration import EnvSpec

    from diamond_bench.stored.imagination import How, opened

    given: dict[str, Any] = {"source": source, "game": game, "start_steps": start_steps, "reward": reward, "sampler": sampler}
    given |= {"milestone": milestone, "render_mode": render_mode, "threads": threads}
    given |= {"output_dir": output_dir, "device": device, "precision": precision}
    spec = EnvSpec(
        "diamond_bench/Imagination-v0", max_episode_steps=horizon, vector_entry_point=f"{__name__}:_remade_imagination_env", kwargs=given
    )
    chosen = _sampler(sampler) if isinstance(sampler, str) else sampler
    how = How(game, start_steps, chosen, milestone, device, precision)
    return opened(open_store(output_dir=output_dir), source, how, num_envs, horizon, reward, render_mode, threads, spec)


def _remade_imagination_env(num_envs: int, max_episode_steps: int, **given: Any) -> "ImaginedGames":
    """As `gymnasium.make_vec(env.spec, num_envs)` calls it."""
    return imagination_env(num_envs=num_envs, horizon=max_episode_steps, **given)


def play_session(
    *sources: str,
    real: bool = False,
    start: tuple[int, int] | None = None,
    seed: int = 0,
    policy: str | None = None,
    milestone: float | None = None,
    threads: int = 1,
    output_dir: Folder = None,
    device: str = "cpu",
    precision: Literal["fp32", "tf32", "bf16"] = "fp32",
    say: Say = print,
) -> "Session":
    """World models and the real game under the same actions, step by step, as `diamond-bench play` opens them (docs/play.md).

    `session.step(action)` plays one action in all lanes. `session.now.shown[lane]` has the picture, (3, h, w) uint8, the reward and the
    rest. `session.rewind(k)`, `session.change(lane, setting)` and `session.drift(lane, other)` do what the page does.

    Args:
        sources: as on the command line: ids of jobs, studies, families and games, and settings such as `sampler.num_steps=1`.
        real: adds the real game, as the last lane.
        start: the episode and the step in it at which play begins; by default the first place that the page offers.
        seed: of all noise and chance, from 0.
        policy: the id of an agent whose policy watches each lane without one of its own (`session.policy_action(lane)`).
        milestone: as in `load_world_model`.
        threads: CPU threads of torch during a step.
        output_dir, device, precision: as in `load_world_model`.
        say: gets a line for what the page would note, and before something that takes seconds.

    Raises UserError for sources that cannot be played together, and for a start that is not there.
    """
    from diamond_bench.play.naming import request
    from diamond_bench.play.opening import open_sources
    from diamond_bench.stored.imagination import How

    store = open_store(*(word for word in sources if word.startswith("output_dir=")), output_dir=output_dir, say=say)
    how = How(milestone=milestone, device=device, precision=precision)
    opened = open_sources(store, request(store, sources, policy), real, how, threads, say)
    for note in opened.notes:
        say(note)
    return opened.session(start, seed, threads)

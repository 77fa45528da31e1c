"""`profile`: what is timed, what is counted, whose identity it is, and where its numbers are shown."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import diamond_bench
from small_agents import small_agent_config

from diamond_bench.cli import main
from diamond_bench.config import ExecutionConfig
from diamond_bench.data.replay import Replay
from diamond_bench.jobs import profile as profile_job
from diamond_bench.jobs.context import Interrupted, JobContext
from diamond_bench.jobs.profile import Line, of_a_run, of_an_epoch, plain
from diamond_bench.jobs.profile_parts import Parts, Recorded, flop_of, host_synchronisations, random_replay
from diamond_bench.jobs.timing import MOST_CALLS, MOST_ROUNDS, WARM_CALLS
from diamond_bench.models.flops import actor_critic_flops, denoiser_flops, reward_end_flops
from diamond_bench.models.reward_end_model import RewardEndModel
from diamond_bench.report.profile_table import profile_records, profile_table
from diamond_bench.studies.agent_cost import agent_work
from diamond_bench.studies.jobspec import JobRef, JobSpec
from diamond_bench.studies.kinds import Profile, TrainAgent
from diamond_bench.studies.single import plan_profile, plan_train
from diamond_bench.studies.store import Store
from diamond_bench.training.rollout import Carry, collect_rollout
from paper_figures.parts import Inputs
from paper_figures.table5 import differences, make

CPU = torch.device("cpu")
SMALL = ("scale=tiny", "env.frame_size=16", "actor_critic.channels=[8]", "actor_critic.down=[true]")


# What is timed


@pytest.fixture(scope="module")
def small() -> TrainAgent:
    return small_agent_config("execution.num_threads=1")


@pytest.fixture(scope="module")
def replay(small: TrainAgent) -> Replay:
    return random_replay(small, CPU)


def parts(config: TrainAgent, replay: Replay, contiguous: bool = False) -> Parts:
    return Parts(config, CPU, replay, contiguous)


def test_the_replay_is_as_large_as_a_whole_run_s_and_random(small: TrainAgent, replay: Replay) -> None:
    assert replay.num_rows == small.agent.budget
    frames = replay.episodes.frames
    assert frames.dtype == torch.uint8
    assert len(frames.unique()) == 256
    assert set(replay.episodes.actions.tolist()) == set(range(4))


def test_a_timed_step_is_a_step_of_the_rollout(small: TrainAgent, replay: Replay) -> None:
    one, other = parts(small, replay), parts(small, replay)
    for _ in range(small.actor_critic.horizon - 1):
        one.imagine()
    rolled, after = collect_rollout(other._policy, other._env, other._carry, small.actor_critic.horizon - 1, other._draw)
    torch.testing.assert_close(one._carry.frames, after.frames, rtol=0, atol=0)
    assert not rolled.truncations.any()


def test_no_imagined_episode_ends_and_no_timed_update_loads_start_segments(small: TrainAgent, replay: Replay) -> None:
    made = parts(small, replay)
    first = made.learners.update("actor_critic")["imagined"]
    ring: Any = made.learners._imagination._ring  # type: ignore[union-attr]
    loaded = ring._loaded
    ends = [first["end"], *(made.learners.update("actor_critic")["imagined"]["end"] for _ in range(WARM_CALLS + MOST_ROUNDS * MOST_CALLS))]
    assert not any(ends)
    assert ring._loaded == loaded
    torch.manual_seed(0)
    fresh = RewardEndModel(small.reward_end, 4, 16)
    frames = torch.rand(8, 1, 3, 16, 16)
    said = fresh(frames, torch.zeros(8, 1, dtype=torch.int64), frames).end_logits.softmax(-1)[..., 1]
    assert said.mean() > 0.2, "what never_end is there for"


@pytest.mark.parametrize(("num_envs", "discard"), [(2, False), (2, True), (100, False), (100, True)])
def test_a_reset_loads_the_start_segments_its_time_is_divided_by(small: TrainAgent, replay: Replay, num_envs: int, discard: bool) -> None:
    settings = replace(small.actor_critic, batch_size=num_envs, discard_left_overs=discard)
    made = parts(replace(small, actor_critic=settings), replay)
    made.prepare(MOST_CALLS)
    made.works["start_segments"].call()
    ring: Any = made._env._ring
    assert made.each["start_segments"] * ring._loaded == num_envs * settings.steps_per_update / settings.horizon


def test_the_policy_s_loss_alone_is_of_whole_rollouts(small: TrainAgent, replay: Replay) -> None:
    made = parts(small, replay)
    step = made._env.step(torch.zeros(small.actor_critic.batch_size, dtype=torch.int64))
    carry = Carry(step[0], made._policy.initial_state(small.actor_critic.batch_size))
    steps = small.actor_critic.steps_per_update
    rollout, _ = collect_rollout(made._policy, Recorded(step, small.actor_critic.horizon), carry, steps, made._draw)
    assert rollout.logits.shape == (small.actor_critic.batch_size, steps, 4)
    assert rollout.logits.requires_grad
    assert rollout.truncations.any(dim=0).tolist() == [(t + 1) % small.actor_critic.horizon == 0 for t in range(steps)]
    work = made.works["loss_and_backward"]
    work.before(1)
    before = [p.detach().clone() for p in made._policy.parameters()]
    for _ in range(2):  # the warm-up's first rate is 0
        work.before(1)
        work.call()
    assert any(not torch.equal(a, b) for a, b in zip(before, made._policy.parameters(), strict=True))


def test_plain_is_eager_fp32_in_the_plain_layout(small: TrainAgent, replay: Replay) -> None:
    fast = replace(small, execution=replace(small.execution, precision="bf16", num_threads=3))
    assert plain(fast.execution) == ExecutionConfig(device="auto", num_threads=3)
    as_plain = parts(replace(fast, execution=plain(fast.execution)), replay, contiguous=True)
    configured = parts(fast, replay)
    assert {as_plain._policy.precision, as_plain._reward_end.precision, as_plain._world_model.denoiser.precision} == {"fp32"}  # type: ignore[attr-defined]
    assert configured._policy.precision == "bf16"
    convolutions = [(a, b) for a, b in zip(weights(as_plain), weights(configured), strict=True) if a.dim() == 4 and a.shape[2] > 1]
    assert all(a.is_contiguous() for a, _ in convolutions)
    assert not any(b.is_contiguous() for _, b in convolutions if b.shape[1] > 1)
    assert all(torch.equal(a, b) for a, b in convolutions)
    for name in ("denoiser", "reward_end", "actor_critic"):
        as_plain.learners.update(name)
    assert all(a.is_contiguous() for a in weights(as_plain) if a.dim() == 4), "training keeps it"


def weights(made: Parts) -> list[torch.Tensor]:
    return [p.detach() for network in made.learners.agent.networks.values() for p in network.parameters()]


def test_flop_are_those_of_models_flops() -> None:
    config = next(spec.config for spec in plan_train(["game=Breakout"]).jobs.values() if isinstance(spec.config, TrainAgent))
    found = flop_of(config)
    denoise, judge = denoiser_flops(config.network, config.conditioning, 64), reward_end_flops(config.reward_end, 64)
    act = actor_critic_flops(config.actor_critic, 4, 64)
    assert found["denoiser_update"] == 3 * 32 * 2 * denoise
    assert found["reward_end_update"] == 3 * 32 * 18 * judge
    assert found["actor_critic_update"] == 32 * 15 * (3 * denoise + judge + 3 * act)
    assert found["imagination_step"] == 32 * (3 * denoise + judge + act)
    assert found["loss_and_backward"] == 32 * 15 * 2 * act
    assert found["start_segments"] == 32 * 3 * judge
    # a denoiser pass at batch 32 is 195 GFLOP, the reward/end model 14, the actor-critic 4
    assert [found[name] / 1e9 for name in ("denoiser_call", "reward_and_end", "action")] == pytest.approx([195, 14, 4], rel=0.06)
    run = of_a_run(config)
    updates = sum(times * found[name] for name, times in run.items() if name not in ("real_step", "start_segments"))
    assert updates == pytest.approx(agent_work(config), rel=1e-3)  # which counts 18 actions
    assert run["real_step"] == 100_000
    assert of_an_epoch(config) == dict.fromkeys(("denoiser_update", "reward_end_update", "actor_critic_update", "start_segments"), 400) | {
        "real_step": 100
    }


def test_synchronisations_are_not_counted_on_the_cpu() -> None:
    def never() -> None:
        raise AssertionError

    assert host_synchronisations(never, 3, CPU) is None


@pytest.mark.parametrize("stop_after", [0, 2, 6])
def test_an_interrupted_profile_leaves_nothing(small: TrainAgent, tmp_path: Path, stop_after: int) -> None:
    asked = iter(range(1000))
    context = JobContext(tmp_path, should_stop=lambda: next(asked) >= stop_after)
    with pytest.raises(Interrupted):
        profile_job.run(Profile("x", "y", small), context)
    assert not list(tmp_path.iterdir())


# Whose it is


def planned(*tokens: str, compare: str | None = None, model: str = "A processor") -> JobSpec:
    (spec,) = plan_profile([*SMALL, *tokens], compare, lambda device: ("cpu", model)).jobs.values()
    return spec


def test_the_identity_holds_the_device_and_how_it_is_used() -> None:
    specs = [
        planned(),
        planned(model="another processor"),
        planned(compare="plain"),
        planned("execution.num_threads=2"),
        planned("execution.precision=bf16"),
        planned("seed=1"),
        planned("game=Pong"),
        planned("actor_critic.horizon=2"),
    ]
    assert len({spec.id for spec in specs}) == len(specs)
    assert planned().id == planned("execution.device=auto", "agent.checkpoint_every=7").id
    assert planned().config.execution.device == "cpu", "as resolved"
    assert replace(planned(), config=replace(planned().config, scale="small")).id == planned().id


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--compare", "palin"), "did you mean plain?"),
        (("agent.model_free=true",), "model_free"),
        (("cluster=slurm",), "cluster=slurm"),
        (("execution.device=gpu",), "execution.device='gpu'"),
        (("execution.device=cuda:77",), "execution.device=cuda:77"),
        (("agent_evaluation.episodes=3",), "agent_evaluation.episodes"),
        (("seed=0,1",), "takes one value"),
        (("game=Brekout",), "Breakout"),
        (("network.channel=[8]",), "channels"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_one_message_and_nothing_is_created(
    tmp_path: Path, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["diamond-bench", "profile", "scale=tiny", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr().err
    assert end.value.code == 2, printed
    assert message in printed
    assert printed.count("diamond-bench: ") == 1
    assert not list(tmp_path.iterdir())


# The command, and what is made of its result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store in which a profile was compared with plain, and the JSON that was printed."""
    made = tmp_path_factory.mktemp("profile")
    done = diamond_bench("profile", *SMALL, "execution.num_threads=1", "--compare", "plain", "--json", cwd=made)
    (made / "printed.json").write_text(done.stdout)
    (made / "said").write_text(done.stderr)
    return made


@pytest.fixture
def store(folder: Path) -> Store:
    return Store(folder / "outputs", say=lambda text: None)


@pytest.fixture
def ref(store: Store) -> JobRef:
    (found,) = store.refs()
    return found


@pytest.fixture
def lines(folder: Path) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in json.loads((folder / "printed.json").read_text())}


PARTS = (
    *("denoiser_update", "reward_end_update", "actor_critic_update", "imagination_step", "next_frame", "denoiser_call", "reward_and_end"),
    *("action", "loss_and_backward", "start_segments", "real_step"),
)


def test_json_has_every_line_with_the_same_keys(folder: Path, lines: dict[str, dict[str, Any]], store: Store, ref: JobRef) -> None:
    measures = ("frames_per_second", "nfe_per_second", "product_peak", "peak_memory", "host_synchronisations")
    assert list(lines) == [*PARTS, "epoch", "run", *measures]
    keys = {"job", "device", "executed", "scale", "game", *Line.__dataclass_fields__}
    assert all(set(line) == keys for line in lines.values())
    assert {line["job"] for line in lines.values()} == {ref.id}
    assert {line["executed"] for line in lines.values()} == {"precision=fp32 num_threads=1"}
    assert list(lines.values()) == profile_records(store, ref)
    assert "profile Breakout" in (folder / "said").read_text()
    assert "%" in (folder / "said").read_text(), "progress is shown"


def test_every_part_has_a_spread_a_rate_and_pairs_in_turn(lines: dict[str, dict[str, Any]]) -> None:
    for name in PARTS:
        line = lines[name]
        assert 0 < line["low"] <= line["median"] <= line["high"]
        assert line["unit"] == "s"
        assert line["timings"] >= 5
        assert line["order"] == "cp" * line["timings"]
        assert 0 < line["ratio_low"] <= line["ratio"] <= line["ratio_high"]
        if name != "real_step":
            assert line["flop_per_second"] == line["flop"] / line["median"]
            assert line["share_of_peak"] == line["flop_per_second"] / lines["product_peak"]["median"]


def test_parts_add_up_to_about_the_whole(lines: dict[str, dict[str, Any]]) -> None:
    of = {name: line["median"] for name, line in lines.items()}
    for whole, sum_of_parts in (
        (of["imagination_step"], of["next_frame"] + of["reward_and_end"] + of["action"]),
        (of["next_frame"], 3 * of["denoiser_call"]),
        (of["actor_critic_update"], 3 * of["imagination_step"] + of["loss_and_backward"]),
    ):
        assert 0.2 < sum_of_parts / whole < 5  # whatever else the machine does
    assert of["epoch"] == pytest.approx(
        2 * of["denoiser_update"] + 2 * of["reward_end_update"] + of["actor_critic_update"] + of["start_segments"] + 10 * of["real_step"]
    )
    assert lines["frames_per_second"]["median"] == pytest.approx(2 / of["imagination_step"])
    assert lines["nfe_per_second"]["median"] == pytest.approx(2 * 3 / of["next_frame"])


def test_peak_memory_and_synchronisations(lines: dict[str, dict[str, Any]], store: Store, ref: JobRef) -> None:
    peak, memory, waits = (lines[name] for name in ("product_peak", "peak_memory", "host_synchronisations"))
    assert peak["unit"] == "FLOP/s"
    assert 1e8 < peak["median"] < 1e14
    assert memory["unit"] == "bytes"
    assert 1e8 < memory["median"] < 1e11, "a process with torch"
    assert waits["median"] is None, "there is nothing to wait for on a CPU, and no number is made up"
    rows = {row["metric"]: row for row in store.result(ref).rows}
    assert not any("synchronisations" in name for name in rows)
    assert all(row["measured"] for row in rows.values())
    assert rows["next_frame_seconds"]["value"] == lines["next_frame"]["median"]
    assert {"product_peak_flop_per_second", "peak_memory_bytes", "frames_per_second", "epoch_ratio"} <= set(rows)


def test_the_same_command_shows_the_table_and_measures_nothing(folder: Path, store: Store, ref: JobRef) -> None:
    before = (store.folder(ref) / "result.json").stat().st_mtime_ns
    done = diamond_bench("profile", *SMALL, "execution.num_threads=1", "--compare", "plain", cwd=folder)
    assert (store.folder(ref) / "result.json").stat().st_mtime_ns == before
    for word in ("one update of the denoiser", "quartiles", "of peak", "times as fast as plain", "not measured here", "one run, projected"):
        assert word in done.stdout
    assert "note: Random frames" in done.stderr
    assert profile_table(store.result(ref)).row_count == len(PARTS) + 7


@pytest.mark.parametrize("command", ["status", "results", "report"])
def test_a_profile_is_seen_by_the_other_commands(folder: Path, ref: JobRef, command: str) -> None:
    done = diamond_bench(command, f"profile-{ref.id}", cwd=folder)
    assert f"profile-{ref.id}" in done.stdout + done.stderr


def test_table5_has_a_column_for_the_profile(store: Store, ref: JobRef, lines: dict[str, dict[str, Any]]) -> None:
    made = make(Inputs(store))
    assert made.table is not None
    assert not made.lacks
    place = [head.key for head in made.table.heads].index(f"profile_{ref.id}")
    head = made.table.heads[place]
    assert head.text == f"{lines['epoch']['device']}\nfp32, scale tiny*"
    assert any("network.channels [8, 8, 8, 8] (the paper: [64, 64, 64, 64])" in note for note in head.notes)
    assert any("training.batch_size 4 (the paper: 32)" in note for note in head.notes)
    values = {row[0].text.strip("– "): row[place].value for row in made.table.rows}
    assert values["One update of the denoiser"] == lines["denoiser_update"]["median"] * 1000
    assert values["of which 3 denoising steps, each"] == lines["denoiser_call"]["median"] * 1000
    assert values["One epoch"] == lines["epoch"]["median"]
    assert values["One run"] == lines["run"]["median"] / 86400
    assert [row[1].value for row in made.table.rows][:3] == [88.0, 115.0, 340.0]
    assert ref.id in [job for source in made.sources for job in source.get("jobs", [])]


def test_table5_names_what_it_lacks(store: Store, ref: JobRef, tmp_path: Path) -> None:
    (lack,) = make(Inputs(Store(tmp_path / "none"))).lacks
    assert lack.command == "diamond-bench profile"
    copied = Store(tmp_path / "outputs", say=lambda text: None)
    copied.folder(ref).mkdir(parents=True)
    for file in ("config.yaml", "result.json", "state.json"):
        (copied.folder(ref) / file).write_bytes((store.folder(ref) / file).read_bytes()[: 200 if file == "result.json" else None])
    damaged, none = make(Inputs(copied)).lacks
    assert ref.id in damaged.what
    assert none.command


def test_a_column_of_the_paper_s_sizes_has_no_such_footnote() -> None:
    def of(*tokens: str) -> TrainAgent:
        config = next(iter(plan_profile(list(tokens), None, lambda device: ("cpu", "x")).jobs.values())).config.training
        assert isinstance(config, TrainAgent)
        return config

    def unlike(*tokens: str) -> list[tuple[str, Any, Any]]:
        return list(differences(of(*tokens)))

    assert unlike() == []
    assert unlike("game=Freeway", "seed=3", "execution.precision=bf16", "training.learning_rate=0.1", "agent.test_every=7") == []
    assert unlike("actor_critic.batch_size=64") == [("actor_critic.batch_size", 64, 32)]
    assert [key for key, *_ in unlike("sampler=heun")] == ["sampler.name"]

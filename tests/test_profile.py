"""`profile`: whose identity it is, its command, and where its numbers are shown."""

import json
import platform
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import PROFILE, SCRIPT, clean_environment, diamond_bench, in_this_process

from diamond_bench.cli import main
from diamond_bench.cli.profile_commands import asked_of_torch
from diamond_bench.costs.train_agent import num_epochs
from diamond_bench.errors import UserError
from diamond_bench.launch.devices import device_name
from diamond_bench.profiling.lines import Line
from diamond_bench.profiling.timing import spread
from diamond_bench.report.profile_table import amount, lines_of, profile_records, profile_table
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.store.profiled import PROFILED, PROFILED_UPDATES
from diamond_bench.studies.single import plan_profile
from paper_figures.parts import Inputs
from paper_figures.table5 import differences, make

pytestmark = pytest.mark.usefixtures("unrendered")

SMALL = PROFILE[1:-1]


# Whose it is


def planned(*tokens: str, compare: str | None = None, model: str = "A processor", parts: tuple[str, ...] = ()) -> JobSpec:
    (spec,) = plan_profile([*SMALL, *tokens], compare, lambda device: ("cpu", model), parts).jobs.values()
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
        planned("actor_critic.preload=9"),
        planned(compare="authors"),
        planned(parts=("action",)),
        *(replace(planned(), config=replace(planned().config, **{name: "another"})) for name in ("software", "host")),
    ]
    assert len({spec.id for spec in specs}) == len(specs)
    assert planned().id == planned("execution.device=auto", "agent.checkpoint_every=7").id
    assert planned().config.execution.device == "cpu", "as resolved"
    assert planned("training.learning_rate=0.1", "agent.test_every=7", "agent.test_max_steps=9").id == planned().id, "they take no time"
    assert planned(parts=PROFILED).id == planned().id
    assert planned(parts=("action", "next_frame")).config.parts == "next_frame,action", "in one order"
    config = planned().config
    assert f"torch {torch.__version__.partition('+')[0]}" in config.software
    assert "diamond-bench" in config.software
    assert config.host.startswith(platform.node())
    assert replace(planned(), config=replace(planned().config, scale="small")).id == planned().id


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--compare", "palin"), "did you mean plain?"),
        (("--parts", "action,denoiser_updat"), "--parts denoiser_updat: did you mean denoiser_update"),
        (("--parts", "epoch"), "--parts epoch: valid: action"),
        (("agent.model_free=true",), "model_free"),
        (("cluster=slurm",), "cluster=slurm"),
        (("execution.device=gpu",), "execution.device='gpu'"),
        (("execution.device=cuda:77",), "execution.device=cuda:77"),
        (("agent_evaluation.episodes=3",), "agent_evaluation.episodes"),
        (("seed=0,1",), "seed=0,1: takes one value"),
        (("game=[Pong,Breakout]",), "run it once for each"),
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
def folder(profiled_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the folder of `profiled_store`."""
    return shutil.copytree(profiled_store.parent, tmp_path_factory.mktemp("profile") / "folder")


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
    *("action", "renewal", "loss_and_backward", "start_segments", "real_step"),
)
WAITS = ("host_synchronisations", *(f"host_synchronisations_{name}" for name in PROFILED_UPDATES))


def test_json_has_every_line_with_the_same_keys(folder: Path, lines: dict[str, dict[str, Any]], store: Store, ref: JobRef) -> None:
    measures = ("frames_per_second", "nfe_per_second", "product_peak", "peak_memory", *WAITS)
    assert list(lines) == [*PARTS[:-2], "remainder", *PARTS[-2:], "epoch", "run", *measures]
    about = {"job", "device", "asked", "precision", "num_threads", "scale", "game", "compared", "ways", "software", "versions", "commit"}
    about |= {"host", "measured", "load_before", "load_after", "product", "epochs", "updates", "notes"}
    assert all(set(line) == about | set(Line.__dataclass_fields__) for line in lines.values())
    line = lines["action"]
    assert (line["precision"], line["num_threads"], line["compared"]) == ("fp32", 1, "plain")
    assert line["versions"]["torch"] in line["software"]
    assert line["product"]["precision"] == "fp32"
    assert line["epochs"] == num_epochs(store.spec(ref).config.training)
    assert line["notes"]
    assert {line["job"] for line in lines.values()} == {ref.id}
    assert {line["asked"] for line in lines.values()} == {
        "precision=fp32 compile=auto cuda_graphs=none sampling_streams=1 encode_past=every_call num_threads=1"
    }
    assert list(lines.values()) == profile_records(store, ref)
    assert "profile Breakout" in (folder / "said").read_text()
    said = (folder / "said").read_text()
    assert "started" in said
    assert "jobs done in" in said
    assert "about 1 minute, compilation apart" in said


def test_every_part_has_a_spread_a_rate_and_pairs_in_turn(lines: dict[str, dict[str, Any]]) -> None:
    for name in PARTS:
        line = lines[name]
        assert 0 < line["low"] <= line["median"] <= line["high"]
        assert line["unit"] == "s"
        assert line["timings"] >= 5
        assert line["order"] == "cooc" * (line["timings"] // 2)
        assert [len(way) for way in line["seconds"]] == [line["timings"]] * 2
        assert spread(line["seconds"][0]).median == line["median"]
        assert spread(line["seconds"][1]).median == line["other"]
        assert line["other_low"] <= line["other"] <= line["other_high"]
        assert 0 < line["ratio_low"] <= line["ratio"] <= line["ratio_high"]
        if name != "real_step":
            assert line["flop_per_second"] == line["flop"] / line["median"]
            assert line["share_of_peak"] == line["flop_per_second"] / lines["product_peak"]["median"]


def test_the_projection_is_the_sum_of_the_parts(lines: dict[str, dict[str, Any]]) -> None:
    of = {name: line["median"] for name, line in lines.items()}
    assert of["epoch"] == pytest.approx(
        2 * of["denoiser_update"] + 2 * of["reward_end_update"] + of["actor_critic_update"] + of["start_segments"] + 10 * of["real_step"]
    )
    assert lines["epoch"]["ratio"] == lines["epoch"]["other"] / lines["epoch"]["median"]
    assert of["frames_per_second"] == pytest.approx(2 / of["imagination_step"])
    assert of["nfe_per_second"] == pytest.approx(2 * 3 / of["next_frame"])


@pytest.mark.slow
def test_parts_add_up_to_the_whole(tmp_path: Path) -> None:
    measured = "actor_critic_update,imagination_step,next_frame,denoiser_call,reward_and_end,action,renewal,loss_and_backward"
    diamond_bench("profile", "scale=smoke", "--parts", measured, "--json", cwd=tmp_path)
    store = Store(tmp_path / "outputs", say=lambda text: None)
    (ref,) = store.refs()
    of = {line["name"]: line["median"] for line in profile_records(store, ref)}
    settings = store.spec(ref).config.training.actor_critic
    for whole, sum_of_parts in (
        (of["imagination_step"], of["next_frame"] + of["reward_and_end"] + of["action"]),
        (of["next_frame"], 3 * of["denoiser_call"]),
        (
            of["actor_critic_update"],
            settings.steps_per_update * (of["imagination_step"] + of["renewal"]) + of["loss_and_backward"],
        ),
    ):
        assert 0.7 < sum_of_parts / whole < 1.4


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


def test_the_same_command_shows_the_table_and_measures_nothing(
    folder: Path, store: Store, ref: JobRef, lines: dict[str, dict[str, Any]]
) -> None:
    before = (store.folder(ref) / "result.json").stat().st_mtime_ns
    done = in_this_process(*PROFILE, "--compare", "plain", cwd=folder)
    assert (store.folder(ref) / "result.json").stat().st_mtime_ns == before
    for word in ("one update of the denoiser", "quartiles", "of peak", "times as fast as plain", "not measured here", "one run at most"):
        assert word in done.stdout
    assert "note: Executed: configured: fp32, compile none, cuda_graphs none; plain: fp32" in done.stderr
    assert "measured 20" in done.stderr
    assert f"torch {torch.__version__.partition('+')[0]}" in done.stderr
    assert profile_table(store.result(ref), "plain").row_count == len(lines)
    heads = [column.header for column in profile_table(store.result(ref), "authors").columns]
    assert heads[-2:] == ["authors", "times as fast as authors"]


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.9997, "s", "1 s"),
        (59.99, "s", "1 min"),
        (0.0123, "s", "12.3 ms"),
        (-0.0123, "s", "-12.3 ms"),
        (2e-9, "s", "0.002 us"),
        (2.5 * 86400, "s", "2.5 days"),
        (1e6 * 86400, "s", "1000000 days"),
        (999.7e9, "FLOP/s", "1 TFLOP/s"),
        (1234e9, "bytes", "1.23 TB"),
        (0.0, "s", "0 us"),
        (2.5, "syncs/step", "2.5 syncs/step"),
        (None, "s", "not measured here"),
    ],
)
def test_amounts_have_the_unit_of_the_rounded_number(value: float | None, unit: str, shown: str) -> None:
    assert amount(value, unit) == shown


def test_a_profile_of_another_version_is_refused_in_words(store: Store, ref: JobRef) -> None:
    result = store.result(ref)
    older = [{name: value for name, value in line.items() if name != "seconds"} for line in result.info["lines"]]
    for info in ({}, {"lines": older}):
        with pytest.raises(UserError, match="another version of diamond-bench; measure again with seed=1"):
            lines_of(replace(result, info=info))


def test_a_stopped_profile_says_how_to_start_again(tmp_path: Path) -> None:
    command = [SCRIPT, *PROFILE]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=clean_environment())
    assert running.stderr is not None
    said = []
    for text in running.stderr:
        said.append(text)
        if "started" in text:
            running.send_signal(signal.SIGINT)
            break
    said.append(running.stderr.read())
    assert running.wait() == 130
    printed = "".join(said)
    assert "Stopped. To measure again:\n  diamond-bench profile scale=tiny" in printed
    assert "Finished work is kept" not in printed


def test_torch_is_asked_of_a_device_in_a_process_of_its_own() -> None:
    assert asked_of_torch("cpu") == ("cpu", device_name("cpu"))
    with pytest.raises(UserError, match="cuda:77"):
        asked_of_torch("cuda:77")


@pytest.mark.parametrize("command", ["status", "results", "report"])
def test_a_profile_is_seen_by_the_other_commands(folder: Path, ref: JobRef, command: str) -> None:
    done = in_this_process(command, f"profile-{ref.id}", cwd=folder)
    assert f"profile-{ref.id}" in done.stdout + done.stderr


def test_table5_has_a_column_for_the_profile(store: Store, ref: JobRef, lines: dict[str, dict[str, Any]]) -> None:
    built = make(Inputs(store))
    assert built.table is not None
    assert not built.lacks
    place = [head.key for head in built.table.heads].index(f"profile_{ref.id}")
    head = built.table.heads[place]
    assert head.text == f"{lines['epoch']['device']}\nfp32, scale tiny*"
    assert any("network.channels [8, 8, 8, 8] (the paper: [64, 64, 64, 64])" in note for note in head.notes)
    assert any("training.batch_size 4 (the paper: 32)" in note for note in head.notes)
    values = {row[0].text.strip("– "): row[place].value for row in built.table.rows}
    assert values["One update of the denoiser"] == lines["denoiser_update"]["median"] * 1000
    assert values["of which 3 denoising steps, each"] == lines["denoiser_call"]["median"] * 1000
    assert values["One epoch"] == lines["epoch"]["median"]
    assert values["One run"] == lines["run"]["median"] / 86400
    assert [row[1].value for row in built.table.rows][:3] == [88.0, 115.0, 340.0]
    assert ref.id in [job for source in built.sources for job in source.get("jobs", [])]


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

"""What cannot come to a good end is refused before anything runs or is submitted, with advice that works."""

import importlib
import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
from command_line import in_this_process
from test_import_dataset import foreign as written

from diamond_bench.cli.cluster_commands import retry_tokens
from diamond_bench.cli.common import print_results, run_jobs
from diamond_bench.cli.running import submit_plan
from diamond_bench.config import Resources, SlurmCluster
from diamond_bench.data import foreign
from diamond_bench.data.foreign_lengths import check_length
from diamond_bench.errors import UserError
from diamond_bench.launch import devices
from diamond_bench.launch.devices import check_there
from diamond_bench.launch.slurm import nodes, task
from diamond_bench.launch.slurm.client import SlurmError
from diamond_bench.launch.slurm.nodes import check_nodes
from diamond_bench.reading import read_json
from diamond_bench.store.artifacts import Store
from diamond_bench.store.batches import Batch
from diamond_bench.studies.plan import plan_study
from diamond_bench.studies.single import plan_train

# Data


def dataset(folder: Path, *steps: int) -> Path:
    """The headers of a Minari dataset of episodes of so many steps, and their rewards; an episode has one frame more than steps."""
    data = folder / "data"
    data.mkdir(parents=True)
    total = {"total_episodes": len(steps), "total_steps": sum(steps)}
    spaces = {
        "observation_space": {"type": "Box", "dtype": "uint8", "shape": [8, 8, 3]},
        "action_space": {"type": "Discrete", "n": 4, "start": 0},
    }
    texts = {name: json.dumps(space) for name, space in spaces.items()}
    (data / "metadata.json").write_text(json.dumps({"data_format": "hdf5", **total, **texts}))
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for index, length in enumerate(steps):
            file[f"episode_{index}/rewards"] = np.zeros(length, np.float32)
    return data


@pytest.mark.parametrize(
    ("steps", "references", "per_episode", "fits"),
    [
        ((9, 9), 1, None, True),  # 10 frames are one window; the other episode trains
        ((8, 9), 1, None, True),
        ((8, 8), 1, None, False),
        ((29, 19, 9), 5, None, True),
        ((29, 19, 9), 6, None, False),
        ((29, 29, 29), 2, 1, True),
        ((29, 29, 29), 3, 1, False),
    ],
)
def test_a_dataset_is_too_short_where_no_split_gives_enough_windows(
    steps: tuple[int, ...], references: int, per_episode: int | None, fits: bool, tmp_path: Path
) -> None:
    data = dataset(tmp_path, *steps)
    if fits:
        check_length(data, references, 10, per_episode)
        return
    with pytest.raises(UserError, match=r"too short for this scale.*windows of 10 frames.*data\.num_references"):
        check_length(data, references, 10, per_episode)


def test_a_plan_on_data_too_short_for_its_scale_is_refused(tmp_path: Path) -> None:
    data = written(tmp_path / "own", shape=(8, 8, 3), lengths=(20,) * 8) / "data"
    asked = [f"data.dataset={data.parent}", f"output_dir={tmp_path / 'outputs'}"]
    lower = r"lower data\.reference_context \+ data\.reference_horizon by 987 or more"
    with pytest.raises(UserError, match=rf"too short for this scale. Its 8 episodes have up to 21 frames.*{lower}"):
        plan_study("sampling_steps", ["scale=paper", "metrics=[drift]", *asked])
    assert plan_study("sampling_steps", ["scale=tiny", *asked]).jobs
    in_this_process("sweep", "sampling_steps", "scale=paper", "metrics=[drift]", *asked, cwd=tmp_path, exit_code=2)
    assert not (tmp_path / "outputs").exists(), "nothing is stored that `paper` would recommend"


def test_one_episode_is_too_few_whatever_is_lowered(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its one episode is for training, and none is left for references: bring more episodes"):
        check_length(dataset(tmp_path, 500), 1, 10, None)


def test_what_the_files_do_not_state_is_left_to_the_import(tmp_path: Path) -> None:
    data = dataset(tmp_path, 3, 3)
    (data / "main_data.hdf5").write_bytes(b"not HDF5")
    check_length(data, 1, 10, None)


def test_planning_follows_no_link_out_of_a_dataset_and_waits_for_no_pipe(tmp_path: Path) -> None:
    linked = dataset(tmp_path / "linked", 3, 3)
    os.mkfifo(tmp_path / "pipe.hdf5")  # opening it would wait for ever
    with h5py.File(linked / "main_data.hdf5", "r+") as file:
        del file["episode_1/rewards"]
        file["episode_1/rewards"] = h5py.ExternalLink(str(tmp_path / "pipe.hdf5"), "rewards")
    check_length(linked, 1, 10, None)
    arrow = dataset(tmp_path / "arrow", 3, 3)
    metadata = json.loads((arrow / "metadata.json").read_text())
    (arrow / "metadata.json").write_text(json.dumps({**metadata, "data_format": "arrow"}))
    for index in range(2):
        (arrow / str(index)).mkdir()
        os.mkfifo(arrow / str(index) / "metadata.json")
    check_length(arrow, 1, 10, None)


def test_a_plan_reads_the_metadata_of_a_dataset_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan asks for it at every point, and that of large images takes half a second."""
    data, reads = dataset(tmp_path, 30, 30), list[Path]()
    monkeypatch.setattr(foreign, "read_json", lambda file, most: reads.append(file) or read_json(file, most))
    for _ in range(3):
        assert foreign.find_dataset(str(data)) == data.resolve()
    assert len(reads) == 1
    metadata = json.loads((data / "metadata.json").read_text())
    (data / "metadata.json").write_text(json.dumps({**metadata, "total_episodes": 0}))
    with pytest.raises(UserError, match="has no episodes"):
        foreign.find_dataset(str(data))


# Metrics


@pytest.mark.parametrize("size", [["evaluation.batch_size=1"], ["data.num_train_frames=400"], ["env.frame_size=16"]])
def test_the_metrics_that_are_advised_can_be_planned(size: list[str], tmp_path: Path) -> None:
    asked = ["scale=tiny", f"output_dir={tmp_path}", *([] if "data" in size[0] else ["data.num_train_frames=3000"]), *size]
    metric = "lpips" if "env" in size[0] else "fid"
    with pytest.raises(UserError) as refused:
        plan_study("sampling_steps", [*asked, "evaluation.num_fid_images=2048", f"metrics=[{metric}]"])
    (advice,) = re.findall(r"metrics=\[[a-z_,]*\]", str(refused.value))
    assert plan_study("sampling_steps", [*asked, advice]).metrics == ("drift",)


# Devices


def test_a_gpu_that_the_machine_does_not_show_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for device in ("cuda", "cuda:3"):
        with pytest.raises(UserError, match=f"execution.device={device}: this machine shows no GPU"):
            check_there(device)
    check_there("auto")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setattr(devices, "has_gpu", lambda: True)
    check_there("cuda:2")
    with pytest.raises(UserError, match=r"execution.device=cuda:3: this machine has 3 \(cuda:0 to cuda:2\)"):
        check_there("cuda:3")


def test_a_dry_run_says_that_the_gpu_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from diamond_bench.cli.study_commands import sweep

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    sweep("sampling_steps", ["scale=tiny", "execution.device=cuda:3", f"output_dir={tmp_path / 'outputs'}"], dry_run=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "would be refused: execution.device=cuda:3: this machine shows no GPU" in said
    assert not list(tmp_path.iterdir())


# Results


def test_results_without_a_finished_evaluation_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = SimpleNamespace(
        study="s",
        scale="tiny",
        jobs=("dataset", "evaluation"),
        points=(),
        primary={"metric": "drift"},
        command="diamond-bench sweep s scale=tiny",
        folder=Path("s/tiny"),
        verified=True,
        protocol="world_model",
    )
    row = {"game": "Pong", "variant": "dataset", "metric": "seen_by_nobody", "value": 1.0, "seed": pd.NA}
    facts = SimpleNamespace(table=pd.DataFrame([row]).astype({"seed": "Int64"}), protocol=[])
    monkeypatch.setattr("diamond_bench.report.facts.gather", lambda plan, store: facts)
    store = SimpleNamespace(state=lambda job: SimpleNamespace(status="done" if job == "dataset" else "missing"))
    with pytest.raises(UserError) as error:
        print_results(plan, store, as_json=False)
    assert str(error.value) == (
        "s at scale tiny has no results yet: 1 of 2 jobs is done, but no evaluation. To run what is missing:\n"
        "  diamond-bench sweep s scale=tiny"
    )


def test_what_runs_jobs_first_says_how_many_at_which_scale_and_for_how_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = SimpleNamespace(failed={}, blocked={}, exit_code=0)
    monkeypatch.setattr("diamond_bench.launch.local.run_local", lambda *jobs, **options: ran)
    monkeypatch.setattr(importlib.import_module("diamond_bench.cli.common"), "_LONG_HOURS", 0.01)
    hint = " (the default; scale=smoke takes minutes)"
    for tokens, scale in (([], f"paper{hint}"), (["scale=tiny"], "tiny"), (["scale=tiny", "agent.budget=50"], "tiny*")):
        run_jobs(plan_train(tokens), Store(tmp_path))
        first = capsys.readouterr().err.splitlines()[0]
        number = r"[\d,]+ (seconds|minutes|hours)"
        assert re.fullmatch(rf"3 jobs to run at scale {re.escape(scale)}: about ({number}|[\d,]+) to {number} on one device", first), first


def test_the_commands_after_a_submission_name_the_changed_scale(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = SimpleNamespace(requests=[1, 2], jobs=5, done=0, in_flight=0, left=0)
    monkeypatch.setattr("diamond_bench.launch.slurm.submit.submit", lambda *order: sent)
    plan = plan_study("sampling_steps", ["scale=tiny", "training.batch_size=2"])
    assert submit_plan(plan, Store(tmp_path), as_json=False, wait=False, with_report=True) == 0
    said = capsys.readouterr().err
    for command in (
        "status sampling_steps scale=tiny training.batch_size=2 --watch",
        "cancel sampling_steps scale=tiny training.batch_size=2",
    ):
        assert f"\n  diamond-bench {command}\n" in said


# SLURM's time limit


@pytest.mark.parametrize(
    ("minutes", "after", "answer", "at_limit"),
    [
        (3, 45.0, "JobId=1 StartTime=2026-01-01T00:10:00 PreemptEligibleTime=2026-01-01T00:10:00 PreemptTime=2026-01-01T00:00:45", True),
        (3, 5.0, "JobId=1 PreemptTime=None", False),  # SLURM's signal for the limit comes after 30 seconds at the earliest
        (3, 45.0, "JobId=1 StartTime=2026-01-01T00:00:00 PreemptEligibleTime=2026-01-01T00:00:00 PreemptTime=2026-01-01T00:00:45", False),
        (3, 45.0, "JobId=1 StartTime=2026-01-01T00:00:00 PreemptEligibleTime=2026-01-01T00:00:00 PreemptTime=None", True),
        (3, 45.0, SlurmError("scontrol", "Unable to contact slurm controller"), True),
        (60, 55.0, "JobId=1 PreemptTime=None", False),
        (60, 3470.0, "JobId=1 PreemptTime=None", True),
    ],
)
def test_a_preemption_is_no_time_limit(
    minutes: int, after: float, answer: str | SlurmError, at_limit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scontrol(*command: str) -> str:
        assert command == ("scontrol", "--oneliner", "show", "job", "7_1")
        if isinstance(answer, SlurmError):
            raise answer
        return answer

    monkeypatch.setattr(task, "slurm", scontrol)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    batch = Batch("b", "s/count", "s", "count", ((),), minutes=minutes, signal_seconds=120, retries=1, retry_seconds=1.0)
    assert task._at_limit(batch, time.time() - after) is at_limit


# SLURM's nodes


@pytest.mark.parametrize(
    ("command", "overrides", "named", "planned"),
    [
        ("sweep s scale=tiny cluster=slurm", [], [], ["scale=tiny", "cluster=slurm"]),
        ("sweep s cluster=slurm cluster.exclude=a1", ["cluster.exclude=a2"], [], ["cluster=slurm", "cluster.exclude=a2"]),
        ("sweep s scale=tiny", ["scale=tiny", "cluster.memory=32G"], ["scale=tiny"], ["scale=tiny", "cluster.memory=32G"]),
        ("sweep s", ["output_dir=o", "cluster.time=1:00:00"], ["output_dir=o"], ["output_dir=o", "cluster.time=1:00:00"]),
    ],
)
def test_a_retry_asks_slurm_for_something_else(command: str, overrides: list[str], named: list[str], planned: list[str]) -> None:
    assert retry_tokens(command.split()[2:], overrides) == (named, planned)


SINFO = """\
a1|gpu*|8|64000|gpu:a100:4(S:0-1),nvme:1
a2|gpu*|8|64000|gpu:a100:4(S:0-1),nvme:1
h1|gpu*|32|16000|gpu:h100:1
s1|small|2|7000|(null)
"""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    def slurm(*command: str) -> str:
        return "a1\na2\nh1\n" if command[:3] == ("scontrol", "show", "hostnames") else SINFO

    monkeypatch.setattr(nodes, "slurm", slurm)
    return []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"cpus": 33}, r"cluster\.cpus=33: no node of the default partition can serve a train_agent, since each has at most 32 CPUs"),
        ({"partition": "small", "gpus": 0}, r"cluster\.cpus=4: no node of partition small .* at most 2 CPUs"),
        ({"partition": "small", "cpus": 2, "memory": "7G", "gpus": 0}, r"cluster\.memory=7G: .* at most 6.836G of memory"),
        ({"partition": "small", "cpus": 2, "memory": "6G"}, r"cluster\.gpus=1: .* none as generic resources"),
        ({"gpus": 5}, r"cluster\.gpus=5: .* gpu:a100:4,nvme:1 or gpu:h100:1"),
        ({"gres": "gpu:h100:2"}, r"cluster\.gres=gpu:h100:2: "),
        ({"gres": "gpu:v100"}, r"cluster\.gres=gpu:v100: "),
        ({"gres": "gpu:a100:1,nvme:2"}, r"cluster\.gres="),
        ({"cpus": 9, "memory": "32G"}, r"cluster\.cpus=9, cluster\.memory=32G, cluster\.gpus=1: no node .* has all of these"),
        ({"exclude": "a[1-2],h1"}, r"cluster\.exclude=a\[1-2\],h1: no node of the default partition is left for a train_agent"),
        ({"train_agent": Resources(cpus=40)}, r"cluster\.train_agent\.cpus=40: "),
    ],
)
def test_what_no_node_can_serve_is_refused_and_the_key_named(asked: dict[str, object], message: str, said: list[str]) -> None:
    with pytest.raises(UserError, match=message):
        check_nodes(SlurmCluster(**asked), ["train_agent"], said.append)  # type: ignore[arg-type]
    assert said == []


@pytest.mark.parametrize(
    "asked",
    [
        {"cpus": 8, "memory": "62G", "gpus": 4},
        {"cpus": 32, "memory": "15G"},
        {"memory": "0"},
        {"memory": None, "gres": "gpu:a100:2,nvme"},
        {"partition": "small,gpu", "cpus": 32},
        {"partition": "small", "cpus": 2, "memory": "7000", "gpus": 0},
        {"cpus": 40, "train_agent": Resources(cpus=4)},
        {"partition": "small", "cpus": 2, "memory": "6G", "gpus": 0, "exclude": "a[1-2],h1"},
    ],
)
def test_what_a_node_can_serve_passes(asked: dict[str, object], said: list[str]) -> None:
    check_nodes(SlurmCluster(**asked), ["train_agent"], said.append)  # type: ignore[arg-type]
    assert said == []


def test_where_slurm_does_not_show_its_nodes_it_says_that_nothing_was_checked(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    check_nodes(SlurmCluster(partition="empty", cpus=99), ["train_agent"], said.append)
    assert said.pop() == "not checked whether a node of partition empty can serve a train_agent: SLURM shows none of its nodes"
    for answer in ("a1|gpu*|many|64000|(null)\n", SlurmError("sinfo", "sinfo: error: access denied")):

        def sinfo(*command: str, answer: str | SlurmError = answer) -> str:
            if isinstance(answer, SlurmError):
                raise answer
            return answer

        monkeypatch.setattr(nodes, "slurm", sinfo)
        check_nodes(SlurmCluster(cpus=99), ["train_agent"], said.append)
        assert said.pop().startswith("not checked whether a node can serve the jobs' requests: SLURM refused (sinfo)")

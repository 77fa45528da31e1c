"""The commands on one agent, as a user types them: train, evaluate, export, import; and agents in studies of static data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import in_this_process

from diamond_bench.cli import main

pytestmark = pytest.mark.usefixtures("unrendered")

GOLDEN = Path(__file__).parent / "golden" / "agent_small.pt"
SMALL = ("scale=tiny", "env.frame_size=32")
TRAIN = ("train", "game=Breakout", "seed=0", "scale=tiny")
"""What made the store of all tests (conftest.py)."""


def only(folder: Path) -> Path:
    (found,) = (path for path in folder.iterdir() if ".damaged" not in path.name)
    return found


@pytest.fixture(scope="module")
def folder(trained_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose store holds a trained agent and its evaluation, and what was printed."""
    return shutil.copytree(trained_store.parent, tmp_path_factory.mktemp("agents") / "folder")


@pytest.fixture(scope="module")
def imported(folder: Path) -> str:
    """The golden agent in that store: its folder, as import's last line says it."""
    return in_this_process("import", str(GOLDEN), "game=Pong", cwd=folder).stdout.splitlines()[-1]


def test_train_reports_a_return_with_its_protocol(trained_store: Path) -> None:
    printed = (trained_store.parent / "printed").read_text()
    evaluation = only(trained_store / "evaluate_agent")
    for part in ("test_return", "hns", "<game>NoFrameskip-v4", "sticky actions: 0.0", "no ops: 1-30", "real steps: 60", "temperature 1"):
        assert part in printed
    result = json.loads((evaluation / "result.json").read_text())
    returns = np.load(evaluation / "arrays.npz")["test_return"]
    rows = {row["metric"]: row["value"] for row in result["rows"]}
    assert rows["test_return"] == returns.mean()
    assert rows["hns"] == pytest.approx((returns.mean() - 1.7) / (30.5 - 1.7))
    assert len(returns) == result["info"]["protocol_record"]["episodes"] == 2


def test_train_again_runs_nothing(folder: Path) -> None:
    before = (only(folder / "outputs" / "train_agent") / "result.json").stat().st_mtime_ns
    assert "3/3 jobs done" in in_this_process(*TRAIN, cwd=folder).stderr
    assert (only(folder / "outputs" / "train_agent") / "result.json").stat().st_mtime_ns == before


def test_status_and_results_know_the_single_agent(folder: Path) -> None:
    assert "train-Breakout-seed0" in in_this_process("status", cwd=folder).stdout
    assert "test_return" in in_this_process("results", "train-Breakout-seed0", cwd=folder).stdout


def test_evaluate_plays_more_episodes_and_films_one(folder: Path) -> None:
    agent = only(folder / "outputs" / "train_agent")
    done = in_this_process(
        "evaluate", str(agent), "--episodes", "3", "--video", "scale=tiny", "env.sticky_actions=0.25", "--json", cwd=folder
    )
    rows = {row["metric"]: row for row in json.loads(done.stdout) if row["variant"] != "random-play"}
    job = folder / "outputs" / "evaluate_agent" / rows["test_return"]["job"]
    info = json.loads((job / "result.json").read_text())["info"]
    assert info["protocol_record"]["sticky_actions"] == 0.25
    assert info["protocol_record"]["episodes"] == len(np.load(job / "arrays.npz")["test_return"]) == 3
    film = job / "media" / "episode.mp4"
    assert film.stat().st_size > 1000
    assert f"Video: {film}\n" in done.stderr


def test_export_and_import_give_identical_tensors(folder: Path, imported: str, tmp_path: Path) -> None:
    from diamond_bench.agent import load_agent
    from diamond_bench.jobs import import_agent
    from diamond_bench.jobs.context import JobContext
    from diamond_bench.store.files import sha256
    from diamond_bench.store.kinds import ImportAgent
    from diamond_bench.studies.agents import AGENT_FOLDER

    first = folder / "first.pt"
    in_this_process("export", imported, str(first), cwd=folder)
    one, other = torch.load(GOLDEN, weights_only=True), torch.load(first, weights_only=True)
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    agent = only(folder / "outputs" / "train_agent")
    assert "exists already" in in_this_process("export", imported, str(first), cwd=folder, exit_code=2).stderr
    ours = folder / "ours.pt"
    in_this_process("export", agent.name[:8], str(ours), cwd=folder)
    import_agent.run(ImportAgent(sha256(ours), "Breakout", str(ours)), JobContext(tmp_path))
    exported, again = (load_agent(place / AGENT_FOLDER) for place in (agent, tmp_path))
    for part in ("actor_critic", "reward_end", "world_model"):
        one, other = (getattr(found, part) for found in (exported, again))
        tensors, others = ((net.denoiser if part == "world_model" else net).state_dict() for net in (one, other))
        assert list(tensors) == list(others)
        assert all(torch.equal(tensors[name], others[name]) for name in tensors)


def test_an_imported_agent_collects_data_and_its_world_model_is_evaluated(folder: Path, imported: str) -> None:
    agent = f"import_agent/{Path(imported).parent.name}"
    study = ("sampling_steps", "games=Pong", *SMALL, f"data.policy={agent}", f"evaluation.world_model={agent}", "sampler.num_steps=1")
    done = in_this_process("sweep", *study, "metrics=[drift]", "--json", cwd=folder)
    rows = json.loads(done.stdout)
    assert not (folder / "outputs" / "train_world_model").exists()
    assert {row["kind"] for row in rows} == {"evaluate_world_model"}
    drift = [row["value"] for row in rows if row["metric"] == "drift" and row["variant"] == "n=1"]
    assert drift
    assert drift[0] > 0.1, "random weights imagine nothing true"
    dataset = json.loads((only(folder / "outputs" / "collect_dataset") / "dataset.json").read_text())
    assert dataset["policy"] == agent
    planned = json.loads(in_this_process("sweep", *study, "metrics=[drift]", "--dry-run", "--json", cwd=folder).stdout)
    assert {row["state"] for row in planned} == {"done"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "game=Brekout"), "Breakout"),
        (("train", "agent.budget=3"), "agent.budget=3"),
        (("train", "agent.bugdet=3"), "budget"),
        (("train", "execution.device=cuda:9"), "cuda"),
        (("evaluate", "0123456789"), "names no agent"),
        (("evaluate", "nothing/there"), "names no agent"),
        (("import", "nothing.pt", "game=Pong"), "nothing.pt"),
        (("import", "truncated.pt", "game=Pong"), "truncated.pt"),
        (("import", "code.pt", "game=Pong"), "code.pt"),
        (("import", "Breakout.pt"), "6 actions, but Breakout has 4"),
        (("import", "golden.pt"), "which game"),
        (("import", "Breakout.pt", "gaem=Pong"), "gaem"),
        (("export", "0123", "out.pt"), "names no agent"),
        (("sweep", "sampling_steps", "data.policy=0123abc", "scale=tiny"), "data.policy='0123abc'"),
        (("sweep", "sampling_steps", "evaluation.world_model=0123abc", "scale=tiny"), "evaluation.world_model='0123abc'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_one_message_and_nothing_is_created(
    tmp_path: Path, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(GOLDEN, tmp_path / "Breakout.pt")
    shutil.copy(GOLDEN, tmp_path / "golden.pt")
    (tmp_path / "truncated.pt").write_bytes(GOLDEN.read_bytes()[:5000])
    torch.save({"a": Touch(tmp_path / "executed")}, tmp_path / "code.pt")
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["diamond-bench", *arguments])
    with pytest.raises(SystemExit) as end:  # in this process: the messages are what counts, and torch is here already
        main()
    printed = capsys.readouterr().err
    assert end.value.code == 2, printed
    assert message in printed
    assert printed.count("diamond-bench: ") == 1
    assert "Traceback" not in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == before


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return open, (str(self.path), "w")  # type: ignore[return-value]


def test_a_filmed_evaluation_goes_on_after_its_filmed_game_was_played(tmp_path: Path) -> None:
    """The film is not kept with the finished games: game 0 is played again for it."""
    from diamond_bench.config import AgentEvaluationConfig, EnvConfig
    from diamond_bench.jobs import evaluate_agent, import_agent
    from diamond_bench.jobs.context import Interrupted, JobContext
    from diamond_bench.store.files import sha256
    from diamond_bench.store.kinds import EvaluateAgent, ImportAgent

    for name in ("agent", "whole", "stopped"):
        (tmp_path / name).mkdir()
    import_agent.run(ImportAgent(sha256(GOLDEN), "Pong", str(GOLDEN)), JobContext(tmp_path / "agent"))
    settings = AgentEvaluationConfig(episodes=3, num_envs=1, max_steps=12, video=True)
    config = EvaluateAgent(EnvConfig(frame_size=32), settings)
    whole = evaluate_agent.run(config, JobContext(tmp_path / "whole", {"agent": tmp_path / "agent"}))
    calls = iter(range(1000))
    stopped = JobContext(tmp_path / "stopped", {"agent": tmp_path / "agent"}, should_stop=lambda: next(calls) == 15)
    with pytest.raises(Interrupted, match="1 of 3"):
        evaluate_agent.run(config, stopped)
    resumed = evaluate_agent.run(config, JobContext(tmp_path / "stopped", {"agent": tmp_path / "agent"}))
    assert resumed.rows == whole.rows
    films = [(tmp_path / name / "media" / "episode.mp4").read_bytes() for name in ("whole", "stopped")]
    assert films[0] == films[1]

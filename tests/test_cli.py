"""The program at the keyboard: Ctrl-C at any moment, and what the file system refuses."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from command_line import SCRIPT, clean_environment, diamond_bench, in_this_process
from rich.text import Text
from typer.main import get_command
from typer.testing import CliRunner

from diamond_bench.cli.common import app, writing
from diamond_bench.errors import UserError
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.housekeeping import planned

AS_SOME_LIBRARIES_DO = (
    "try:\n    os.kill(os.getpid(), signal.SIGINT); time.sleep(5)\nexcept KeyboardInterrupt:\n    raise ImportError('half')\n"
)


@pytest.mark.parametrize(
    ("module", "code"),
    [("typer", "os.kill(os.getpid(), signal.SIGINT); time.sleep(5)\n"), ("yaml", AS_SOME_LIBRARIES_DO)],
    ids=["before main", "turned into another exception"],
)
def test_ctrl_c_in_an_import_ends_quietly(tmp_path: Path, module: str, code: str) -> None:
    (tmp_path / f"{module}.py").write_text("import os, signal, time\n" + code)
    done = diamond_bench("sweep", "sampling_steps", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, exit_code=130)
    assert "Traceback" not in done.stderr


def interrupted(arguments: list[str], cwd: Path, ready: str) -> tuple[int, str]:
    """Exit code and output of a command, on a terminal, that gets Ctrl-C once it has shown `ready`."""
    ours, terminal = os.openpty()
    environment = {**clean_environment(), "TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen([SCRIPT, *arguments], cwd=cwd, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    shown = b""
    try:
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the other side is closed
                return process.wait(30), shown.decode()
            if ready and ready.encode() in shown:
                process.send_signal(signal.SIGINT)
                ready = ""
    finally:
        process.kill()
        os.close(ours)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store whose one study was swept, and stopped in its first job."""
    folder = tmp_path_factory.mktemp("stopped")
    code, shown = interrupted(["sweep", "sampling_steps", "scale=tiny"], folder, "collect_dataset")
    assert code == 130, shown
    assert "Traceback" not in shown
    assert "Finished work is kept. To continue:" in shown
    return folder


def test_watching_ends_with_ctrl_c(stopped: Path) -> None:
    code, shown = interrupted(["status", "--watch"], stopped, "sampling_steps")
    assert code == 0, shown
    assert "Traceback" not in shown


def test_every_swept_plan_is_remembered(stopped: Path) -> None:
    root = stopped / "outputs"
    assert len(list(root.glob("studies/sampling_steps/tiny/jobs/*.json"))) == 1
    assert len(planned(root)) == 7
    assert Store(root).refs()
    assert "Freed 0" in in_this_process("gc", "--unplanned", cwd=stopped).stderr
    assert Store(root).refs()


def test_no_help_loses_words_in_brackets() -> None:
    """Typer reads help as markup, which takes unescaped [words] away."""
    commands = [("", get_command(app))]
    for name, command in commands:
        commands += [(f"{name} {inner}", found) for inner, found in getattr(command, "commands", {}).items()]
        for text in [command.help or "", *(getattr(parameter, "help", "") or "" for parameter in command.params)]:
            assert Text.from_markup(text).plain == text.replace("\\[", "["), name
    assert len(commands) > 20


def test_the_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, "diamond-bench 0.1.0\n")


@pytest.mark.parametrize("command", [["du"], ["gc"], ["gc", "--unplanned"], ["merge", "file"], ["merge", "nowhere"]], ids=" ".join)
def test_a_wrong_place_is_one_message(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = in_this_process(*command, cwd=tmp_path, exit_code=2)
    assert "is no store" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("device", ["gpu", "cuda:9"])
def test_a_refused_device_leaves_nothing(device: str, tmp_path: Path) -> None:
    done = in_this_process("sweep", "sampling_steps", "scale=tiny", f"execution.device={device}", cwd=tmp_path, exit_code=2)
    assert device in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_place_within_the_store_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "studies").touch()
    done = in_this_process("sweep", "sampling_steps", "scale=tiny", cwd=tmp_path, exit_code=2)
    assert "outputs cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["studies"]


def test_what_the_file_system_refuses_names_the_place(tmp_path: Path) -> None:
    store = Store(tmp_path / "outputs")
    refused = {
        OSError(28, "No space left on device"): "no space left for output folder",
        PermissionError(13, "Permission denied", str(store.root / "studies")): "outputs cannot be written",
        PermissionError(13, "Permission denied", "/elsewhere/plan.json"): "/elsewhere/plan.json: Permission denied",
    }
    for error, words in refused.items():
        with pytest.raises(UserError, match=words), writing(store):
            raise error


def test_a_report_that_cannot_be_written_is_one_message(tiny_store: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_store, tmp_path / "outputs")
    for report in (tmp_path / "outputs").glob("studies/*/*/report"):
        shutil.rmtree(report)
        report.touch()
    done = in_this_process("report", "sampling_steps", "scale=tiny", cwd=tmp_path, exit_code=2)
    assert "report: it is not a folder; move it away" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_in_place_of_the_store_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for command in (["status"], ["results", "sampling_steps"], ["du"], ["sweep", "sampling_steps", "scale=tiny", "--dry-run"]):
        done = in_this_process(*command, cwd=tmp_path, env={"DIAMOND_BENCH_OUTPUTS": "notes.txt"}, exit_code=2)
        assert "the store notes.txt is a file, not a folder" in done.stderr
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_dry_run_says_that_the_disk_is_too_small(tmp_path: Path) -> None:
    command = ["sweep", "sampling_steps", "scale=tiny", "--dry-run"]
    assert "GB free" not in in_this_process(*command, cwd=tmp_path).stdout
    assert "note: the disk of the store has only " in in_this_process(*command, "data.num_train_frames=100000000000", cwd=tmp_path).stdout


def test_a_file_is_not_said_to_point_anywhere(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "studies").touch()
    done = in_this_process("results", "my_study", cwd=tmp_path, exit_code=2)
    assert done.stderr.endswith("studies: it is not a folder; move it away\n")


def test_cancel_says_that_nothing_was_submitted(tiny_store: Path, tmp_path: Path) -> None:
    done = in_this_process("cancel", "sampling_steps", f"output_dir={tiny_store}", cwd=tmp_path, exit_code=2)
    assert f"nothing of {tiny_store} was submitted to SLURM" in done.stderr


def test_names_of_swept_studies_are_offered(tiny_store: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_store, tmp_path / "outputs")
    studies = tmp_path / "outputs" / "studies"
    (studies / "sampling_steps").rename(studies / "my_study")
    assert "did you mean my_study?" in in_this_process("status", "my_stdy", cwd=tmp_path, exit_code=2).stderr
    next(studies.glob("my_study/*/plan.json")).unlink()
    assert "my_study holds no plan.json" in in_this_process("results", "my_study", cwd=tmp_path, exit_code=2).stderr


def test_two_equal_jobs_differ_in_nothing(tiny_store: Path, tmp_path: Path) -> None:
    job = Store(tiny_store).refs()[0].id
    assert "have the same settings" in in_this_process("diff", job, job, f"output_dir={tiny_store}", cwd=tmp_path).stderr

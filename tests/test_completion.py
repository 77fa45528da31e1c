"""What a shell offers at the cursor, and how the script that asks gets into the shell."""

from pathlib import Path

import pytest
from command_line import in_this_process
from typer.main import get_command

from diamond_bench.cli import app
from diamond_bench.cli.completion import SHELLS, answer, install, keys
from diamond_bench.compose import known_keys

COMMAND = get_command(app)


def offers(line: str, shell: str = "fish") -> list[str]:
    return [offer.partition("\t")[0] for offer in answer(COMMAND, shell, f"diamond-bench {line}")]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("studies/my_study", "train_agent/aaaa1111", "evaluate_world_model/bbbb2222", "evaluate_world_model/.tmp"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv("DIAMOND_BENCH_OUTPUTS", str(tmp_path))
    return tmp_path


def test_commands_and_options_are_offered() -> None:
    assert offers("swe") == ["sweep"]
    assert offers("weights ") == ["list", "fetch"]
    assert offers("sweep sampling_steps --dr") == ["--dry-run"]
    assert set(offers("")) >= {"doctor", "completion", "open", "weights"}
    assert answer(COMMAND, "zsh", "diamond-bench doct")[0].startswith("doctor\tCheck what this machine")
    assert offers("no_such_command ") == []
    assert offers("weights fetch l") == ["lpips", "lpips-vgg"]
    assert offers("weights fetch lpips f") == ["fid", "fvd"]
    assert offers("profile --compare ") == ["plain", "authors"]


def test_studies_scales_keys_and_values_are_offered() -> None:
    assert offers("sweep sampling_st") == ["sampling_steps", "sampling_steps_agent"]
    assert offers("sweep sampling_steps sc") == ["scale="]
    assert offers("sweep sampling_steps scale=s") == ["scale=small", "scale=smoke"]
    assert offers("sweep sampling_steps sampler.num") == ["sampler.num_steps="]
    assert set(offers("sweep sampling_steps sampler")) == {"sampler=", "sampler.", "sampler/schedule="}
    assert offers("sweep x execution.precision=") == [f"execution.precision={name}" for name in ("fp32", "tf32", "bf16", "auto")]
    assert offers("sweep x 'games=[Breakout,Pon") == ["games=[Breakout,Pong"]
    assert offers("sweep x metrics=[drift,ss") == ["metrics=[drift,ssim"]
    assert offers("train ga") == ["game="]
    assert offers("du ") == ["output_dir="]
    assert {f"{key}=" for key in known_keys() if "." in key and not key.endswith(".name")} <= keys("sweep").keys()


def test_play_offers_what_can_be_played_and_its_settings(store: Path) -> None:
    assert offers("play ")[:3] == ["my_study", "bbbb2222", "aaaa1111"]
    assert {"oracle", "copy_last_frame", "Breakout", "seed=", "sampler."} <= set(offers("play "))
    assert offers("play evaluate_world_model/") == ["evaluate_world_model/bbbb2222"]
    assert offers("play aaaa1111 sampler.num") == ["sampler.num_steps="]
    assert offers("play aaaa1111 sampler=eu") == ["sampler=euler"]
    assert offers("play aaaa1111 --player p") == ["policy"]
    assert offers("play aaaa1111 --pictures ") == ["png", "webp", "jpeg"]


def test_studies_and_jobs_of_the_store_are_offered(store: Path) -> None:
    assert offers("results my") == ["my_study"]
    assert offers("sweep my") == []
    assert offers("report sampling_steps my") == ["my_study"]
    assert offers("show ") == ["bbbb2222", "aaaa1111"]
    assert offers("show evaluate_world_model/") == ["evaluate_world_model/bbbb2222"]
    assert offers("evaluate ") == ["aaaa1111"]
    assert offers(f"show output_dir={store}/nowhere ") == []
    assert offers("status scale=t") == ["scale=tiny"]


def test_bash_gets_the_part_after_its_word_breaks() -> None:
    assert offers("sweep sampling_steps scale=smo", "bash") == ["smoke"]
    assert offers("sweep sampling_steps scal", "bash") == ["scale="]
    assert offers("sweep x 'games=[Breakout,Pon", "bash") == ["games=[Breakout,Pong"]  # quotes hold a word together
    assert offers('sweep x "unfinished \\', "bash") == []


def test_completion_asks_the_program_in_the_same_way(store: Path) -> None:
    done = in_this_process("__complete", "bash", "diamond-bench results my_s", cwd=store, env={"DIAMOND_BENCH_OUTPUTS": str(store)})
    assert (done.stdout, done.stderr) == ("my_study\n", "")
    for shell in SHELLS:
        assert f"__complete {shell} " in in_this_process("completion", shell, cwd=store).stdout
    done = in_this_process("completion", "bsh", cwd=store, exit_code=2)
    assert "unknown shell: did you mean bash" in done.stderr
    assert "$SHELL names csh" in in_this_process("completion", cwd=store, env={"SHELL": "/bin/csh"}, exit_code=2).stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_installed_once(shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "ZDOTDIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    startup = tmp_path / f".{shell}rc"
    startup.write_text("alias mine=yes")
    file, changed = install(shell)
    assert "diamond-bench" in file.read_text()
    assert changed == (None if shell == "fish" else startup)
    assert startup.read_text() == ("alias mine=yes" if shell == "fish" else f"alias mine=yes\nsource {file}\n")
    assert install(shell) == (file, None)
    assert startup.read_text().count("source") == (shell != "fish")

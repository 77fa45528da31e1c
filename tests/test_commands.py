"""What commands say to a person: the answer first and what to do next, pending jobs, and the report in a browser."""

import io
import json
import shlex
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import in_this_process
from test_report import finish

from diamond_bench.cli.common import no_results, print_results
from diamond_bench.printing import print_frame
from diamond_bench.report.next_steps import more_seeds, next_steps, play_step, seeds_needed, with_seeds
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import write_json
from diamond_bench.studies.overview import overview
from diamond_bench.studies.plan import SavedPlan, find_plan, plan_study, save_plan
from diamond_bench.studies.registration import register
from diamond_bench.terminal import SafeConsole

TOKENS = ("scale=tiny", "data=random", "metrics=[drift]", "sampler.num_steps=1,3")


def swept(folder: Path, evaluated: bool, *tokens: str) -> tuple[SavedPlan, Store]:
    """The study `sampling_steps`, whose dataset and trainings are done, and whose evaluations are done or not."""
    store = Store(folder / "outputs", say=lambda text: None)
    plan = plan_study("sampling_steps", [*TOKENS, *tokens])
    for spec in plan.jobs.values():
        if evaluated or spec.kind != "evaluate_world_model":
            finish(store, spec)
    return save_plan(plan, store.root), store


def test_the_answer_comes_before_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, store = swept(tmp_path, True)
    print_results(plan, store, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == plan.question
    assert lines[1].startswith(("No answer:", "Exploratory: ", "n=1 against"))
    table = next(i for i, line in enumerate(lines) if line.startswith("game "))
    assert lines[table - 1] == ""
    assert not any(line.startswith("game ") for line in lines[:table])


def test_a_table_is_never_cut_and_a_narrow_terminal_has_fewer_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"game": ["Pong"], "variant": ["v"], **{f"metric_{i}": ["0.123456 [0.1, 0.2]"] for i in range(20)}})
    piped = SafeConsole(file=io.StringIO(), width=80, soft_wrap=True)
    assert print_frame(piped, frame) == []
    assert "…" not in piped.file.getvalue()
    assert piped.file.getvalue().count("0.123456 [0.1, 0.2]") == 20
    monkeypatch.setenv("COLUMNS", "80")
    terminal = SafeConsole(file=io.StringIO(), width=240, soft_wrap=True, force_terminal=True, color_system=None)
    assert print_frame(terminal, frame) == [f"metric_{i}" for i in range(3, 20)]
    assert max(map(len, terminal.file.getvalue().splitlines())) <= 80


def test_results_without_an_evaluation_name_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, store = swept(tmp_path, False)
    sentence = no_results(plan, store)
    assert sentence.splitlines() == [
        "sampling_steps at scale tiny has no results yet: 2 of 4 jobs are done, but no evaluation. To run what is missing:",
        f"  {plan.command}",
    ]
    done = in_this_process("results", "sampling_steps", cwd=tmp_path, exit_code=2)
    assert (done.stdout, done.stderr) == ("", f"diamond-bench: {sentence}\n")
    for option in (["--json"], ["--csv", "table.csv"]):  # both hold the dataset's numbers
        assert sentence in in_this_process("results", "sampling_steps", *option, cwd=tmp_path, exit_code=2).stderr
    assert (tmp_path / "table.csv").exists()
    empty = Store(tmp_path / "empty")
    save_plan(plan_study("sampling_steps", TOKENS), empty.root)
    done = in_this_process("results", "sampling_steps", "--csv", "none.csv", f"output_dir={empty.root}", cwd=tmp_path, exit_code=2)
    assert "no job is done" in done.stderr
    assert not (tmp_path / "none.csv").exists()


def test_status_lists_pending_jobs_and_what_they_wait_for(tmp_path: Path) -> None:
    plan, _ = swept(tmp_path, False)
    shown = in_this_process("status", cwd=tmp_path).stdout
    pending = [line.split() for line in shown.splitlines() if line.startswith("  evaluate_world_model")]
    assert [words[1] for words in pending] == [point.jobs["evaluation"].id for point in plan.points]
    assert all(words[2] == "pending" and words[-3:] == ["ready", "to", "run"] for words in pending)
    jobs = json.loads(in_this_process("status", "--json", cwd=tmp_path).stdout)[0]["jobs"]
    assert {job["status"] for job in jobs} == {"pending"}
    (only,) = overview(Store(tmp_path / "elsewhere"), "sampling_steps", TOKENS)  # a plan of which nothing has run
    waiting = {ref.kind: state.text for ref, state in only.pending.items()}
    assert waiting == {
        "collect_dataset": "ready to run",
        "train_world_model": "waits for its dataset",
        "evaluate_world_model": "waits for its dataset and world model",
    }


def row(variant: str, verdict: str) -> dict[str, Any]:
    return {"status": "primary", "variant": variant, "baseline": "n=3", "verdict": verdict}


def power(variant: str, detect: int | None, **other: Any) -> dict[str, Any]:
    found = {"variant": variant, "baseline": "n=3", "problem": None, "margin": 0.1, "smallest_seeds": 4, "hours_per_seed": 0.5}
    return found | {"seeds_to_detect_margin": detect} | other


def steps(plan: SavedPlan, rows: list[dict[str, Any]], planned: list[dict[str, Any]]) -> list[str]:
    (plan.folder / "report").mkdir(exist_ok=True)
    write_json(plan.folder / "report" / "report.json", {"comparison": {"rows": rows}, "power": planned})
    return [f"{step.why}: {step.command}" for step in next_steps(plan)]


def test_the_next_steps_give_exact_commands(tmp_path: Path) -> None:
    plan, _ = swept(tmp_path, True, "seeds=3", f"output_dir={tmp_path / 'my store'}")
    place = f"sampling_steps scale=tiny 'output_dir={tmp_path / 'my store'}'"
    opened = f"Open the report: diamond-bench open {place}"
    assert steps(plan, [row("n=1", "better")], []) == [opened]
    (first, more) = steps(plan, [row("n=1", "undecided"), row("n=2", "worse")], [power("n=1", 10), power("n=2", 90)])
    assert first == opened
    assert more.startswith(
        "1 of 2 comparisons is undecided. Run 10 seeds, about 4 hours more on one device. An answer with more seeds than were "
        "registered is exploratory: "
    )
    words = shlex.split(more.rpartition(": ")[2])
    assert words == [*(word for word in shlex.split(plan.command) if word != "seeds=3"), "seeds=10"]
    assert len({point.seed for point in plan_study(words[2], words[3:]).points}) == 10
    assert steps(plan, [row("n=1", "undecided")], [power("n=1", None)])[1].endswith(f"See why: diamond-bench power {place}")


def test_a_finished_model_can_be_played(tmp_path: Path) -> None:
    plan, store = swept(tmp_path, False)
    assert play_step(plan, store) is None
    plan, store = swept(tmp_path / "done", True, f"output_dir={tmp_path / 'my store'}")
    step = play_step(plan, store)
    assert step is not None
    assert step.command == f"diamond-bench play {plan.points[0].jobs['evaluation'].id} 'output_dir={tmp_path / 'my store'}'"


def test_a_sweep_that_changes_its_scale_is_opened_by_all_its_overrides(tmp_path: Path) -> None:
    """The scale alone would open the sweep at the scale without changes."""
    tokens = (TOKENS, (*TOKENS, "training.num_steps=13"))
    plain, changed = (save_plan(plan_study("sampling_steps", more), tmp_path) for more in tokens)
    assert (plain.scale, changed.scale) == ("tiny", "tiny*")
    for plan in (plain, changed):
        (step,) = steps(plan, [row("n=1", "better")], [])
        words = shlex.split(step.partition("diamond-bench open ")[2])
        assert find_plan(tmp_path, words[0], words[1:]).scale == plan.scale


def test_the_seeds_to_run_next() -> None:
    undecided = [row("n=1", "undecided")]
    assert seeds_needed(undecided, [power("n=1", 10)], [], 3) == 10
    assert seeds_needed(undecided, [power("n=1", 4)], [], 5) == 10  # enough on paper, and yet undecided
    assert seeds_needed(undecided, [power("n=1", None, margin=0.0)], [], 3) == 4
    assert seeds_needed(undecided, [power("n=1", None, problem="1 run")], [], 1) == 3
    assert seeds_needed(undecided, [power("n=1", 10)], [5, 20], 5) == 20
    assert seeds_needed(undecided, [power("n=1", 10)], [5], 5) is None
    assert seeds_needed(undecided, [power("n=1", 900)], [], 3) is None
    assert more_seeds([0, 7], 4) == [0, 7, 8, 9]
    assert with_seeds(["diamond-bench", "sweep", "s", "seeds=[0,7]"], [0, 7, 8, 9]) == "diamond-bench sweep s 'seeds=[0,7,8,9]'"


def test_registered_seeds_that_have_not_run_come_first(tmp_path: Path) -> None:
    register(save_plan(plan_study("sampling_steps", [*TOKENS, "seeds=3"]), tmp_path / "outputs"), lambda ref: False)
    plan, _ = swept(tmp_path, True, "seeds=1")
    given = [row("n=1", "undecided")], [power("n=1", 10)]
    (_, more) = steps(plan, *given)
    assert more.startswith(
        "1 of 1 comparisons is undecided. Run all 3 registered seeds, about 60 minutes more on one device: diamond-bench "
    )
    assert more.endswith(" seeds=3")
    with_looks = replace(plan, primary={**plan.primary, "looks": [2, 3]})
    assert steps(with_looks, *given)[1].endswith(" seeds=2"), "the next look, not the last one"
    file = plan.folder / "registration.json"
    changed = json.loads(file.read_text())
    changed["content"]["seeds"] = [0, 1]
    file.write_text(json.dumps(changed))
    assert steps(plan, *given)[1].endswith(" seeds=10"), "a damaged registration states no seeds"


@pytest.mark.parametrize("display", [True, False])
def test_open_shows_the_report_or_its_path(display: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, shown = tmp_path / "report" / "index.html", []
    monkeypatch.setattr("diamond_bench.api.report", lambda *words, say: [page])
    monkeypatch.setattr(webbrowser, "open", lambda address: not shown.append(address))
    done = in_this_process("open", "sampling_steps", "scale=tiny", cwd=tmp_path, env={"DISPLAY": ":0"} if display else {})
    assert done.stdout == f"{page}\n"
    assert shown == ([page.as_uri()] if display else [])
    assert ("no display" in done.stderr) != display


def test_open_before_anything_is_finished_names_the_command(tmp_path: Path) -> None:
    plan, _ = swept(tmp_path, False)
    done = in_this_process("open", "sampling_steps", cwd=tmp_path, exit_code=2)
    assert plan.command in done.stderr


def test_every_command_has_help_in_a_panel() -> None:
    from typer.main import get_command

    from diamond_bench.cli import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert next(iter(commands)) == "studies"
    for name, command in commands.items():
        assert command.help, name
        assert len(command.help.partition("\n\n")[0]) <= 120, name
        assert all(param.help for param in command.params), name

"""`acceptance`: parts of bounded time, outcomes that a kill does not lose, and what is made of their numbers."""

import json
import sys
import time
from pathlib import Path

import pytest
from command_line import PROFILE, in_this_process

from diamond_bench.errors import UserError
from diamond_bench.profiling import acceptance
from diamond_bench.profiling.acceptance import Finding, Outcome, Part, accept, findings, parts, run
from diamond_bench.report.acceptance_table import findings_table
from diamond_bench.studies.single import plan_profile

SMALL = PROFILE[1:]


def part(code: str, seconds: float = 20.0) -> Part:
    return Part("p", (sys.executable, "-c", code), seconds)


def test_a_part_beyond_its_limit_is_ended_and_its_words_are_kept() -> None:
    began = time.monotonic()
    found = run(part("import time; print('working', flush=True); time.sleep(60)", 0.5))
    assert time.monotonic() - began < 10
    assert (found.status, found.output) == ("out of time", "working")
    broken = run(part("import sys; print('no GPU', file=sys.stderr); sys.exit(3)"))
    assert (broken.status, broken.output) == ("failed", "no GPU")
    assert run(part("""print('[{"name": "run"}]')""")).line("run") == {"name": "run"}


def test_no_part_begins_after_the_time_and_each_is_saved_before_the_next() -> None:
    now, saved, limits = [0.0], [], []

    def execute(part: Part) -> Outcome:
        limits.append(part.seconds)
        now[0] += 40
        return Outcome(part, "done")

    todo = [Part(name, (), 60.0) for name in "abc"]
    found = accept(todo, 1.5, lambda outcomes: saved.append(len(outcomes)), execute, lambda: now[0])
    assert [outcome.status for outcome in found] == ["done", "done", "done"]
    assert limits == [60.0, 45.0, 5.0], "90 s, less the 5 s in which the last part leaves"
    assert saved == [1, 2, 3]
    now[0] = 0.0
    assert [outcome.status for outcome in accept(todo, 1.0, lambda outcomes: None, execute, lambda: now[0])] == ["done", "done", "not run"]


def test_an_interruption_loses_only_the_running_part() -> None:
    saved: list[int] = []

    def execute(part: Part) -> Outcome:
        if part.name == "b":
            raise KeyboardInterrupt
        return Outcome(part, "done")

    with pytest.raises(KeyboardInterrupt):
        accept([Part(name, (), 60.0) for name in "abc"], 8, lambda outcomes: saved.append(len(outcomes)), execute)
    assert saved == [1]


def test_every_part_of_a_gpu_is_a_command_that_profile_accepts() -> None:
    todo = parts(["game=Pong"], gpu=True, tests=Path("tests/test_cuda.py"))
    names = [part.name for part in todo]
    assert names == ["tests", "authors", "plain", "graphs_off", "tf32", "batch_1", "packed_4", "packed_2", "packed_8"]
    assert todo[0].command[1:] == ("-m", "pytest", "-q", "tests/test_cuda.py")
    for profiled in todo[1:]:
        words = list(profiled.command[profiled.command.index("profile") + 1 : -1])
        options = {word: words[words.index(word) + 1] for word in words if word.startswith("--")}
        tokens = [word for word in words if "=" in word]
        packed = [int(options["--packed"])] if "--packed" in options else []
        named = options["--parts"].split(",") if "--parts" in options else []
        pairs = int(options["--pairs"]) if packed else None
        (spec,) = plan_profile(tokens, options.get("--compare"), lambda device: ("cuda:0", "A GPU"), named, packed, pairs).jobs.values()
        assert spec.config.training.game == "Pong"
    with pytest.raises(UserError, match="acceptance measures several values"):
        parts(["execution.precision=bf16"], gpu=True, tests=None)


def line(name: str, median: float = 1.0, **rest: float) -> dict[str, object]:
    return {"name": name, "median": median, **rest}


def test_findings_have_the_goals_of_a_gpu() -> None:
    main = (
        line("denoiser_update", 0.05, ratio=2.5, share_of_peak=0.4),
        line("actor_critic_update", 0.1, ratio=4.5),
        line("run", 18000.0),
        line("frames_per_second", 3200.0),
        line("peak_memory", 7e9),
    )
    off, packed = (line("actor_critic_update", 0.3),), (line("packed_4", 8.0, ratio=1.6), line("packed_4_memory", 2e10))
    given = {"authors": main, "graphs_off": off, "packed_4": packed, "packed_2": (line("packed_2", ratio=1.2), line("packed_2_memory"))}
    outcomes = [Outcome(Part(name, (), 1.0), "done", lines=lines) for name, lines in given.items()]
    found = {finding.what: finding for finding in findings(outcomes, gpu=True)}
    of = {what: (finding.value, finding.goal, finding.met) for what, finding in found.items()}
    assert of["denoiser_update, times as fast as authors"] == (2.5, 3.0, False)
    assert of["actor_critic_update, times as fast as authors"] == (4.5, 4.0, True)
    assert of["one run, projected"] == (5.0, 6.0, True)
    assert of["actor_critic_update, times as fast with CUDA graphs"] == (pytest.approx(3.0), None, None)
    assert of["runs per day, 4 at once relative to one"] == (1.6, 1.5, True)
    assert of["runs per day, 2 at once relative to one"] == (1.2, None, None), "only the best has the goal"
    assert of["denoiser_update, share of the matrix product's rate"] == (0.4, None, None)
    assert all(finding.goal is None for finding in findings(outcomes, gpu=False))
    assert findings_table(list(found.values())).row_count == len(found)
    assert found["peak memory"] == Finding("peak memory", 7e9, "bytes")
    late = [Outcome(Part("authors", (), 1.0), "out of time"), Outcome(Part("plain", (), 1.0), "done", lines=main), *outcomes[1:]]
    shown = {finding.what: finding.value for finding in findings(late, gpu=True)}
    assert shown["actor_critic_update, times as fast with CUDA graphs"] == pytest.approx(3.0), "plain has the same settings as authors"


def test_the_command_measures_a_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of its profiles run in this process. The others fail, and their message is shown."""

    def execute(part: Part) -> Outcome:
        words = part.command[part.command.index("diamond_bench") + 1 :]
        if part.name not in ("plain", "batch_1"):
            return Outcome(part, "failed", 1.0, output="no memory")
        narrow = [word.replace("denoiser_update,reward_end_update,", "") for word in words]
        return Outcome(part, "done", 1.0, tuple(json.loads(in_this_process(*narrow, cwd=tmp_path).stdout)))

    monkeypatch.setattr(acceptance, "run", execute)
    (tmp_path / "notes.txt").touch()
    refused = in_this_process("acceptance", *SMALL, "--out", "notes.txt/a.json", cwd=tmp_path, exit_code=2)
    assert "--out notes.txt/a.json cannot be written" in refused.stderr
    done = in_this_process("acceptance", *SMALL, cwd=tmp_path, exit_code=1)
    saved = json.loads((tmp_path / "acceptance.json").read_text())
    assert [(one["name"], one["status"]) for one in saved["parts"]] == [
        ("plain", "done"),
        ("bf16", "failed"),
        ("batch_1", "done"),
        ("packed_2", "failed"),
    ]
    values = {finding["what"]: finding["value"] for finding in saved["findings"]}
    assert {"actor_critic_update, times as fast as plain", "imagined frames per second, batch 1"} <= set(values)
    assert all(value > 0 for value in values.values())
    assert "no memory" in done.stdout
    assert "imagined frames per second, batch of the config" in done.stdout
    assert "peak memory" in done.stdout

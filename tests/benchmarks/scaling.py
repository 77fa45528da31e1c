"""CPU seconds of planning, looking, collecting and reporting for growing numbers of jobs.

    python tests/benchmarks/scaling.py FOLDER 10 100 1000 4000 10000 100000

It plans a study of one training and three evaluations per seed with about so many jobs, marks every job as done with made-up numbers, and
prints one row per phase. A study has at most 10,000 seeds, so larger plans have more evaluations per seed. `report` is left out above 4,000
jobs (1,000 runs of three variants), and everything that needs finished jobs above 20,000. FOLDER is created and kept.
"""

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_report import finish

from diamond_bench.launch.events import ignore
from diamond_bench.launch.local import _Sweep
from diamond_bench.printing import plan_rows, print_json, status_table
from diamond_bench.report import write_report
from diamond_bench.results.table import collect
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.bounds import MAX_SEEDS
from diamond_bench.studies.estimate import estimate
from diamond_bench.studies.overview import StudyStatus, overview
from diamond_bench.studies.plan import as_saved, load_plan, plan_study, save_plan
from diamond_bench.terminal import SafeConsole

_STUDY = """question: x
protocol: world_model
games: [Pong]
seeds: {seeds}
primary: {{metric: drift, baseline: {{n: 1}}}}
axes: {{n: {{key: sampler.num_steps, values: {steps}}}}}
"""
_MOST_REPORTED, _MOST_FINISHED = 4000, 20_000


def measure(folder: Path, jobs: int) -> dict[str, float]:
    """CPU seconds of each phase."""
    folder.mkdir(parents=True, exist_ok=True)
    file, store = folder / "mine.yaml", Store(folder / "outputs", say=lambda text: None)
    seeds = min(MAX_SEEDS, max(1, jobs // 4))
    file.write_text(_STUDY.format(seeds=seeds, steps=list(range(1, max(4, jobs // seeds)))))
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        found = work()
        seconds[name] = time.process_time() - began
        return found

    plan = timed("plan", lambda: plan_study(str(file), ["scale=tiny", "data=random"]))
    timed("dry run", lambda: (plan_rows(plan, {}), estimate(plan.jobs, list(plan.jobs), store, {}), as_saved(plan, store.root)))
    saved = timed("save the plan", lambda: save_plan(plan, store.root))
    timed("load the plan", lambda: load_plan(saved.folder))
    timed("begin a sweep", lambda: _Sweep(store, plan.jobs, ignore).look(retry_failed=True))
    timed("status", lambda: print_status(overview(store, None, [])))
    if jobs > _MOST_FINISHED:
        return seconds

    def finish_all() -> None:
        for number, spec in enumerate(plan.jobs.values()):
            finish(store, spec, scores={"drift": 0.1 + 1e-4 * (number % 97)} if spec.kind == "evaluate_world_model" else None)

    timed("finish the jobs", finish_all)
    states = timed("look", store.states)
    timed("status, all done", lambda: print_status(overview(store, None, [])))
    timed("dry run, all done", lambda: (plan_rows(plan, states), estimate(plan.jobs, [], store, states)))
    timed("collect", lambda: collect(saved, store))
    if jobs <= _MOST_REPORTED:
        timed("report", lambda: write_report(saved, store, lambda text: None))
    return seconds


def print_status(found: list[StudyStatus]) -> None:
    """Prints what `status` and `status --json` print, to nowhere."""
    console = SafeConsole(file=io.StringIO(), width=240)
    console.print(status_table(found))
    print_json(console, [study.plain() for study in found])


def main() -> None:
    """Prints one row per phase and one column per number of jobs."""
    numbers = [int(word) for word in sys.argv[2:]]
    found = [measure(Path(sys.argv[1]) / str(number), number) for number in numbers]
    print("| Phase | " + " | ".join(f"{number:,} jobs" for number in numbers) + " |")
    print("| --- |" + " --- |" * len(numbers))
    for name in found[0]:
        print(f"| {name} | " + " | ".join(f"{one[name]:.3g} s" if name in one else "" for one in found) + " |")


if __name__ == "__main__":
    main()

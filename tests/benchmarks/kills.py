"""Five runs at scale smoke, each killed ten times with all its processes: equal byte for byte to undisturbed runs?

    python tests/benchmarks/kills.py FOLDER             # more than an hour on two cores
    python tests/benchmarks/kills.py FOLDER --runs 3 4  # some of the five

Each command runs once without disturbance, in FOLDER/<number>/whole. Then it starts in FOLDER/<number>/killed, and `kill -9` ends it and
all its processes after a random time. That happens ten times. The random time is at most a sixth of what the undisturbed run took, so
that kills fall into all phases. The eleventh start runs to the end. Afterwards the script compares the SHA-256 of every file of every
artifact, and all results except measurements of time and memory.

The script prints one line per run. It exits with code 1 where a run differs or ended before its tenth kill. Runs that FOLDER already
holds are only compared.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from command_line import SCRIPT, clean_environment, descendants

from diamond_bench.store.artifacts import Store

FLOW = ("objective=flow", "sampler=flow_euler")
RUNS = (
    ("sweep", "sampling_steps", "scale=smoke", "sampler.num_steps=1,3"),
    ("sweep", "sampling_steps", "scale=smoke", "sampler.num_steps=2", "games=[Boxing]", "seeds=[1]", "metrics=[drift,state]"),
    ("sweep", "sampling_steps", "scale=smoke", *FLOW, "sampler.num_steps=3", "games=[Pong]", "seeds=[2]", "metrics=[drift]"),
    ("train", "game=Breakout", "seed=0", "scale=smoke"),
    ("sweep", "sampling_steps_agent", "scale=smoke", "sampler.num_steps=3", "games=[Pong]", "seeds=[1]"),
)
KILLS = 10
CLOCK = ("tensorboard/",)
"""Files that hold the time of day."""
MEASURED = ("work_seconds", "seconds_by_phase")
"""Facts of a result that measure this machine."""


def start(run: tuple[str, ...], folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "printed").open("ab") as printed:
        return subprocess.Popen([SCRIPT, *run], cwd=folder, stdout=printed, stderr=printed, env=clean_environment(), start_new_session=True)


def kill(process: subprocess.Popen[bytes]) -> None:
    for pid in [process.pid, *descendants(process.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def disturbed(run: tuple[str, ...], folder: Path, dice: random.Random, longest: float) -> int:
    """Starts the run and kills it, ten times or until it ends by itself; then lets it end. Returns how many kills there were."""
    kills = 0
    while kills < KILLS:
        process = start(run, folder)
        try:
            process.wait(dice.uniform(1.0, longest))
            return kills
        except subprocess.TimeoutExpired:
            kill(process)
            kills += 1
    if start(run, folder).wait():
        raise SystemExit(f"{folder}: the run failed after its tenth kill, see {folder / 'printed'}")
    return kills


def content(folder: Path) -> dict[str, object]:
    """Everything of a store's finished jobs that must be the same on every run, by name."""
    store = Store(folder / "outputs")
    found: dict[str, object] = {}
    for ref, state in store.states().items():
        assert (state.status, store.damage(ref, contents=True)) == ("done", ""), f"{folder}: {ref} is {state.status}: {state.error}"
        result = store.result(ref)
        found[f"{ref} rows"] = json.dumps([row for row in result.rows if not row["measured"]])
        found[f"{ref} info"] = json.dumps({key: value for key, value in result.info.items() if key not in MEASURED})
        found |= {f"{ref} {name}": sha256 for name, (_, sha256) in result.files.items() if not name.startswith(CLOCK)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, nargs="+", default=range(1, len(RUNS) + 1))
    options = parser.parse_args()
    wrong = 0
    for number in options.runs:
        run, folder = RUNS[number - 1], options.folder.absolute() / str(number)
        record = folder / "record.json"
        if not record.exists():
            began = time.monotonic()
            if start(run, folder / "whole").wait():
                raise SystemExit(f"the undisturbed run failed, see {folder / 'whole' / 'printed'}")
            seconds = time.monotonic() - began
            kills = disturbed(run, folder / "killed", random.Random(number), seconds / 6)
            record.write_text(json.dumps({"seconds": seconds, "kills": kills}))
        kept = json.loads(record.read_text())
        whole, killed = content(folder / "whole"), content(folder / "killed")
        different = sorted(key for key in whole.keys() | killed.keys() if whole.get(key) != killed.get(key))
        store = Store(folder / "killed" / "outputs")
        attempts = sum(store.result(ref).recorded["attempts"] for ref in store.refs())
        print(
            f"{number}: {' '.join(run)}: {kept['seconds']:.0f} s undisturbed; {kept['kills']} kills, {attempts} attempts at "
            f"{len(store.refs())} jobs; {len(whole)} files and results compared, {len(different)} differ",
            flush=True,
        )
        for key in different:
            print(f"   {key}", flush=True)
        wrong += bool(different) or kept["kills"] < KILLS
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

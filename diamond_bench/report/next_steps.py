"""What to do after a sweep: open the report, and run the seeds that an undecided answer needs. Takes its numbers from report.json."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import DamagedFile, read_json
from diamond_bench.studies.looks import MIN_LOOK_SEEDS
from diamond_bench.studies.plan import SavedPlan, place_of
from diamond_bench.studies.registration_files import registrations

_MAX_SEEDS = 200
"""Beyond this number, more seeds are no advice."""


class Step(NamedTuple):
    """One thing to do next."""

    why: str
    """The beginning of a sentence that the command ends."""
    command: str


def next_steps(plan: SavedPlan) -> list[Step]:
    """The steps after a sweep whose report was just written, the report first."""
    words = shlex.split(plan.command)
    place = place_of(plan)
    steps = [Step("Open the report", f"diamond-bench open {place}")]
    if words[1] == "score":  # more seeds are no advice on frames that were given
        return steps
    content = read_json(plan.folder / "report" / "report.json")
    rows = [row for row in content["comparison"]["rows"] if row["status"] == "primary"]
    undecided = [row for row in rows if row["verdict"] == "undecided"]
    if not undecided:
        return steps
    seeds, looks = list(dict.fromkeys(point.seed for point in plan.points)), plan.primary.get("looks", [])
    open_questions = f"{len(undecided)} of {len(rows)} comparisons {'is' if len(undecided) == 1 else 'are'} undecided"
    hours = next((one["hours_per_seed"] for one in content["power"] if one["hours_per_seed"]), None)

    def more(wanted: Sequence[int], which: str, caution: str = "") -> Step:
        time = f", about {_time((len(wanted) - len(seeds)) * hours)} more on one device" if hours else ""
        return Step(f"{open_questions}. Run {which}{time}{caution}", with_seeds(words, wanted))

    registered = _registered_seeds(plan)
    if not looks and set(seeds) < set(registered):
        return [*steps, more(registered, f"all {len(registered)} registered seeds")]
    number = seeds_needed(undecided, content["power"], looks, len(seeds))
    if number is None:
        return [*steps, Step(f"{open_questions}, and more seeds alone will not decide. See why", f"diamond-bench power {place}")]
    caution = "" if looks else ". An answer with more seeds than were registered is exploratory"
    return [*steps, more(more_seeds(seeds, number), f"{number} seeds", caution)]


def _registered_seeds(plan: SavedPlan) -> list[int]:
    """The seeds of the last registration. Empty without one, and if it is damaged, which the report says."""
    try:
        return [seed for registration in registrations(plan.folder)[-1:] for seed in registration.content["seeds"]]
    except DamagedFile:
        return []


def play_step(plan: SavedPlan, store: Store) -> Step | None:
    """How to play the first finished model of a plan in the browser. None if none is finished."""
    if plan.command.startswith("diamond-bench score "):
        return None
    role = "agent" if plan.protocol == "agent" else "evaluation"
    found = next((point.jobs[role] for point in plan.points if store.state(point.jobs[role]).status == "done"), None)
    where = [word for word in shlex.split(plan.command)[2:] if word.startswith("output_dir=")]
    return None if found is None else Step("Play a model in the browser", shlex.join(["diamond-bench", "play", found.id, *where]))


def seeds_needed(undecided: Sequence[Mapping[str, Any]], power: Sequence[Mapping[str, Any]], looks: Sequence[int], now: int) -> int | None:
    """The number of seeds to run next. None if no useful number of seeds decides.

    With planned looks it is the next look. Else it is the smallest number that detects a difference of the margin in every undecided
    comparison, twice the present one where that is no larger, and MIN_LOOK_SEEDS where there are too few runs to plan from.
    """
    if looks:
        return next((look for look in looks if look > now), None)
    pairs = {(row["variant"], row["baseline"]) for row in undecided}
    numbers = [max(MIN_LOOK_SEEDS, 2 * now) if now < MIN_LOOK_SEEDS else 0]
    for one in power:
        if (one["variant"], one["baseline"]) not in pairs or one["problem"]:
            continue
        least = one["smallest_seeds"]
        wanted = one["seeds_to_detect_margin"] if one["margin"] > 0 else least
        if least is None or wanted is None:
            return None
        numbers += [least, wanted]
    number = max(numbers) if max(numbers) > now else 2 * now
    return number if number <= _MAX_SEEDS else None


def more_seeds(seeds: Sequence[int], number: int) -> list[int]:
    """`number` seeds, the given ones among them."""
    return [*seeds, *range(max(seeds) + 1, max(seeds) + 1 + number - len(seeds))]


def with_seeds(words: Sequence[str], seeds: Sequence[int]) -> str:
    """The command of a sweep with these seeds."""
    stated = str(len(seeds)) if sorted(seeds) == list(range(len(seeds))) else f"[{','.join(map(str, seeds))}]"
    return " ".join(map(shlex.quote, [*(word for word in words if not word.startswith("seeds=")), f"seeds={stated}"]))


def _time(hours: float) -> str:
    if hours * 60 < 2:
        return f"{max(1, round(hours * 3600))} seconds"
    return f"{round(hours * 60)} minutes" if hours < 2 else f"{hours:.0f} hours"

"""The registration of a study on its page: how it stands, and what was stated."""

from collections.abc import Mapping, Sequence
from typing import Any

from diamond_bench.metrics.columns import metric_label
from diamond_bench.report.markup import Html, details, el, items, joined
from diamond_bench.studies.looks import ALPHA, look_words
from diamond_bench.studies.margin import parse_margin
from diamond_bench.studies.plan import SavedPlan
from diamond_bench.studies.registration import RegistrationStatus

_TESTS = {
    "permutation": "studentised permutation test over runs and Student's t, the larger p-value; equivalence by TOST with the same tests, "
    "which assumes that differences between runs are symmetric",
    "t": "Student's t test, and TOST for equivalence, which assume that means over runs are normally distributed",
}
_SEVERAL_LOOKS = (
    "This page is one look, and only its level counts here. The study's answer for a variant is that of the first look that is not "
    "undecided; later looks do not change it. The levels of all looks sum to 5%, which bounds the chance of any wrong better or worse."
)
_TONE = {"registered": "good", "planned look": "good"}


def level(standing: RegistrationStatus) -> float:
    """The family-wise level at which the primary comparison is made: a planned look's own, else 5%."""
    return standing.alpha if standing.confirmatory else ALPHA


def registered(plan: SavedPlan, standing: RegistrationStatus, comparisons: int = 0) -> Html:
    """How the study was registered, and below it what was stated and how to read the verdicts.

    `comparisons` is the size of the family of Holm's correction, 0 where there is no answer.
    """
    tone = _TONE.get(standing.kind, "warn") if standing.confirmatory or standing.kind not in _TONE else "soft"
    lines = [el("p", el("span", standing.sentence, class_=tone))]
    lines += [el("p", el("span", sentence, class_="warn")) for sentence in standing.trace]
    seeds, games = (list(dict.fromkeys(getattr(point, name) for point in plan.points)) for name in ("seed", "game"))
    content = None if standing.registration is None else standing.registration.content
    stated = []
    if content is not None:
        stated.append(_stated("Registered", content["primary"], content["seeds"], content["games"]))
    if content is None or standing.changes:
        stated.append(_stated("Stated by this page" if content is not None else "Stated", plan.primary, seeds, games))
    elif set(seeds) != set(content["seeds"]):
        stated.append(el("p", f"This page holds the seeds {_some(seeds)}.", class_="soft"))
    looks = (plan.primary if content is None else content["primary"]).get("looks", [])
    corrected = "corrected" if plan.primary.get("holm_equivalence") else "not corrected"
    reading = [
        f"P-values of better and worse are corrected for {comparisons} comparison{'' if comparisons == 1 else 's'} (Holm).",
        "Better and worse do not mean by more than the margin: the interval says how much.",
        f"Equivalent is {corrected} for the number of comparisons.",
        *([_SEVERAL_LOOKS] if looks else []),
        "All else below is exploratory.",
    ]
    about = _reliability(str(plan.primary.get("test", "permutation")), len(seeds), len(games))
    how = [items(reading), el("p", about, class_="soft")] if comparisons else []
    return joined([*lines, details("What was stated, and how to read the verdicts", *stated, *how)])


def _reliability(test: str, seeds: int, games: int) -> str:
    """How often verdicts of such a study are wrong, as simulated."""
    from analysis.attained import attained

    plain, skewed = (attained(test, seeds, games, of_skewed) for of_skewed in (False, True))
    low, high = plain.coverage
    one = f"{plain.seeds} seeds and {plain.games} game{'' if plain.games == 1 else 's'}"
    return (
        f"In simulations with {one} where differences between runs are symmetric, at most {plain.wrong:.1%} of studies had a wrong better "
        f"or worse, at most {plain.equivalent:.1%} of comparisons a wrong equivalence, and {low:.1%} to {high:.1%} of intervals held "
        f"the true difference. Where differences are as skewed as a lognormal distribution: up to {skewed.wrong:.1%}, "
        f"{skewed.equivalent:.1%}, and as few as {skewed.coverage[0]:.1%} (docs/measurements/verdicts.md)."
    )


def _stated(heading: str, primary: Mapping[str, Any], seeds: Sequence[int], games: Sequence[str]) -> Html:
    """The parts of a statement, one line each."""
    looks, groups = primary.get("looks", []), primary.get("variants", [])
    against = ", ".join(f"{key} = {value}" for key, value in primary.get("baseline", {}).items())
    parts = [
        f"Metric: {metric_label(str(primary['metric']))}, against {against or 'no baseline'}.",
        f"The smallest difference that matters is {parse_margin(primary.get('margin', 0.0), 'margin').words()}.",
        f"Test: {_TESTS[primary.get('test', 'permutation')]}.",
        f"Seeds: {_some(seeds)}. Games: {_some(games)}.",
    ]
    if groups:
        named = "; ".join(", ".join(f"{key} = {' or '.join(map(str, values))}" for key, values in group.items()) for group in groups)
        parts.append(f"Variants that answer the question: {named}.")
    if looks:
        parts.append(f"Planned looks: {look_words(looks)}.")
    return joined([el("p", f"{heading}:", class_="soft"), items(parts)])


def _some(values: Sequence[Any]) -> str:
    return f"{', '.join(map(str, values[:10]))}{f' and {len(values) - 10} more' if len(values) > 10 else ''}"

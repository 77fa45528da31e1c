"""The answer to a study's question: one per variant, in short sentences, for the page and for the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diamond_bench.metrics.columns import METRIC_INFO
from diamond_bench.report.comparison import OF_COPYING, Comparison, compare_study
from diamond_bench.report.facts import StudyFacts
from diamond_bench.report.gate import Gate, failed_words, gates
from diamond_bench.report.markup import Html, details, el, items, joined
from diamond_bench.report.registered import level, registered
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.looks import ALPHA
from diamond_bench.studies.plan import SavedPlan
from diamond_bench.studies.registration import RegistrationStatus, registration_status

_MAX_ANSWERS = 40
_ONE_VARIANT = "Nothing to compare:"
EXPLORATORY_ONLY = "These results are exploratory: they suggest an answer and do not confirm it."


@dataclass(frozen=True)
class Answer:
    """What a study says about one variant."""

    variant: str
    baseline: str
    verdict: str
    claim: str
    """The answer in one or two plain sentences, with the difference and its interval."""
    scope: str
    """A sentence on what the answer holds for. Empty where there is no interval."""
    evidence: tuple[str, ...]
    """Sentences for readers of statistics: effect size, number of runs, p-values, cost, and what is missing."""
    gate: str
    """A sentence where the variant or its baseline fails the sanity gate; else empty."""

    @property
    def sentence(self) -> str:
        """All of it as a line of text."""
        return " ".join(part for part in (self.claim, self.scope, *self.evidence, self.gate) if part)


def study_answers(plan: SavedPlan, store: Store, facts: StudyFacts) -> list[str]:
    """The answers of a study and how they stand to its registration, as lines for the terminal. Their words are those of the page."""
    stands = registration_status(plan, facts.done)
    found = compare_study(plan, store, facts, alpha=level(stands), exploratory=False)
    if words := no_answer(plan, found):
        lines = [" ".join(words)]
        return lines if words[0] == _ONE_VARIANT else [*lines, stands.sentence, *stands.trace]
    lines = [one.sentence for one in answers_of(found, gates(plan, store, facts))]
    if not stands.confirmatory:
        lines = [f"Exploratory: {line}" for line in lines]
    if len(lines) > _MAX_ANSWERS:
        lines = [*lines[:_MAX_ANSWERS], f"{len(lines) - _MAX_ANSWERS} more answers are in comparison.csv."]
    return [*lines, stands.sentence, *stands.trace]


def no_answer(plan: SavedPlan, found: Comparison) -> tuple[str, str] | None:
    """Why a study has no answer, in two parts of a sentence; None where it has one."""
    variants = dict.fromkeys(point.variant for point in plan.points)
    if len(variants) == 1:
        return _ONE_VARIANT, f"the study has one variant, {next(iter(variants))}."
    if found.problem:
        return "No answer:", f"{found.problem}."
    return None if len(found.primary) else ("No answer yet:", "no variant can be compared.")


def answers_of(found: Comparison, checked: Sequence[Gate] = ()) -> list[Answer]:
    """One answer per row of the primary comparison, in its order."""
    return [_answer(row, found.alpha, checked) for row in found.primary.to_dict(orient="records")]


def _answer(row: Mapping[Any, Any], alpha: float, checked: Sequence[Gate]) -> Answer:
    failed = failed_words(checked, [row["variant"], row["baseline"]])
    gate = f"{failed[:1].upper()}{failed[1:]}." if failed else ""
    verdict = (row["variant"], row["baseline"], row["verdict"])
    return Answer(*verdict, claim(row, alpha), scope(row), tuple(evidence(row)), gate)


def section(plan: SavedPlan, found: Comparison, stands: RegistrationStatus, checked: Sequence[Gate] = ()) -> Html:
    """The answers on a study's page, and how the study was registered."""
    if words := no_answer(plan, found):
        one = words[0] == _ONE_VARIANT
        box = el("div", el("p", el("strong", words[0]), f" {words[1]}"), class_="box" if one else "box wrong")
        return box if one else joined([box, registered(plan, stands)])
    every = answers_of(found, checked)
    shown = every[:_MAX_ANSWERS]
    lines = [joined([_marked(one), *([el("p", el("span", one.gate, class_="bad"))] if one.gate else [])]) for one in shown]
    below: list[Any] = [el("p", text, class_="soft") for text in dict.fromkeys(one.scope for one in shown if one.scope)]
    if len(every) > len(shown):
        below.append(el("p", f"{len(every) - len(shown)} more answers are in comparison.csv.", class_="soft"))
    exploratory = [] if stands.confirmatory else [el("p", el("span", EXPLORATORY_ONLY, class_="warn"))]
    statistics = [
        joined([el("strong", f"{one.variant} against {one.baseline}: "), " ".join(one.evidence)]) for one in shown if one.evidence
    ]
    more = [details("The statistics behind the answer", items(statistics, class_="soft"))] if statistics else []
    box = el("div", *exploratory, items(lines, class_="answers"), *below, class_="box")
    return joined([box, *more, registered(plan, stands, len(found.family))])


def _marked(one: Answer) -> Html:
    """The claim with the verdict in its colour."""
    from analysis.comparison import BETTER, UNDECIDED, WORSE

    tone = {BETTER: "good", WORSE: "bad", UNDECIDED: "warn"}.get(one.verdict, "even")
    first, dot, rest = one.claim.partition(". ")
    return el("p", el("span", f"{first}{dot.strip()}", class_=tone), f" {rest}" if rest else "")


def claim(row: Mapping[Any, Any], alpha: float = ALPHA) -> str:
    """A row's verdict as plain sentences: who is better, in what, by how much, and how sure that is."""
    from analysis.comparison import BETTER, UNDECIDED, WORSE

    variant, base, shared = _apart(row["variant"], row["baseline"])
    verdict, start, undecided = row["verdict"], f"{shared}: " if shared else "", f"Undecided{f' for {shared}' if shared else ''}:"
    if not _known(row["difference"]):
        return f"{undecided} {variant} cannot be compared to {base} yet."
    what, size = _title(row["metric"]), f"{_amount(abs(row['difference']), row)}{_unit(row)}"
    side = "higher" if row["difference"] > 0 else "lower"
    measured = f"{what} is {side} with {variant} than with {base}, by {size}" if row["difference"] else f"{what} is the same in both"
    interval = ""
    if _known(row["low"]):
        interval = f" ({(1 - alpha) * 100:.4g}% interval of the difference: {_signed(row['low'], row)} to {_signed(row['high'], row)})"
    if verdict in (BETTER, WORSE):
        return f"{start}{variant} is {verdict} than {base}. {measured}{interval}. {_better_side(row)} is better."
    if verdict == UNDECIDED:
        why = "chance can explain the difference" if interval else "there are too few runs to say more"
        return f"{undecided} {variant} may be better or worse than {base}. {measured}{interval}, but {why}."
    within = verdict.replace("copying's error", "the error of copying the last frame")
    return f"{start}{variant} and {base} are {within}. {measured}{interval}."


def _apart(variant: str, base: str) -> tuple[str, str, str]:
    """The parts of two variants' names that differ, and the part that they share."""
    one, other = variant.split(", "), base.split(", ")
    shared = [part for part in one if part in other]
    if set(shared) in (set(one), set(other)):
        return variant, base, ""
    return ", ".join(part for part in one if part not in shared), ", ".join(part for part in other if part not in shared), ", ".join(shared)


def evidence(row: Mapping[Any, Any]) -> list[str]:
    """The evidence of a verdict for readers of statistics, a sentence each."""
    parts = []
    if _known(row["difference"]):
        if _known(row["effect_size"]):
            parts.append(f"Hedges' {row['effect']} {row['effect_size']:+.3g}.".replace("-", "−"))
        runs = f"{row['runs']:g} {'run' if row['runs'] == 1 else 'runs'} against {row['baseline_runs']:g}"
        parts.append(f"{runs}{' on the same checkpoints' if _known(row['paired']) and row['paired'] else ''}.")
    if _known(row["p_holm"]):
        parts.append(f"p = {row['p_holm']:.2g} ({row['test']} test, Holm).")
    if _known(row["p_equivalent"]):
        parts.append(f"Equivalence: p = {row['p_equivalent']:.2g} (TOST).")
    of_one_family = _known(row["nfe_ratio"])
    ratio, cost = (row["nfe_ratio"], "network calls") if of_one_family else (row["flops_ratio"], "FLOP per frame")
    if _known(ratio) and (times := f"{ratio:.3g}") not in ("0", "1"):  # a world model without a network, such as the oracle, has 0
        parts.append(f"{times} × the {cost}.")
    missing = row["missing"].split("; ") if isinstance(row["missing"], str) and row["missing"] else []
    return [*parts, *(f"{text[:1].upper()}{text[1:]}." for text in missing)]


def scope(row: Mapping[Any, Any]) -> str:
    """What a row's interval and verdict hold for, as a sentence; empty where there is no interval."""
    from analysis.comparison import CROSSED

    if not _known(row["low"]):
        return ""
    references, episodes = int(row["references"]), int(row["episodes"])
    cut = f"{references} cut from {episodes} episode{'' if episodes == 1 else 's'}"
    if row["scope"] == CROSSED:
        return f"This holds for other training seeds and for other held-out trajectories (measured: {cut})."
    if references:
        return f"This holds for other training seeds, but only for these held-out trajectories ({cut})."
    if row["metric"] in METRIC_INFO and METRIC_INFO[row["metric"]].protocol == "agent":
        return "This holds for other training seeds."
    return "This holds for other training seeds, but only for this dataset and its held-out trajectories."


def _better_side(row: Mapping[Any, Any]) -> str:
    metric = METRIC_INFO.get(row["metric"])
    return "Higher" if metric is not None and metric.better == "higher" else "Lower"


def _title(name: str) -> str:
    metric = METRIC_INFO.get(name)
    if metric is None:
        return f"The metric {name}"
    name, comma, more = metric.title.partition(", ")
    title = f"{name} ({more})" if comma else name
    title = f"distance of {title} to 1" if metric.better == "near 1" else title
    return f"{title[:1].upper()}{title[1:]}"


def _amount(value: float, row: Mapping[Any, Any]) -> str:
    """A difference without its unit; in percent where it is a share."""
    value = 100 * value if row["unit"] == OF_COPYING else value
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text}%" if row["unit"] == OF_COPYING else text


def _unit(row: Mapping[Any, Any]) -> str:
    if row["unit"] == OF_COPYING:
        return " of the error of copying the last frame"
    return f" ({row['unit']})" if " " in row["unit"] else f" {row['unit']}".rstrip()


def _known(value: Any) -> bool:
    return value is not None and value == value


def _signed(value: float, row: Mapping[Any, Any]) -> str:
    text = _amount(value, row)
    return text.replace("-", "−", 1) if text.startswith("-") else f"+{text}"

"""The answer to a study's question: one per variant, in short sentences, for the page and for the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diamond_bench.metrics.columns import METRIC_INFO
from diamond_bench.report.comparison import OF_COPYING, Comparison, compare_study
from diamond_bench.report.facts import StudyFacts
from diamond_bench.report.gate import Gate, failed_words, gates
from diamond_bench.report.markup import Html, el, items, joined
from diamond_bench.report.registered import level, registered
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.looks import ALPHA
from diamond_bench.studies.plan import SavedPlan
from diamond_bench.studies.registration import RegistrationStatus, registration_status

_MAX_ANSWERS = 40
_ONE_VARIANT = "Nothing to compare:"


@dataclass(frozen=True)
class Answer:
    """What a study says about one variant."""

    variant: str
    baseline: str
    verdict: str
    scope: str
    """What the verdict speaks about, as the end of its sentence; empty where there is no interval."""
    evidence: tuple[str, ...]
    """Sentences: the difference with its interval, the effect size, the runs, the p-values, the cost, and what is missing."""
    gate: str
    """A sentence where the variant or its baseline fails the sanity gate; else empty."""

    @property
    def sentence(self) -> str:
        """All of it as a line of text."""
        claim = f"{self.variant} against {self.baseline}: {self.verdict}{f', {self.scope}' if self.scope else ''}."
        return " ".join(part for part in (claim, *self.evidence, self.gate) if part)


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
    return Answer(row["variant"], row["baseline"], row["verdict"], scope(row), tuple(evidence(row, alpha)), gate)


def section(plan: SavedPlan, found: Comparison, stands: RegistrationStatus, checked: Sequence[Gate] = ()) -> Html:
    """The answers on a study's page, and how the study was registered."""
    if words := no_answer(plan, found):
        one = words[0] == _ONE_VARIANT
        box = el("div", el("p", el("strong", words[0]), f" {words[1]}"), class_="box" if one else "box wrong")
        return box if one else joined([box, registered(plan, stands)])
    every = answers_of(found, checked)
    parts: list[Any] = []
    for base in dict.fromkeys(one.baseline for one in every[:_MAX_ANSWERS]):
        lines = [_shown(one) for one in every[:_MAX_ANSWERS] if one.baseline == base]
        heading = f"Against {base}{'' if stands.confirmatory else ', exploratory'}:"
        parts.append(el("div", el("p", heading), items(lines, class_="answers"), class_="box"))
    if len(every) > _MAX_ANSWERS:
        parts.append(el("p", f"{len(every) - _MAX_ANSWERS} more answers are in comparison.csv.", class_="soft"))
    return joined([*parts, registered(plan, stands, len(found.family))])


def _shown(one: Answer) -> Html:
    from analysis.comparison import BETTER, UNDECIDED, WORSE

    tone = {BETTER: "good", WORSE: "bad", UNDECIDED: "warn"}.get(one.verdict, "even")
    claim = el("p", f"{one.variant}: ", el("span", one.verdict, class_=tone), f"{f', {one.scope}' if one.scope else ''}.")
    more = [el("p", " ".join(one.evidence), class_="soft")] if one.evidence else []
    gate = [el("p", el("span", one.gate, class_="bad"))] if one.gate else []
    return joined([claim, *more, *gate])


def evidence(row: Mapping[Any, Any], alpha: float = ALPHA) -> list[str]:
    """The evidence of a verdict, a sentence each: difference and interval, effect size, runs, p-values, cost, and what is missing."""
    parts = []
    if _known(row["difference"]):
        interval = ""
        if _known(row["low"]):
            interval = f" ({(1 - alpha) * 100:.4g}% interval {_amount(row['low'], row)} to {_amount(row['high'], row)})"
        parts.append(f"{_title(row['metric'])} {_amount(row['difference'], row)}{_unit(row)}{interval}.")
        if _known(row["effect_size"]):
            parts.append(f"Hedges' {row['effect']} {_signed(row['effect_size'])}.")
        runs = f"{row['runs']:g} {'run' if row['runs'] == 1 else 'runs'} against {row['baseline_runs']:g}"
        parts.append(f"{runs}{' on the same checkpoints' if _known(row['paired']) and row['paired'] else ''}.")
    if _known(row["p_holm"]):
        parts.append(f"p = {row['p_holm']:.2g} ({row['test']} test, Holm).")
    if _known(row["p_equivalent"]):
        parts.append(f"Equivalence: p = {row['p_equivalent']:.2g} (TOST).")
    if _known(row["nfe_ratio"]) and row["nfe_ratio"] != 1:
        parts.append(f"{row['nfe_ratio']:.3g} × the denoiser calls.")
    missing = row["missing"].split("; ") if isinstance(row["missing"], str) and row["missing"] else []
    return [*parts, *(f"{text[:1].upper()}{text[1:]}." for text in missing)]


def scope(row: Mapping[Any, Any]) -> str:
    """What a row's interval and verdict speak about, as the end of a sentence; empty where there is no interval."""
    from analysis.comparison import CROSSED

    if not _known(row["low"]):
        return ""
    references, episodes = int(row["references"]), int(row["episodes"])
    if row["scope"] == CROSSED:
        return f"for other training seeds and other references ({references} from {episodes} episodes)"
    if references:
        return f"for other training seeds, on these {references} references ({episodes} episode{'' if episodes == 1 else 's'})"
    of_agents = row["metric"] in METRIC_INFO and METRIC_INFO[row["metric"]].protocol == "agent"
    return "for other training seeds" if of_agents else "for other training seeds, on this dataset and its references"


def _title(name: str) -> str:
    metric = METRIC_INFO.get(name)
    if metric is None:
        return name
    title = f"distance of {metric.title} to 1" if metric.better == "near 1" else metric.title
    return f"{title[:1].upper()}{title[1:]}{ {'higher': ' ↑', 'lower': ' ↓', 'near 1': ' ↓'}.get(metric.better, '') }"


def _amount(value: float, row: Mapping[Any, Any]) -> str:
    """A difference with its sign, without its unit; in percent where it is a share."""
    return f"{_signed(100 * value)}%" if row["unit"] == OF_COPYING else _signed(value)


def _unit(row: Mapping[Any, Any]) -> str:
    return " of copying's error" if row["unit"] == OF_COPYING else f" {row['unit']}" if row["unit"] else ""


def _known(value: Any) -> bool:
    return value is not None and value == value


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−")

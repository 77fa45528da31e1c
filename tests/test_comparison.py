"""Comparing variants: differences and verdicts by hand, refusals, and what the procedure does where there is no effect."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import permutation
from analysis.attained import attained
from analysis.comparison import (
    BETTER,
    COLUMNS,
    CROSSED,
    RUNS,
    UNDECIDED,
    WORSE,
    Compared,
    ComparisonError,
    compare,
    compare_matched,
    effects,
    equivalent_within,
)
from analysis.differences import difference, standardised, standardised_change
from analysis.matching import Game, Matched
from analysis.multiplicity import holm, smallest_p


def table(values: dict[tuple[str, str], list[float]], paired: bool = False) -> pd.DataFrame:
    """(variant, game) -> values of seeds 0, 1, ...; paired: seeds of one game belong together."""
    rows = [(v, game, seed, value) for (v, game), runs in values.items() for seed, value in enumerate(runs)]
    frame = pd.DataFrame(rows, columns=["variant", "game", "seed", "value"])
    return frame.assign(pair=frame["game"] + frame["seed"].astype(str)) if paired else frame


def compared(variant: np.ndarray, baseline: np.ndarray, margin: float = 0.0) -> Compared:
    """Unpaired runs of one game, without the overhead of tables."""
    return compare_matched("b", "a", Matched((Game("Pong", variant[:, None], baseline[:, None], None),), False, True, ()), margin, True)


def only(frame: pd.DataFrame) -> pd.Series:
    assert len(frame) == 1
    return frame.iloc[0]


LARGE = {("n=1", "Boxing"): [1.0, 2.0, 3.0, 4.0, 5.0], ("n=3", "Boxing"): [11.0, 12.0, 13.0, 14.0, 15.5]}


def test_one_game_by_hand() -> None:
    row = only(compare(table(LARGE), "n=1", 1.0, higher_is_better=True))
    assert tuple(row.index) == COLUMNS
    assert (row["variant"], row["runs"], row["baseline_runs"], row["paired"], row["missing"]) == ("n=3", 5, 5, False, "")
    assert row["difference"] == pytest.approx(10.1)
    assert row["low"] < 10.1 < row["high"]
    assert row["probability_of_improvement"] == 1.0
    assert row["p_value"] == pytest.approx(2 / 252)  # of 10 choose 5 labellings this one and its mirror image
    assert row["verdict"] == BETTER


def test_lower_is_better_turns_the_verdict_and_not_the_difference() -> None:
    row = only(compare(table(LARGE), "n=1", 1.0, higher_is_better=False))
    assert row["difference"] == pytest.approx(10.1)
    assert row["probability_of_improvement"] == 0.0
    assert row["verdict"] == WORSE
    assert only(compare(table(LARGE), "n=3", 1.0, higher_is_better=False))["verdict"] == BETTER


def test_games_weigh_the_same_whatever_their_runs() -> None:
    values = {("a", "Boxing"): [0.0] * 3, ("a", "Pong"): [0.0] * 6, ("b", "Boxing"): [2.0] * 3, ("b", "Pong"): [8.0] * 6}
    assert only(compare(table(values), "a", 1.0, True))["difference"] == pytest.approx(5.0)


def test_p_value_of_pairs_by_hand() -> None:
    base, differences = np.array([5.0, -3.0, 8.0, 0.0]), np.array([1.0, 2.0, -0.5, 3.0])
    row = only(compare(table({("a", "Pong"): list(base), ("b", "Pong"): list(base + differences)}, paired=True), "a", 0.1, True))
    assert row["paired"]
    at_least = [abs(np.dot(signs, differences)) >= 5.5 - 1e-9 for signs in product((1, -1), repeat=4)]
    assert row["p_value"] == pytest.approx(np.mean(at_least))  # 4 of 16: the small one may have either sign
    assert row["p_value"] == 0.25
    student = only(
        compare(table({("a", "Pong"): list(base), ("b", "Pong"): list(base + differences)}, paired=True), "a", 0.1, True, test="t")
    )
    assert student["p_value"] == pytest.approx(stats.ttest_1samp(differences, 0.0).pvalue)


def test_p_value_of_labels_by_hand() -> None:
    values = {
        ("a", "Pong"): [0.0, 1.0, 2.0],
        ("b", "Pong"): [1.5, 3.0, 4.0],
        ("a", "Boxing"): [0.0, 1.0, 9.0],
        ("b", "Boxing"): [5.0, 6.0, 7.0],
    }

    def arrangements(game: str) -> list[tuple[float, float]]:
        runs = np.array(values["a", game] + values["b", game])
        chosen = [np.array(labels, dtype=bool) for labels in product((0, 1), repeat=6) if sum(labels) == 3]
        return [(runs[c].mean() - runs[~c].mean(), runs[c].var(ddof=1) / 3 + runs[~c].var(ddof=1) / 3) for c in chosen]

    def statistic(pong: tuple[float, float], boxing: tuple[float, float]) -> float:
        return abs(pong[0] + boxing[0]) / np.sqrt(pong[1] + boxing[1])

    first = [np.array(values["b", game]) for game in ("Pong", "Boxing")], [np.array(values["a", game]) for game in ("Pong", "Boxing")]
    observed = statistic(*[(x.mean() - y.mean(), x.var(ddof=1) / 3 + y.var(ddof=1) / 3) for x, y in zip(*first, strict=True)])
    every = [statistic(x, y) for x, y in product(arrangements("Pong"), arrangements("Boxing"))]
    p_value = permutation.two_sided(list(zip(*first, strict=True)), paired=False)
    assert p_value == pytest.approx(np.mean(np.array(every) >= observed - 1e-9))
    assert p_value == pytest.approx(0.24)  # the difference itself, not studentised, would give 0.19
    row = only(compare(table(values), "a", 0.1, True))
    student = only(compare(table(values), "a", 0.1, True, test="t"))
    assert row["p_value"] == pytest.approx(max(p_value, student["p_value"]))


@pytest.mark.parametrize("paired", [True, False])
def test_many_runs_are_tested_by_drawn_arrangements(paired: bool) -> None:
    generator = np.random.default_rng(3)
    a = generator.normal(size=30)
    b = a + 0.3 + generator.normal(size=30) if paired else generator.normal(0.6, 1.0, size=30)
    row = only(compare(table({("a", "Pong"): list(a), ("b", "Pong"): list(b)}, paired), "a", 0.01, True))
    known = stats.ttest_rel(b, a).pvalue if paired else stats.ttest_ind(b, a).pvalue
    assert row["p_value"] == pytest.approx(known, abs=0.02)
    far = only(compare(table({("a", "Pong"): list(a), ("b", "Pong"): list(a + 99.0)}, paired), "a", 0.01, True))
    assert far["p_value"] == pytest.approx(1e-4)  # never 0


@pytest.mark.parametrize("runs", [3, 5, 30])
def test_interval_of_pairs_is_students(runs: int) -> None:
    differences = np.random.default_rng(runs).normal(2.0, 1.0, runs)
    frame = table({("a", "Pong"): [0.0] * runs, ("b", "Pong"): list(differences)}, paired=True)
    row = only(compare(frame, "a", 0.1, True))
    known = stats.ttest_1samp(differences, 0.0).confidence_interval()
    assert (row["low"], row["high"]) == pytest.approx((known.low, known.high))
    half = only(compare(frame, "a", 0.1, True, alpha=0.01))
    known = stats.ttest_1samp(differences, 0.0).confidence_interval(0.99)
    assert (half["low"], half["high"]) == pytest.approx((known.low, known.high))


def welch_freedom(a: np.ndarray, b: np.ndarray) -> float:
    parts = [(side.var(ddof=1) / len(side), len(side) - 1) for side in (a, b)]
    return sum(v for v, _ in parts) ** 2 / sum(v**2 / d for v, d in parts)


def test_interval_of_two_sides_is_welchs() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.normal(0.0, 3.0, 12), generator.normal(0.0, 1.0, 25)
    row = only(compare(table({("a", "Pong"): list(a), ("b", "Pong"): list(b)}), "a", 0.1, True))
    welch = stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    narrower = (welch.high - welch.low) / (row["high"] - row["low"])
    assert narrower == pytest.approx(stats.t.ppf(0.975, welch_freedom(a, b)) / stats.t.ppf(0.975, 11))  # the sides differ in number
    row = only(compare(table({("a", "Pong"): list(a), ("b", "Pong"): list(b[:12])}), "a", 0.1, True))
    welch = stats.ttest_ind(b[:12], a, equal_var=False).confidence_interval()
    assert (row["low"], row["high"]) == pytest.approx((welch.low, welch.high))


def test_pairs_remove_what_both_share() -> None:
    generator = np.random.default_rng(0)
    shared = generator.normal(0.0, 10.0, 8)
    values = {("a", "Pong"): list(shared), ("b", "Pong"): list(shared + 1.0 + generator.normal(0.0, 0.1, 8))}
    paired, apart = only(compare(table(values, paired=True), "a", 0.1, True)), only(compare(table(values), "a", 0.1, True))
    assert paired["difference"] == pytest.approx(apart["difference"])
    assert paired["verdict"] == BETTER
    assert apart["verdict"] == UNDECIDED
    assert paired["high"] - paired["low"] < 0.1 * (apart["high"] - apart["low"])


def test_pairs_follow_their_name_and_not_the_seed() -> None:
    frame = table({("a", "Pong"): [0.0, 10.0, 20.0, 30.0], ("b", "Pong"): [31.0, 21.0, 11.0, 1.0]}, paired=True)
    frame.loc[frame["variant"] == "b", "pair"] = [f"Pong{seed}" for seed in (3, 2, 1, 0)]
    row = only(compare(frame, "a", 0.1, True))
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((1.0, 1.0, 1.0))  # 1 in every pair


def test_equivalence() -> None:
    values = {("a", "Pong"): [1.00, 1.01, 1.02, 1.01, 1.00], ("b", "Pong"): [1.01, 1.00, 1.02, 1.00, 1.01]}
    assert only(compare(table(values), "a", 0.5, True))["verdict"] == "equivalent within 0.5"
    assert only(compare(table(values), "a", 0.001, True))["verdict"] == UNDECIDED


def test_a_difference_below_the_margin_does_not_matter_however_sure() -> None:
    a = [1.0, 1.01, 1.02, 1.03, 1.04, 1.05]
    frame = table({("a", "Pong"): a, ("b", "Pong"): [x + 0.1 for x in a]}, paired=True)
    row = only(compare(frame, "a", 0.2, True))
    assert row["p_holm"] < 0.05
    assert row["low"] > 0
    assert row["verdict"] == equivalent_within(0.2)
    assert only(compare(frame, "a", 0.05, True))["verdict"] == BETTER


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("paired", [True, False])
def test_fewer_than_three_seeds_give_no_interval(runs: int, paired: bool) -> None:
    values = {("a", "Pong"): [0.0] * runs, ("b", "Pong"): [100.0] * runs}
    row = only(compare(table(values, paired), "a", 1.0, True))
    assert row["difference"] == 100.0
    assert row["probability_of_improvement"] == 1.0
    assert row[["low", "high", "p_value", "p_holm", "p_equivalent"]].isna().all()
    assert row["verdict"] == UNDECIDED
    assert "fewer than 3 runs in Pong" in row["missing"]


def test_too_few_pairs_for_any_rejection_are_said_so() -> None:
    frame = table({("a", "Pong"): [0.0] * 5, ("b", "Pong"): [50.0, 51.0, 52.0, 53.0, 54.0]}, paired=True)
    row = only(compare(frame, "a", 1.0, True))
    assert row["p_value"] == pytest.approx(2 / 32)
    assert row["verdict"] == UNDECIDED
    assert "no corrected p-value can fall below 0.062" in row["missing"]


def test_holm_over_the_variants() -> None:
    """p-values 2/252 three times and one variant without runs enough: corrected by 4, all the same."""
    values = {("base", "Pong"): [1.0, 2.0, 3.0, 4.0, 5.0], ("few", "Pong"): [9.0]}
    values |= {(name, "Pong"): [x + shift for x in (1.0, 2.0, 3.0, 4.0, 5.5)] for name, shift in (("b", 10.0), ("c", 20.0), ("d", -30.0))}
    found = compare(table(values), "base", 0.5, True).set_index("variant")
    assert found.loc[["b", "c", "d"], "p_holm"].tolist() == pytest.approx([4 * 2 / 252] * 3)
    assert np.isnan(found.loc["few", "p_holm"])
    assert found["verdict"].to_dict() == {"few": UNDECIDED, "b": BETTER, "c": BETTER, "d": WORSE}


def test_holm_steps_down_and_never_back() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_holm_takes_a_verdict_away() -> None:
    generator = np.random.default_rng(0)
    values = {("base", "Pong"): [1.0, 2.0, 3.0, 4.0, 5.0], ("b", "Pong"): [4.5, 5.5, 6.5, 7.5, 8.5]}
    alone = only(compare(table(values), "base", 0.1, True))
    assert alone["verdict"] == BETTER
    values |= {(f"v{i}", "Pong"): list(generator.normal(3.0, 1.5, 5)) for i in range(5)}
    among = compare(table(values), "base", 0.1, True).set_index("variant").loc["b"]
    assert among["p_value"] == alone["p_value"]
    assert among["low"] == alone["low"]  # a variant's own numbers do not depend on its company
    assert among["verdict"] == UNDECIDED


def test_each_variant_has_a_baseline_of_its_own_and_all_are_one_family() -> None:
    runs = [1.0, 2.0, 3.0, 4.0, 5.0]
    values = {(name, "Pong"): [x + shift for x in runs] for name, shift in (("a", 0.0), ("b", 10.5), ("c", 50.0), ("d", 39.5))}
    found = compare(table(values), {"b": "a", "d": "c", "none": "c"}, 0.5, True)
    assert list(zip(found["variant"], found["baseline"], strict=True)) == [("b", "a"), ("d", "c"), ("none", "c")]
    assert found["difference"].tolist()[:2] == pytest.approx([10.5, -10.5])
    assert found["p_value"].tolist()[:2] == pytest.approx([2 / 252] * 2)
    assert found["p_holm"].tolist()[:2] == pytest.approx([3 * 2 / 252] * 2)  # three were planned
    assert found["verdict"].tolist() == [BETTER, WORSE, UNDECIDED]
    assert found["missing"].tolist() == ["", "", "none has no results"]
    for baselines, message in (({"a": "a"}, "its own baseline"), ({"b": "a"}, "names them already")):
        with pytest.raises(ComparisonError, match=message):
            compare(table(values), baselines, 0.5, True, variants=None if "a" in baselines else ["b"])


def test_comparisons_without_power_are_stated_whatever_the_baselines() -> None:
    """Six paired runs of one game: 2/64 would do for one variant, not for two, though each has another baseline."""
    runs = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    shifts = {"a": 0.0, "b": 10.0, "c": 50.0, "d": 20.0}
    frame = table({(name, "Pong"): [x * (1 + shift / 999) + shift for x in runs] for name, shift in shifts.items()}, paired=True)
    assert only(compare(frame, {"b": "a"}, 0.5, True))["verdict"] == BETTER
    both = compare(frame, {"b": "a", "d": "c"}, 0.5, True)
    assert set(both["verdict"]) == {UNDECIDED}
    assert all("no corrected p-value can fall below 0.062" in text for text in both["missing"])


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("runs", [[(3, 3)], [(5, 5)], [(4, 5)], [(3, 3), (4, 5)], [(9, 9), (9, 9)]])
def test_the_smallest_p_value_is_that_of_runs_which_do_not_overlap(runs: list[tuple[int, int]], paired: bool) -> None:
    values = {}
    for game, (a, b) in enumerate(runs):
        values |= {("b", f"g{game}"): [100.0 + i / 7 for i in range(a)], ("a", f"g{game}"): [i / 9 for i in range(b)]}
    found = only(compare(table(values, paired), "a", 0.1, True))
    assert smallest_p(runs, paired) == pytest.approx(found["p_value"])


def test_partial_results_give_rows_and_no_verdict() -> None:
    values = {("a", g): [1.0, 2.0, 3.0, 4.0, 5.0] for g in ("Boxing", "Pong")} | {("b", "Pong"): [50.0, 51.0, 52.0, 53.0, 54.0]}
    found = compare(table(values), "a", 1.0, True, variants=["c", "b", "a"])
    assert found["variant"].tolist() == ["c", "b"]
    none, partial = found.iloc[0], found.iloc[1]
    assert (none["runs"], none["verdict"], none["missing"]) == (0, UNDECIDED, "c has no results")
    assert np.isnan(none["difference"])
    assert partial["difference"] == pytest.approx(49.0)
    assert partial["low"] > 0
    assert "b lacks Boxing" in partial["missing"]
    assert partial["verdict"] == UNDECIDED
    assert only(compare(table(values), "c", 1.0, True, variants=["c", "b"]))["missing"] == "b lacks Boxing; c has no results"


def test_unbalanced_seeds_are_compared_and_named() -> None:
    values = {("a", "Pong"): [1.0, 2.0, 3.0, 4.0, 5.0], ("b", "Pong"): [51.0, 52.0, 53.0, 54.0, np.nan]}
    row = only(compare(table(values), "a", 1.0, True))
    assert (row["runs"], row["baseline_runs"]) == (4, 5)
    assert row["missing"] == "b lacks Pong seed 4"
    assert row["verdict"] == BETTER
    paired = only(compare(table(values, paired=True), "a", 1.0, True))
    assert (paired["runs"], paired["baseline_runs"], paired["difference"]) == (4, 4, 50.0)
    assert "1 run without a partner left out" in paired["missing"]


def test_pairs_that_are_not_whole_are_not_used() -> None:
    frame = table({("a", "Pong"): [1.0, 2.0, 3.0, 4.0], ("b", "Pong"): [2.0, 3.0, 4.0, 6.0]}, paired=True)
    frame.loc[7, "pair"] = None
    row = only(compare(frame, "a", 1.0, True))
    assert not row["paired"]
    assert "only 3 runs have a partner" in row["missing"]
    assert row["runs"] == 4


def crossed(runs: int, references: int, episodes: int, of_runs: float, of_references: float, rest: float, seed: int = 0) -> pd.DataFrame:
    """Paired runs a and b = a + effects with the given standard deviations; references are cut from episodes in turn."""
    generator = np.random.default_rng(seed)
    effects = of_runs * generator.normal(size=(runs, 1)) + of_references * generator.normal(size=(1, references))
    effects = effects + rest * generator.normal(size=(runs, references))
    rows = [
        (variant, "Pong", run, f"r{reference}", reference % episodes, f"p{run}", (variant == "b") * effects[run, reference] + run)
        for variant in "ab"
        for run in range(runs)
        for reference in range(references)
    ]
    return pd.DataFrame(rows, columns=["variant", "game", "seed", "reference", "episode", "pair", "value"])


def test_references_are_random_too_where_there_are_enough_episodes() -> None:
    """Runs that agree exactly, on references that do not: all doubt is about other references."""
    frame = crossed(4, 12, 12, 0.0, 1.0, 0.0)
    row = only(compare(frame, "a", 0.01, True))
    assert (row["scope"], row["references"], row["episodes"], row["paired"]) == (CROSSED, 12, 12, True)
    effects = frame[(frame["variant"] == "b") & (frame["seed"] == 0)]["value"].to_numpy()
    known = stats.ttest_1samp(effects, 0.0).confidence_interval()
    assert (row["low"], row["high"]) == pytest.approx((known.low, known.high))
    few = only(compare(frame.assign(episode=frame["episode"] % 3), "a", 0.01, True))
    assert (few["scope"], few["references"], few["episodes"]) == (RUNS, 12, 3)
    assert few["high"] - few["low"] == pytest.approx(0.0)  # nothing is said about other references


def test_copies_of_a_reference_from_one_episode_add_nothing() -> None:
    frame = crossed(4, 6, 6, 0.3, 1.0, 0.0)
    again = pd.concat([frame, frame.assign(reference=frame["reference"] + "x"), frame.assign(reference=frame["reference"] + "y")])
    one, three = only(compare(frame, "a", 0.01, True)), only(compare(again, "a", 0.01, True))
    assert three["references"] == 18
    assert (three["low"], three["high"]) == pytest.approx((one["low"], one["high"]))


def test_variance_of_a_mean_over_runs_and_references() -> None:
    """The interaction, which both margins of the table contain, is counted once: the variance is right on average."""
    generator, found = np.random.default_rng(0), []
    for _ in range(2000):
        gaps = 0.5 * generator.normal(size=(6, 1)) + generator.normal(size=(1, 10)) + 2.0 * generator.normal(size=(6, 10))
        found.append(difference([Game("Pong", gaps, np.zeros((6, 10)), np.arange(10))], paired=True))
    true = 0.25 / 6 + 1.0 / 10 + 4.0 / 60
    assert np.mean([one.variance for one in found]) == pytest.approx(true, rel=0.1)  # twice the interaction would be 32% too much
    assert np.var([one.value for one in found]) == pytest.approx(true, rel=0.1)


def test_a_wider_claim_has_no_narrower_interval() -> None:
    generator = np.random.default_rng(3)
    for _ in range(200):
        a, b = (generator.normal(size=(3, 1)) + 0.1 * generator.normal(size=(3, 6)) for _ in range(2))
        for paired in (True, False):
            of_both, alone = (difference([Game("Pong", a, b, episodes)], paired).interval() for episodes in (np.arange(6), None))
            assert of_both[0] <= alone[0] + 1e-12
            assert of_both[1] >= alone[1] - 1e-12


def test_references_align_by_name_and_others_are_no_pair() -> None:
    frame = crossed(4, 8, 8, 1.0, 3.0, 5.0)
    frame.loc[frame["variant"] == "b", "value"] = frame.loc[frame["variant"] == "a", "value"].to_numpy() + 1.0
    row = only(compare(frame.sample(frac=1.0, random_state=1), "a", 0.01, True))
    assert (row["low"], row["high"]) == pytest.approx((1.0, 1.0))
    other = only(
        compare(frame.assign(reference=frame["reference"].where(frame["variant"] == "a", "u" + frame["reference"])), "a", 0.01, True)
    )
    assert (other["paired"], other["scope"], other["references"]) == (False, RUNS, 0)


def test_unequal_variances_and_numbers_of_runs_are_no_finding() -> None:
    """Variance times 16, 3 runs against 10: a permutation test of the plain difference rejects in a third of such studies."""
    generator = np.random.default_rng(0)
    rejected = sum(compared(generator.normal(0, 4, 3), generator.normal(0, 1, 10)).p_value <= 0.05 for _ in range(1000))
    assert rejected / 1000 <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 1000)


def test_a_registered_t_test_can_decide_with_three_pairs() -> None:
    frame = table({("a", "Pong"): [1.0, 5.0, 9.0], ("b", "Pong"): [11.0, 15.1, 18.9]}, paired=True)
    assert only(compare(frame, "a", 0.1, True))["verdict"] == UNDECIDED
    row = only(compare(frame, "a", 0.1, True, test="t"))
    assert (row["verdict"], row["test"], row["missing"]) == (BETTER, "t", "")


def test_runs_that_hardly_vary_are_no_evidence_for_students_t() -> None:
    frame = table({("a", "Pong"): [0.5] * 3, ("b", "Pong"): [0.5 + 1e-9] * 3}, paired=True)
    row = only(compare(frame, "a", 0.1, True, test="t"))
    assert row["verdict"] == UNDECIDED
    assert row["missing"] == "runs hardly vary, so Student's t says nothing"


def test_references_without_a_value_are_left_out_and_named() -> None:
    frame = crossed(4, 8, 8, 0.0, 0.0, 0.0)
    frame.loc[(frame["variant"] == "b") & (frame["seed"] == 0) & frame["reference"].isin(["r0", "r1"]), "value"] = np.nan
    row = only(compare(frame.assign(value=frame["value"] + frame["episode"]), "a", 0.1, True))
    assert (row["difference"], row["references"], row["scope"]) == (0.0, 6, CROSSED)
    assert "2 references of Pong without a value in every run left out" in row["missing"]


def test_that_equivalence_is_out_of_reach_is_said() -> None:
    frame = table({("a", "Pong"): [1.0, 2.0, 3.0, 4.0], ("b", "Pong"): [1.01, 2.0, 3.0, 4.02]}, paired=True)
    assert "cannot show equivalence either" in only(compare(frame, "a", 0.5, True))["missing"]
    assert "equivalence" not in only(compare(frame, "a", 0.5, True, test="t"))["missing"]


def test_equivalence_is_two_one_sided_tests() -> None:
    differences = np.array([0.1, -0.2, 0.3, 0.0, 0.15, -0.1, 0.05, 0.2])
    frame = table({("a", "Pong"): [float(i) for i in range(8)], ("b", "Pong"): list(differences + np.arange(8))}, paired=True)
    below = stats.ttest_1samp(differences, 0.2, alternative="less").pvalue
    above = stats.ttest_1samp(differences, -0.2, alternative="greater").pvalue
    student = only(compare(frame, "a", 0.2, True, test="t"))
    assert student["p_equivalent"] == pytest.approx(max(below, above))
    assert student["verdict"] == equivalent_within(0.2)
    flips = [np.dot(signs, 0.2 - differences) for signs in product((1, -1), repeat=8)]
    by_flips = np.mean(np.array(flips) >= (0.2 - differences).sum() - 1e-9)  # for one sample the order of t is that of the sum
    assert only(compare(frame, "a", 0.2, True))["p_equivalent"] == pytest.approx(max(by_flips, student["p_equivalent"]))
    assert np.isnan(only(compare(frame, "a", 0.0, True))["p_equivalent"])
    assert only(compare(frame, "a", float("nan"), True))["verdict"] == UNDECIDED  # a margin that was refused


def test_holm_of_equivalence_is_an_option() -> None:
    runs = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    values = {(name, "Pong"): [x + shift * (-1) ** i for i, x in enumerate(runs)] for name, shift in (("a", 0), ("b", 0.1), ("c", 0.11))}
    plain, corrected = (compare(table(values, True), "a", 0.2, True, holm_equivalence=corrects) for corrects in (False, True))
    assert corrected["p_equivalent"].min() == pytest.approx(2 * plain["p_equivalent"].min())


def test_a_difference_of_the_margin_is_rarely_called_equivalent() -> None:
    generator = np.random.default_rng(7)
    found = [compared(generator.normal(3.0, 1.0, 6), generator.normal(0.0, 1.0, 6), 3.0) for _ in range(500)]
    assert np.mean([one.p_equivalent <= 0.05 for one in found]) <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 500)


@pytest.mark.parametrize("runs", [3, 4, 5])
def test_skewed_differences_of_the_margin_are_not_equivalent_or_the_page_says_how_often(runs: int) -> None:
    """Lognormal differences whose true mean is the margin. An interval called 20% of such studies equivalent, and nothing said so. The
    permutation test cannot with 3 or 4 runs; with 5 it can, and the page prints at least that rate."""
    generator, studies = np.random.default_rng(7), 60 if runs < 5 else 150
    wrong = 0
    for _ in range(studies):
        differences = 3.0 + generator.lognormal(size=runs) - np.exp(0.5)
        data = Matched((Game("Pong", differences[:, None], np.zeros((runs, 1)), None),), True, True, ())
        wrong += compare_matched("b", "a", data, 3.0, True).p_equivalent <= 0.05
    if runs < 5:
        assert wrong == 0
    else:
        printed = attained("permutation", runs, 1, of_skewed=True).equivalent
        assert wrong / studies <= printed + 2.5 * np.sqrt(printed * (1 - printed) / studies)


def test_excluded_variants_have_their_reason_and_count_in_the_family() -> None:
    values = {(name, "Pong"): [x + shift for x in (1.0, 2.0, 3.0, 4.0, 5.0)] for name, shift in (("a", 0.0), ("b", 10.0), ("c", 20.0))}
    found = compare(table(values), "a", 0.5, True, excluded={"c": "other images"}).set_index("variant")
    assert (found.loc["c", "missing"], found.loc["c", "verdict"], found.loc["c", "runs"]) == ("other images", UNDECIDED, 0)
    assert found.loc["b", "p_holm"] == pytest.approx(2 * 2 / 252)


def test_effect_sizes_by_hand() -> None:
    values = {
        ("a", "Pong"): [1.0, 2.0, 3.0],
        ("b", "Pong"): [3.0, 4.0, 5.0],
        ("a", "Boxing"): [0.0, 2.0, 4.0],
        ("b", "Boxing"): [1.0, 3.0, 5.0],
    }
    found = effects(table(values), {"b": "a"}).set_index("game")
    correction = 1 - 3 / (4 * 4 - 1)  # Hedges' for 4 degrees of freedom
    assert found["effect_size"].to_dict() == pytest.approx({"Boxing": 0.5 * correction, "Pong": 2.0 * correction})
    assert found["weight"].tolist() == [0.5, 0.5]
    assert only(compare(table(values), "a", 0.1, True))["effect_size"] == pytest.approx(1.25 * correction)


def test_effect_sizes_of_pairs_by_hand() -> None:
    """Lakens (2013): g_av divides by the mean of both standard deviations, g_z by that of the differences; 2 degrees of freedom."""
    values = {("a", "Pong"): [1.0, 2.0, 3.0], ("b", "Pong"): [3.0, 4.0, 8.0]}  # standard deviations 1 and sqrt(7), differences 2, 2 and 5
    (row,) = effects(table(values, paired=True), {"b": "a"}).to_dict("records")
    correction = 1 - 3 / (4 * 2 - 1)
    assert (row["effect"], row["effect_size"]) == ("g_av", pytest.approx(3.0 / ((1 + np.sqrt(7)) / 2) * correction))
    assert row["g_z"] == pytest.approx(3.0 / np.sqrt(3) * correction)
    shown = only(compare(table(values, paired=True), "a", 0.1, True))
    assert (shown["effect"], shown["effect_size"]) == ("g_av", pytest.approx(row["effect_size"]))
    (apart,) = effects(table(values), {"b": "a"}).to_dict("records")
    assert (apart["effect"], apart["effect_size"]) == ("g_s", pytest.approx(3.0 / np.sqrt((1 + 7) / 2) * (1 - 3 / (4 * 4 - 1))))
    assert np.isnan(apart["g_z"])


def test_equal_rows_give_equal_tables() -> None:
    generator = np.random.default_rng(0)
    frame = table({(v, g): list(generator.normal(size=9)) for v in "abc" for g in ("Boxing", "Pong")})
    state = np.random.get_state()[1].copy()
    first = compare(frame, "a", 0.1, True)
    assert first.equals(compare(frame.sample(frac=1.0, random_state=0).sort_values("variant"), "a", 0.1, True))
    assert np.array_equal(state, np.random.get_state()[1])


@pytest.mark.parametrize(("variants", "games", "seeds", "paired"), [(2, 2, 5, True), (5, 2, 5, True), (2, 1, 5, False), (4, 2, 3, False)])
def test_no_effect_is_rarely_called_one(variants: int, games: int, seeds: int, paired: bool) -> None:
    """At most 5% of studies without any effect name a variant better or worse (160 studies or fewer: 5% + 2.5 standard errors)."""
    generator = np.random.default_rng(variants * 100 + games)
    wrong = covered = 0
    studies = 160 // (variants - 1)
    for _ in range(studies):
        shared = generator.normal(0.0, 2.0 if paired else 0.0, (games, seeds))
        noise = generator.exponential(size=(variants, games, seeds))  # skewed, as scores are
        values = {(f"v{v}", f"g{g}"): list(shared[g] + noise[v, g]) for v in range(variants) for g in range(games)}
        found = compare(table(values, paired), "v0", 1e-9, True)
        wrong += found["verdict"].isin([BETTER, WORSE]).any()
        covered += ((found["low"] <= 0) & (found["high"] >= 0)).mean()
    assert wrong / studies <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / studies)
    assert covered / studies >= 0.90


def test_an_effect_is_found() -> None:
    generator = np.random.default_rng(5)
    found = 0
    for _ in range(50):
        values = {(v, g): list(generator.normal(3.0 * (v == "b"), 1.0, 5)) for v in "ab" for g in ("Boxing", "Pong")}
        found += only(compare(table(values), "a", 0.5, True))["verdict"] == BETTER
    assert found >= 45


def test_what_cannot_be_compared_is_refused() -> None:
    good = table(LARGE)
    for bad, message in (
        (good.drop(columns="seed"), "lack the column 'seed'"),
        (good.assign(value="high"), "expected numbers"),
        (pd.concat([good, good[:1]]), "given twice"),
        (good.assign(game=None), "needs a variant, a game and a seed"),
        (good.assign(pair="same"), "must belong to each other exclusively"),
    ):
        with pytest.raises(ComparisonError, match=message):
            compare(bad, "n=1", 0.1, True)
    with pytest.raises(ComparisonError, match=r"no variant 'n=2' to compare with: did you mean n="):
        compare(good, "n=2", 0.1, True)
    for margin in (-0.1, float("inf")):
        with pytest.raises(ComparisonError, match="margin"):
            compare(good, "n=1", margin, True)
    for settings, message in (({"test": "z"}, "expected permutation or t"), ({"alpha": 1.0}, "expected a share")):
        with pytest.raises(ComparisonError, match=message):
            compare(good, "n=1", 0.1, True, **settings)  # type: ignore[arg-type]


def test_nothing_at_all() -> None:
    empty = pd.DataFrame(columns=["variant", "game", "seed", "value"])
    found = compare(empty, "a", 0.1, True, variants=["a", "b"])
    assert only(found)["missing"] == "b has no results; a has no results"
    assert compare(table({("a", "Pong"): [1.0]}), "a", 0.1, True).empty


def test_runs_that_are_equal_but_for_rounding_have_no_standardised_effect() -> None:
    """Worlds that are not trained give every seed the same numbers, and the mean of equal numbers may be off by a last bit."""
    run = np.full((5, 1), 0.007)
    assert run.mean(axis=1).std() > 0, "the standard deviation of such numbers is not exactly 0"
    game = Game("Pong", 2 * run, run, None)
    assert np.isnan(standardised([game], paired=False)).all()
    assert np.isnan(standardised([game], paired=True)).all()
    assert np.isnan(standardised_change([game])).all()

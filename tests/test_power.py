"""How many seeds a study needs: by hand against scipy, against simulated studies whose variances are known, and what the report says."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import in_this_process
from scipy import stats
from test_agent_report import played
from test_agent_report import study as agent_study
from test_html_report import by_steps, page_of, study
from test_report import HORIZON, finish, finished

from analysis.differences import Components, difference, from_components, variance_components
from analysis.matching import Game
from analysis.multiplicity import attainable_level, smallest_p
from analysis.power import Planner, noncentrality, planner, upper_limits
from analysis.power_figures import power_figure
from diamond_bench.report.facts import gather
from diamond_bench.report.power import finished_power, plain, seed_cost
from diamond_bench.report.power_section import sentences
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import read_json
from diamond_bench.studies.plan import Plan, SavedPlan, save_plan

pytestmark = pytest.mark.usefixtures("unrendered")


def known(
    seeds: float = 1.0, references: float = 0.0, interaction: float = 0.0, *, sides: int = 1, episodes: int = 0, runs: int = 5
) -> Planner:
    """One game whose variances (of each side) are known, so that estimates and upper limits are both the truth."""
    of_draws = Components("Pong", (1,) * sides, episodes, (seeds + interaction / max(episodes, 1),) * sides, 0.0, (interaction,) * sides)
    reported = Components("Pong", of_draws.runs, episodes, of_draws.between_runs, references + sides * interaction, of_draws.interaction)
    truth = (reported.at(runs, episodes),)
    return Planner(truth, truth, paired=sides == 1, level=0.05, equivalence_level=0.05, permutation=False)


def paired_game(differences: np.ndarray) -> Game:
    return Game("Pong", differences[:, None], np.zeros((len(differences), 1)), None)


def detected(effect: float, n: int, freedom: int, error: float) -> float:
    """Power of a two-sided 5% t test, by scipy's noncentral t."""
    reach = stats.t.ppf(0.975, freedom)
    return float(stats.nct.sf(reach, freedom, effect / error))


def test_a_paired_case_by_hand() -> None:
    """Standard deviation 2, five pairs: the noncentral t with 4 degrees of freedom and standard error 2 / sqrt(5) has 80% at the MDE."""
    effect = known(4.0).detectable(5)
    assert effect == pytest.approx(3.761060 * 2.0 / np.sqrt(5), rel=1e-5)
    assert detected(effect, 5, 4, 2.0 / np.sqrt(5)) == pytest.approx(0.8, abs=1e-6)
    two_sides = known(4.0, sides=2).detectable(5)  # the variance of a difference of two independent runs is 8, freedom 2 x 4
    assert detected(two_sides, 5, 8, np.sqrt(8.0 / 5)) == pytest.approx(0.8, abs=1e-6)


def test_with_many_degrees_of_freedom_it_is_the_normal_formula() -> None:
    assert noncentrality(1e9, 0.05) == pytest.approx(stats.norm.ppf(0.975) + stats.norm.ppf(0.8), rel=1e-6)


@pytest.mark.parametrize(("sides", "n"), [(1, 4), (1, 10), (2, 5)])
def test_simulated_studies_detect_the_mde_with_80_percent_power(sides: int, n: int) -> None:
    rng = np.random.default_rng(n)
    effect = known(sides=sides).detectable(n)
    runs = rng.normal(effect, 1.0, (40_000, n))
    found = stats.ttest_1samp(runs, 0.0, axis=1) if sides == 1 else stats.ttest_ind(runs, rng.normal(0.0, 1.0, (40_000, n)), axis=1)
    assert np.mean((found.pvalue <= 0.05) & (found.statistic > 0)) == pytest.approx(0.8, abs=0.01)  # four Monte Carlo errors: 0.008


def test_simulated_seeds_and_references_detect_the_mde_with_80_percent_power() -> None:
    """Crossed: the estimated standard error holds both, with Satterthwaite's degrees of freedom."""
    rng, n, episodes = np.random.default_rng(0), 8, 10
    effect = known(1.0, 1.0, 1.0, episodes=episodes).detectable(n)
    hits = []
    for _ in range(1500):
        values = effect + rng.normal(size=(n, 1)) + rng.normal(size=(1, episodes)) + rng.normal(size=(n, episodes))
        found = difference([Game("Pong", values, np.zeros_like(values), np.arange(episodes))], paired=True)
        hits.append(found.p_value() <= 0.05)
    assert np.mean(hits) == pytest.approx(0.8, abs=0.05)


def test_equivalence_by_simulation() -> None:
    """Paired differences around 0 of known deviation: how often the 90% interval lies within the margin."""
    rng, n, margin = np.random.default_rng(1), 6, 1.2
    runs = rng.normal(0.0, 1.0, (40_000, n))
    reach = stats.t.ppf(0.95, n - 1) * runs.std(axis=1, ddof=1) / np.sqrt(n)
    simulated = float(np.mean(np.abs(runs.mean(axis=1)) + reach < margin))
    assert known().equivalence_power(margin, n) == pytest.approx(simulated, abs=0.01)


def test_the_fewest_seeds_are_the_first_that_suffice() -> None:
    plan = known()
    for found, enough in (
        (plan.seeds_to_detect(1.0), lambda n: plan.detectable(n) <= 1.0),
        (plan.seeds_for_equivalence(1.0), lambda n: plan.equivalence_power(1.0, n) >= 0.8),
    ):
        assert found is not None
        assert enough(found)
        assert not enough(found - 1)
    assert plan.seeds_to_detect(1.0) == 10  # tables of the paired t test: 10 pairs at one standard deviation
    assert plan.seeds_to_detect(1e-6) is None


def test_each_variance_is_at_its_upper_limit_and_not_at_its_estimate() -> None:
    """Five pairs of variance 2.5: four degrees of freedom, whose chi-square quantile at 20% is 1.6488."""
    differences = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    found = planner([paired_game(differences)], True, 0.05, permutation=False)
    assert found.estimated[0].between_runs == pytest.approx((2.5,))
    assert found.upper[0].between_runs == pytest.approx((2.5 * 4 / 1.648777,), rel=1e-5)
    assert found.detectable(5) == pytest.approx(3.761060 * np.sqrt(2.5 * 4 / 1.648777 / 5), rel=1e-5)


def test_the_upper_limit_holds_the_true_deviation_80_percent_of_the_time() -> None:
    rng = np.random.default_rng(2)
    limits = [upper_limits(variance_components([paired_game(rng.normal(0.0, 1.0, 4))], True))[0].between_runs[0] for _ in range(3000)]
    assert np.mean(np.array(limits) >= 1.0) == pytest.approx(0.8, abs=0.03)  # four Monte Carlo errors


def test_the_observed_difference_plays_no_part() -> None:
    differences = np.array([0.1, -0.2, 0.3, 0.0, 0.1, -0.1])
    near, far = (planner([paired_game(differences + shift)], True, 0.05) for shift in (0.0, 100.0))
    assert near.detectable(10) == pytest.approx(far.detectable(10))


def test_more_references_do_not_help_where_seeds_dominate_and_more_seeds_do_not_where_references_do() -> None:
    of_seeds, of_references = known(1.0, 1e-6, 1e-6, episodes=6), known(1e-6, 1.0, 1e-6, episodes=6)
    assert of_seeds.detectable(5, times=4) == pytest.approx(of_seeds.detectable(5), rel=1e-3)
    assert of_seeds.detectable(20) < 0.5 * of_seeds.detectable(5)
    assert of_references.detectable(40) == pytest.approx(of_references.detectable(5), rel=1e-3)
    assert of_references.detectable(5, times=4) < 0.5 * of_references.detectable(5)


def test_components_are_those_of_the_simulation() -> None:
    rng, n, episodes = np.random.default_rng(3), 200, 300
    a, b = (rng.normal(0, s, (n, 1)) + rng.normal(0, 0.5, (n, episodes)) for s in (1.0, 2.0))
    shared = rng.normal(0, 1.5, (1, episodes))
    (found,) = variance_components([Game("Pong", a + shared, b, np.arange(episodes))], paired=False)
    assert found.seeds == pytest.approx((1.0, 4.0), rel=0.25)
    assert found.references == pytest.approx(1.5**2, rel=0.2)
    assert found.interaction == pytest.approx((0.25, 0.25), rel=0.1)


def test_components_at_the_observed_design_give_the_observed_standard_error() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(0, 1, (6, 1)) + rng.normal(0, 1, (1, 8)) + rng.normal(0, 0.5, (6, 8))
    games = [Game("Pong", values, np.zeros_like(values), np.arange(8))]
    (found,) = variance_components(games, True)
    seen, planned = difference(games, True), from_components(0.0, [found.at(6, 8)])
    assert (planned.variance, planned.freedom) == pytest.approx((seen.variance, seen.freedom))


def test_the_permutation_test_takes_the_level_that_few_runs_can_have() -> None:
    assert attainable_level(0.05, [(5, 5)], paired=True) == 0.0  # the least p-value is 2/32
    assert attainable_level(0.05, [(6, 6)], paired=True) == 2 / 64
    assert attainable_level(0.05, [(7, 7)], paired=True) == 6 / 128
    assert attainable_level(0.05, [(5, 5)], paired=True, two_sided=False) == 1 / 32
    assert attainable_level(0.05, [(4, 4)], paired=False) == 2 / 70
    assert attainable_level(0.05, [(3, 10)], paired=False) == pytest.approx(14 / 286)  # no mirror images: 1/286 each
    assert attainable_level(smallest_p([(6, 6)], True), [(6, 6)], paired=True) == 2 / 64
    found = planner([paired_game(np.arange(6.0))], True, 0.05)
    assert found.smallest_seeds() == 6
    assert found.detectable(5) == np.inf
    assert planner([paired_game(np.arange(6.0))], True, 0.05, permutation=False).smallest_seeds() == 3
    assert planner([paired_game(np.arange(6.0))], True, 1e-5).smallest_seeds() is None  # 9,999 drawn arrangements allow 1/10,000


def test_two_runs_cannot_be_planned_from() -> None:
    with pytest.raises(ValueError, match="at least 3 runs on each side of every game, got 2"):
        planner([paired_game(np.array([1.0, 2.0]))], True, 0.05)


def test_the_figure_has_a_line_for_every_comparison_and_leaves_out_what_cannot_be_detected() -> None:
    effects = {"b against a": {3: np.inf, 5: 0.2, 10: 0.1}, "c against a": {3: 0.5, 5: 0.3, 10: 0.2}}
    figure = power_figure(effects, {"b, 16 episodes": {5: 0.1, 10: 0.05}}, ylabel="drift", own=5, margin=0.25, hours_per_seed=2.0)
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert set(lines) == {"b against a", "c against a", "b, 16 episodes", "this study (5 seeds)", "margin (0.25)"}
    assert list(np.asarray(lines["b against a"].get_xdata())) == [5, 10]
    with pytest.raises(ValueError, match="no difference can be detected"):
        power_figure({"b": {3: np.inf}}, {}, ylabel="drift", own=3)


# Studies


SECONDS = {"collect_dataset": 7200.0, "train_world_model": 1800.0, "evaluate_world_model": 360.0}


def timed(folder: Path, plan: Plan, episodes: int = 0) -> tuple[SavedPlan, Store]:
    """The plan finished, with recorded times; with values by reference from so many episodes, where `episodes` is given."""
    store, score = Store(folder / "outputs", say=lambda text: None), by_steps(0.2, 0.1)
    for number, spec in enumerate(plan.jobs.values()):
        scores = score(spec) if spec.kind == "evaluate_world_model" else None
        arrays = None
        if scores and episodes:
            rng = np.random.default_rng(number)
            drift = scores["drift"] + rng.normal(0, 0.02) + rng.normal(0, 0.01, (2 * episodes, 1)) + np.zeros((1, HORIZON))
            arrays = {**dict.fromkeys(("drift", "copy_drift", "unrelated_drift"), drift), "episodes": np.repeat(np.arange(episodes), 2)}
        finish(store, spec, scores=scores, arrays=arrays, seconds=SECONDS[spec.kind])
    return save_plan(plan, store.root), store


def test_a_seed_costs_its_trainings_once_and_no_dataset(tmp_path: Path) -> None:
    """Two variants share a training of half an hour; each has an evaluation of a tenth. The dataset is there already."""
    saved, store = timed(tmp_path, study(tmp_path, "seeds=4"))
    cost = seed_cost(saved, gather(saved, store))
    assert cost is not None
    assert (cost.training, cost.evaluation) == pytest.approx((0.5, 0.2))
    assert cost.devices == ("cpu",)
    assert cost.hours(10) == pytest.approx(7.0)
    assert cost.hours(10, times=2) == pytest.approx(9.0)


def test_the_report_says_how_many_seeds(tmp_path: Path) -> None:
    saved, store = timed(tmp_path, study(tmp_path, "seeds=6"), episodes=8)
    words = page_of(saved, store).words
    assert "How many seeds" in words
    assert "With 6 seeds, n=2 against n=1 detects a true difference of" in words
    assert "The permutation test cannot be significant with fewer than 6 seeds" in words
    assert (
        "Each further seed of all variants and games takes 0.7 device hours (trainings 0.5, evaluations 0.2), as measured on cpu." in words
    )
    assert "each variance is at its upper 80% confidence limit" in words
    assert "the games are fixed" in words
    report = saved.folder / "report"
    assert (report / "power-drift.png").exists()
    with (report / "power.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["seeds"], row["episodes"]) for row in rows] == [(str(n), str(8 * k)) for k in (1, 2, 4) for n in (3, 5, 6, 10, 20, 40)]
    assert [row["detectable"] == "" for row in rows[:6]] == [True, True, False, False, False, False]  # 5 pairs of one game: 2/32
    assert float(rows[2]["device_hours"]) == pytest.approx(6 * 0.7)
    (reported,) = read_json(report / "report.json")["power"]
    assert reported["components"][0]["sd_seeds_upper"] > reported["components"][0]["sd_seeds"]
    assert (reported["runs"], reported["episodes"], reported["smallest_seeds"], reported["paired"]) == (6, 8, 6, True)


def test_a_study_with_too_few_seeds_says_so_in_a_sentence(tmp_path: Path) -> None:
    saved, store = timed(tmp_path, study(tmp_path, "seeds=2"))
    (sentence,) = sentences(finished_power(saved, store))
    assert sentence == (
        "Nothing can be planned for n=2 against n=1: there are 2 finished runs on a side of a game, and a variance needs at least 3."
    )
    assert sentence in page_of(saved, store).words
    assert not (saved.folder / "report" / "power-drift.png").exists()


def test_a_study_without_a_comparison_says_why(tmp_path: Path) -> None:
    saved, store = finished(tmp_path, study(tmp_path, primary="{metric: drift}"))
    assert sentences(finished_power(saved, store)) == ["Nothing can be planned: the study names no baseline."]


def test_holm_s_strictest_step_is_planned_for(tmp_path: Path) -> None:
    """Two comparisons halve the level: 6 pairs of one game cannot be significant then (2/64 > 0.025), 7 can (2/128)."""
    saved, store = timed(tmp_path, study(tmp_path, "seeds=6", "sampler.num_steps=1,2,3"))
    found = plain(finished_power(saved, store))
    assert [(one["variant"], one["family"], one["smallest_seeds"]) for one in found] == [("n=2", 2, 7), ("n=3", 2, 7)]


def test_agents_are_planned_for_without_references(tmp_path: Path) -> None:
    """Human-normalised scores of two games, five seeds on each side: independent runs, and no references."""
    plan = agent_study(tmp_path, primary="{metric: hns, baseline: {n: 1}, margin: 0.1}")
    saved, store = played(tmp_path, plan, lambda game, steps, seed: steps + 0.1 * seed)
    (reported,) = plain(finished_power(saved, store))
    assert (reported["paired"], reported["runs"], reported["episodes"]) == (False, 5, None)
    assert {row["episodes"] for row in reported["detectable"]} == {None}
    assert [one["sd_seeds"] for one in reported["components"]] == pytest.approx([np.sqrt(2 * 0.025)] * 2)  # of 0, 0.1, ... 0.4, two sides
    by_seeds = {row["seeds"]: row["detectable"] for row in reported["detectable"]}
    limit = 0.025 * 16 / stats.chi2.ppf(0.2, 16)  # pooled over two games and two sides of 5 runs
    assert detected(by_seeds[20], 20, 4 * 19, np.sqrt(4 * limit / 20) / 2) == pytest.approx(0.8, abs=1e-3)


def test_the_command(tmp_path: Path) -> None:
    timed(tmp_path, study(tmp_path, "seeds=6"))
    done = in_this_process("power", "mine", cwd=tmp_path)
    assert "6 seeds (now)" in done.stdout
    assert "device hours" in done.stdout
    assert "With 6 seeds, n=2 against n=1 detects" in done.stdout
    (reported,) = json.loads(in_this_process("power", "mine", "--json", cwd=tmp_path).stdout)
    assert (reported["variant"], reported["baseline"], reported["test"], reported["runs"]) == ("n=2", "n=1", "permutation", 6)
    assert [row["seeds"] for row in reported["detectable"]] == [3, 5, 6, 10, 20, 40]
    assert reported["detectable"][0]["detectable"] is None


def test_the_command_refuses_a_study_without_results(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    study(tmp_path)
    done = in_this_process("power", str(file), cwd=tmp_path, exit_code=2)
    assert "mine.yaml has not been swept" in done.stderr
    plan = study(tmp_path)
    save_plan(plan, tmp_path / "outputs")
    done = in_this_process("power", "mine", cwd=tmp_path, exit_code=2)
    assert done.stderr.count("\n") == 1
    assert "has no finished evaluation yet" in done.stderr
    shutil.rmtree(tmp_path / "outputs")

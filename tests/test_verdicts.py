"""Verdicts of whole studies: references, margins relative to copying, the sanity gate, and pairs that are refused."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rewritten import rewrite_arrays
from test_report import HORIZON, finish

from analysis.differences import difference
from analysis.matching import Game
from diamond_bench.cli.common import print_results
from diamond_bench.errors import UserError
from diamond_bench.report import answers
from diamond_bench.report.answers import claim, evidence, scope
from diamond_bench.report.comparison import OF_COPYING, Comparison, compare_study
from diamond_bench.report.facts import gather
from diamond_bench.report.figures import study_figures
from diamond_bench.report.gate import Gate, failed_words, gates, section
from diamond_bench.report.power import study_power
from diamond_bench.report.scores import Scores, shares_of
from diamond_bench.results.table import collect, finished_results
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.studies.answerable import limits, measured_settings, repetitions
from diamond_bench.studies.plan import SavedPlan, plan_study, save_plan
from diamond_bench.studies.registration import registration_status

COPIED = {"Pong": 0.04, "Boxing": 0.002}
EPISODES = np.repeat(np.arange(6), 2)
SPREAD = np.linspace(0.02, 0.06, 12)


def swept(
    folder: Path,
    errors: Callable[[int, str, int], np.ndarray],
    primary: str,
    games: str = "[Pong]",
    seeds: int = 5,
    scores: Callable[[JobSpec], Mapping[str, float]] = lambda spec: {},
    energy: Callable[[int], float] | None = None,
    more: str = "",
    copied: np.ndarray | None = None,
) -> tuple[SavedPlan, Store]:
    """A finished study of n = 1 and 2. errors(n, game, seed): drifts of 12 references from 6 episodes, of
    shape (12,) or (12, HORIZON). Copying has the error COPIED."""
    file = folder / "mine.yaml"
    axes = "axes: {n: {key: sampler.num_steps, values: [1, 2]}}"
    text = f"question: x\nprotocol: world_model\ngames: {games}\nseeds: {seeds}\nprimary: {primary}\n{axes}\n{more}"
    file.write_text(text)
    plan = plan_study(str(file), ["scale=tiny", "data=random"])
    store = Store(folder / "outputs", say=lambda text: None)
    points = {point.jobs["evaluation"]: point for point in plan.points}
    for ref, spec in plan.jobs.items():
        arrays, found = None, {}
        if ref in points:
            point = points[ref]
            values = errors(point.axes["n"], point.game, point.seed)
            copies = np.full(12, COPIED.get(point.game, 0.04)) if copied is None else copied
            arrays = {name: np.broadcast_to(of.reshape(12, -1), (12, HORIZON)) for name, of in (("drift", values), ("copy_drift", copies))}
            arrays |= {"episodes": EPISODES, "sample_episodes": EPISODES}
            if energy is not None:
                own = energy(point.axes["n"])
                arrays |= {"samples_energy_score": np.full(12, own), "copy_samples_energy_score": np.full(12, 0.3)}
                found["energy_score"] = own
            found |= {"drift": float(values.mean()), **scores(spec)}
        finish(store, spec, scores=found, arrays=arrays)
    return save_plan(plan, store.root), store


def compared(saved: SavedPlan, store: Store, **settings: object) -> Comparison:
    return compare_study(saved, store, gather(saved, store), **settings)  # type: ignore[arg-type]


def noisy(of_seeds: float, of_references: float, effect: float, level: float = 0.02) -> Callable[[int, str, int], np.ndarray]:
    """Errors around `level`. n = 2 differs by `effect` times the copying error, and by an own amount on each reference."""
    generator = np.random.default_rng(0)
    on_references = generator.normal(size=12)

    def errors(n: int, game: str, seed: int) -> np.ndarray:
        unit = COPIED[game]
        own = np.random.default_rng([seed, n]).normal() * of_seeds * unit
        return level / 0.04 * unit + own + (n == 2) * unit * (effect + of_references * on_references)

    return errors


def test_a_verdict_counts_references_as_random_and_says_so(tmp_path: Path) -> None:
    """Runs agree and the two variants differ on the 12 references in both directions: nothing is known about other references."""
    saved, store = swept(tmp_path, noisy(0.001, 1.0, 0.1), "{metric: drift, baseline: {n: 1}, margin: 10%, test: t}")
    (row,) = compared(saved, store).primary.to_dict("records")
    assert (row["scope"], row["references"], row["episodes"], row["verdict"]) == ("runs and references", 12, 6, "undecided")
    assert scope(row) == "This holds for other training seeds and for other held-out trajectories (measured: 12 cut from 6 episodes)."
    rows, _ = Scores(saved, store, gather(saved, store)).rows("drift", ["n=1", "n=2"], relative=False)
    assert set(rows["episode"]) == set(range(6))


def test_a_relative_margin_is_a_share_of_each_games_copying_error(tmp_path: Path) -> None:
    """The same 2% of copying in two games, whose copying errors differ by a factor of 20."""
    saved, store = swept(tmp_path, noisy(0.003, 0.0, 0.02), "{metric: drift, baseline: {n: 1}, margin: 10%, test: t}", "[Pong, Boxing]")
    found = compared(saved, store)
    (row,) = found.primary.to_dict("records")
    assert (row["unit"], row["margin"], row["verdict"]) == (OF_COPYING, 0.1, "equivalent within 10% of copying's error")
    assert row["difference"] == pytest.approx(0.02, abs=0.005)
    claimed = r"n=2 and n=1 are equivalent within 10% of the error of copying the last frame\. Drift is higher with n=2 than with n=1, by "
    assert re.match(rf"{claimed}.*% of the error of copying the last frame \(95% interval of the difference: .*% to .*%\)\.$", claim(row))
    assert any(re.fullmatch(r"Equivalence: p = .* \(TOST\)\.", sentence) for sentence in evidence(row))
    by_game = found.effects.set_index("game")["difference"]
    assert by_game["Pong"] == pytest.approx(by_game["Boxing"], abs=1e-6)
    assert by_game.mean() == pytest.approx(row["difference"])


def test_copying_errors_that_differ_between_episodes_are_random_too() -> None:
    """The true difference is exactly the margin, 10% of copying's mean error, which five episodes do not tell well. Taking the mean of
    these five as known would call a third of such studies equivalent, and three intervals in ten would hold the truth."""
    generator, studies = np.random.default_rng(1), 1000
    equivalent = covered = 0
    for _ in range(studies):
        copied = np.exp(0.47 * generator.normal(size=5) - 0.47**2 / 2)
        sides = [0.5 * copied + effect + generator.normal(0.0, 0.005, (5, 1)) for effect in (0.1, 0.0)]
        found = difference([Game("", shares_of(sides[0], copied), shares_of(sides[1], copied), np.arange(5))], paired=True)
        covered += found.interval()[0] <= 0.1 <= found.interval()[1]
        equivalent += found.p_equivalent(0.1) <= 0.05
    assert covered / studies >= 0.95 - 2.5 * np.sqrt(0.05 * 0.95 / studies)
    assert equivalent / studies <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / studies)


def test_shares_of_copying_carry_its_spread_over_references(tmp_path: Path) -> None:
    saved, store = swept(tmp_path, noisy(0.01, 0.0, 0.1), "{metric: drift, baseline: {n: 1}, margin: 10%}", copied=SPREAD)
    facts = gather(saved, store)
    shares, _ = Scores(saved, store, facts).rows("drift", ["n=1", "n=2"], relative=True)
    plain, _ = Scores(saved, store, facts).rows("drift", ["n=1", "n=2"], relative=False)
    of_copy = plain[plain["variant"] == "n=1"]["value"].mean() / SPREAD.mean()
    assert shares[shares["variant"] == "n=1"]["value"].mean() == pytest.approx(of_copy)
    one = shares[(shares["variant"] == "n=1") & (shares["seed"] == 0)]["value"].to_numpy()
    raw = plain[(plain["variant"] == "n=1") & (plain["seed"] == 0)]["value"].to_numpy()
    assert one == pytest.approx((raw - of_copy * SPREAD) / SPREAD.mean() + of_copy)
    runs = np.stack([part["value"] for _, part in plain[plain["variant"] == "n=1"].groupby("seed")])
    assert shares_of(runs, SPREAD)[0] == pytest.approx(one)


def test_a_margin_above_half_of_copying_is_refused(tmp_path: Path) -> None:
    """Boxing's copying error is 0.002: within 0.005 a perfect model and copying would be equivalent."""
    saved, store = swept(tmp_path, noisy(0.001, 0.0, 0.001), "{metric: drift, baseline: {n: 1}, margin: 0.005}", "[Boxing]", seeds=8)
    (row,) = compared(saved, store).primary.to_dict("records")
    assert row["verdict"] != "equivalent within 0.005"
    assert "more than half of copy-last-frame's error in Boxing (0.002)" in row["missing"]
    (allowed,) = compared(saved, store, margin=0.0005).table.query("metric == 'drift'").to_dict("records")
    assert allowed["verdict"] == "equivalent within 0.0005"


@pytest.mark.parametrize("metric", ["fid", "kid"])
def test_distances_of_other_numbers_of_images_are_not_compared(metric: str, tmp_path: Path) -> None:
    images = {1: 4096.0, 2: 2048.0}

    def scores(spec: JobSpec) -> dict[str, float]:
        return {metric: 10.0 / spec.config.sampler.num_steps, "fid_images": images[spec.config.sampler.num_steps]}

    saved, store = swept(tmp_path, noisy(0.01, 0.0, 0.1), f"{{metric: {metric}, baseline: {{n: 1}}, margin: 1}}", scores=scores)
    (row,) = compared(saved, store).primary.to_dict("records")
    assert row["verdict"] == "undecided"
    assert np.isnan(row["difference"])
    assert f"{metric} of 2048 and 4096 images of FID is not compared" in row["missing"]
    images[1] = 2048.0
    (tmp_path / "same").mkdir()
    (row,) = compared(*swept(tmp_path / "same", noisy(0.01, 0.0, 0.1), saved_primary(metric), scores=scores)).primary.to_dict("records")
    assert row["difference"] == -5.0


def saved_primary(metric: str) -> str:
    return f"{{metric: {metric}, baseline: {{n: 1}}, margin: 1}}"


def states(found: list[Gate]) -> dict[tuple[str, str], str]:
    return {(gate.variant, gate.game): gate.state for gate in found}


def test_the_gate_compares_with_copying_the_last_frame(tmp_path: Path) -> None:
    """n = 1 has half of copying's error, n = 2 one and a half."""
    saved, store = swept(tmp_path, noisy(0.01, 0.01, 1.0), "{metric: drift, baseline: {n: 1}}")
    found = gates(saved, store, gather(saved, store))
    assert states(found) == {("n=1", "Pong"): "passed", ("n=2", "Pong"): "failed"}
    assert "times that of copying the last frame (0.04)" in found[1].words
    assert failed_words(found, ["n=2", "n=1"]) == "sanity gate failed: n=2 is worse than copying the last frame by drift in Pong"
    assert failed_words(found, ["n=1"]) == ""


def test_the_gate_says_over_how_many_first_frames_a_failed_model_is_better(tmp_path: Path) -> None:
    """The first frame is better than copying by 0.03, and the second worse by 0.1."""

    def errors(n: int, game: str, seed: int) -> np.ndarray:
        frames = 0.04 + np.array([-0.03, 0.1] + [0.0] * (HORIZON - 2))
        return np.broadcast_to(frames + 0.001 * seed, (12, HORIZON))

    saved, store = swept(tmp_path, errors, "{metric: drift, baseline: {n: 1}}", seeds=3)
    found = gates(saved, store, gather(saved, store))
    assert [(gate.state, gate.lead) for gate in found] == [("failed", 1)] * 2
    assert found[0].words.endswith("but smaller over the first frame")
    assert failed_words(found, ["n=1"]).endswith("in Pong (but better over the first frame)")


def test_the_answer_and_its_section_say_which_models_fail_the_gate(tmp_path: Path) -> None:
    """A comparison of two models says nothing about copying, so the verdict's own line does."""
    saved, store = swept(tmp_path, noisy(0.01, 0.01, 1.0), "{metric: drift, baseline: {n: 1}, test: t}", seeds=3)
    checked = gates(saved, store, gather(saved, store))
    answer = answers.section(saved, compared(saved, store), registration_status(saved, set(saved.jobs)), checked)
    assert "Sanity gate failed: n=2 is worse than copying the last frame by drift in Pong." in answer
    assert "times that of copying the last frame (0.04)" in section(checked)


def test_figures_count_the_episodes_of_their_references(tmp_path: Path) -> None:
    saved, store = swept(tmp_path, noisy(0.01, 0.01, 0.1), "{metric: drift, baseline: {n: 1}}", seeds=3)
    done = finished_results(saved, store)
    (figure,) = [figure for figure in study_figures(saved, store, collect(saved, store), done) if figure.kind == "drift"]
    drawn = figure.draw()
    assert drawn is not None
    assert drawn.caption.startswith("12 trajectories from 6 episodes, 3 seeds, ")
    assert "band: 95% interval of the mean, over seeds and references clustered by episode" in drawn.caption


def test_in_a_stochastic_game_the_gate_compares_energy_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sampler of the true distribution has a larger pixel error than copying, and a smaller energy score."""
    primary = "{metric: drift, baseline: {n: 1}}"
    sticky = "set: {env.sticky_actions: 0.25}\n"
    saved, store = swept(tmp_path, noisy(0.01, 0.01, 1.0), primary, energy=lambda n: 0.2 if n == 2 else 0.4, more=sticky)
    found = gates(saved, store, gather(saved, store))
    assert {gate.metric for gate in found} == {"energy_score"}
    assert states(found) == {("n=1", "Pong"): "failed", ("n=2", "Pong"): "passed"}
    assert failed_words(found, ["n=2", "n=1"]) == "sanity gate failed: n=1 is worse than copying the last frame by energy score in Pong"
    print_results(saved, store, as_json=False)
    printed = capsys.readouterr().out
    assert re.search(r"^game +variant +drift +energy_score ", printed, re.MULTILINE), "the number that decides is in the table"
    assert re.search(r"^Pong +n=1 .* 0\.4 ", printed, re.MULTILINE)


def test_the_gate_is_unknown_where_nothing_was_stored(tmp_path: Path) -> None:
    sticky = "set: {env.sticky_actions: 0.25}\n"
    saved, store = swept(tmp_path, noisy(0.01, 0.01, 1.0), "{metric: drift, baseline: {n: 1}}", more=sticky)
    found = gates(saved, store, gather(saved, store))
    assert {gate.state for gate in found} == {"unknown"}
    assert all("sweep again" in gate.words for gate in found)


def test_the_gate_is_unknown_where_nothing_says_whether_the_game_is_random(tmp_path: Path) -> None:
    saved, store = swept(tmp_path, noisy(0.01, 0.01, 1.0), "{metric: drift, baseline: {n: 1}}")
    facts = replace(gather(saved, store), configs={})
    found = gates(saved, store, facts)
    assert {gate.state for gate in found} == {"unknown"}
    assert all("the next frame of Pong is random (EnvFamily.random" in gate.words for gate in found)


def test_results_without_episodes_keep_their_runs_and_their_margin(tmp_path: Path) -> None:
    """Evaluations of revision 1 stored no episodes: their runs are compared, and a margin above half of copying is refused."""
    saved, store = swept(tmp_path, noisy(0.001, 0.0, 0.001), "{metric: drift, baseline: {n: 1}, margin: 0.005}", "[Boxing]", seeds=8)
    for ref in {point.jobs["evaluation"] for point in saved.points}:
        with np.load(store.folder(ref) / "arrays.npz") as found:
            kept = {name: found[name] for name in found.files if "episodes" not in name}
        rewrite_arrays(store, ref, "arrays.npz", **kept)
    (row,) = compared(saved, store).primary.to_dict("records")
    assert (row["scope"], row["references"]) == ("runs", 0)
    assert "more than half of copy-last-frame's error in Boxing" in row["missing"]


def test_a_share_of_copying_is_refused_for_other_metrics(tmp_path: Path) -> None:
    def scores(spec: JobSpec) -> dict[str, float]:
        return {"psnr": 20.0 + spec.config.sampler.num_steps}

    saved, store = swept(tmp_path, noisy(0.01, 0.0, 0.1), "{metric: drift, baseline: {n: 1}}", scores=scores)
    with pytest.raises(UserError, match="psnr has no copy-last-frame error"):
        compared(saved, store, metrics=["psnr"], margin="10%")
    with pytest.raises(UserError, match=r"'action_lag': not in the results of \w+: it is a column of the metric action_sensitivity"):
        compared(saved, store, metrics=["action_lag"])
    assert set(compared(saved, store, margin="10%").table.set_index("metric")["unit"].items()) >= {("drift", OF_COPYING), ("psnr", "dB")}


def test_few_runs_pass_the_gate_without_an_interval(tmp_path: Path) -> None:
    saved, store = swept(tmp_path, noisy(0.0, 0.0, 1.0), "{metric: drift, baseline: {n: 1}}", seeds=1)
    found = gates(saved, store, gather(saved, store))
    assert states(found) == {("n=1", "Pong"): "passed", ("n=2", "Pong"): "failed"}
    assert all("without an interval (1 run)" in gate.words for gate in found)


def test_a_metric_that_ignores_the_horizon_counts_once(tmp_path: Path) -> None:
    """PSNR one step ahead has one value, whatever the horizon: two horizons are one comparison, not two."""

    def score(spec: JobSpec) -> dict[str, float]:
        own = int(spec.inputs["world_model"].id[:4], 16) / 0xFFFF
        return {"one_step_psnr": 20.0 + spec.config.sampler.num_steps * (1 + 0.1 * own)}

    axes = "axes: {n: {key: sampler.num_steps, values: [1, 2, 3]}, T: {key: evaluation.horizon, values: [4, 8]}}"
    (tmp_path / "mine.yaml").write_text(
        f"question: x\nprotocol: world_model\ngames: [Pong]\nseeds: 6\n{axes}\nprimary: {{metric: one_step_psnr, baseline: {{n: 1}}}}\n"
    )
    plan = plan_study(str(tmp_path / "mine.yaml"), ["scale=tiny", "data=random"])
    store = Store(tmp_path / "outputs", say=lambda text: None)
    for spec in plan.jobs.values():
        finish(store, spec, scores=score(spec) if spec.kind == "evaluate_world_model" else None)
    saved = save_plan(plan, store.root)
    found = compared(saved, store)
    assert list(found.family) == ["n=2, T=4", "n=3, T=4"]
    rows = found.primary.set_index("variant")
    assert list(rows["p_holm"]) == [4 / 64] * 4  # twice the 2 of 64 patterns of signs, not four times
    assert rows.loc["n=2, T=8", "missing"].endswith("; the same measurement as n=2, T=4, counted once")
    assert rows.loc["n=2, T=8", "baseline"] == "n=1, T=8"
    of_drift = found.table[found.table["metric"] == "drift"]
    assert not of_drift["missing"].str.contains("counted once").any()
    assert study_power(saved, store, gather(saved, store), found).family == 2
    itself = compared(saved, store, metrics=["one_step_psnr"], baseline={"n": 1, "T": 4}).table
    assert list(itself["variant"]) == ["n=2, T=4", "n=2, T=8", "n=3, T=4", "n=3, T=8"]  # n=1, T=8 would be compared to itself
    assert any("below 0.062 after Holm's correction over 2 comparisons" in sentence for sentence in limits(plan))


@pytest.mark.parametrize("metric", ["luminance_crps", "state_crps"])
def test_a_crps_is_compared_over_its_starts(metric: str, tmp_path: Path) -> None:
    """The interval of a mean over starts counts these starts; those without a value (no object found) are left out."""
    (tmp_path / "mine.yaml").write_text(
        "question: x\nprotocol: world_model\ngames: [Pong]\nseeds: 5\naxes: {n: {key: sampler.num_steps, values: [1, 2]}}\n"
        f"primary: {{metric: {metric}, baseline: {{n: 1}}}}\n"
    )
    plan = plan_study(str(tmp_path / "mine.yaml"), ["scale=tiny", "data=random", "metrics=[drift,state]"])
    store = Store(tmp_path / "outputs", say=lambda text: None)
    for spec in plan.jobs.values():
        values = np.random.default_rng(int(spec.ref.id[:8], 16)).normal(size=12)
        values[0] = np.nan if metric == "state_crps" else 0.0
        arrays = {"drift": np.full((12, HORIZON), 0.1), f"samples_{metric}": values, "episodes": EPISODES, "sample_episodes": EPISODES}
        scores = {metric: float(np.nanmean(values))} if spec.kind == "evaluate_world_model" else None
        finish(store, spec, scores=scores, arrays=arrays)
    (row,) = compared(save_plan(plan, store.root), store, exploratory=False).primary.to_dict("records")
    assert (row["scope"], row["references"], row["episodes"]) == ("runs and references", 11 if metric == "state_crps" else 12, 6)


def test_two_samplers_on_the_world_model_of_an_agent_are_two_measurements(tmp_path: Path) -> None:
    """The agent's config names a sampler too, and the seeds of two agents are no setting: the jobs tell them apart."""
    saved, store = swept(tmp_path, noisy(0.01, 0.01, 0.1), "{metric: drift, baseline: {n: 1}}", seeds=3)
    agents = [JobSpec("train_agent", TrainAgent("Pong", seed)) for seed in range(3)]
    for spec in agents:
        store.prepare(spec)
    points = tuple(replace(point, jobs={**point.jobs, "world_model": agents[point.seed].ref}) for point in saved.points)
    saved = replace(saved, points=points)
    facts = gather(saved, store)
    assert [facts.configs[name]["sampler.num_steps"] for name in ("n=1", "n=2")] == [1, 2]
    assert list(compare_study(saved, store, facts).primary["variant"]) == ["n=2"]
    names = {point.variant: point for point in points if not point.seed}
    other = replace(names["n=1"], variant="other", jobs={**names["n=1"].jobs, "world_model": agents[1].ref})
    measured = measured_settings([*names.values(), other], lambda ref: store.spec(ref).config)
    assert repetitions("drift", {"n=2": "n=1", "other": "n=1"}, measured) == {}


def test_a_config_that_may_not_be_read_leaves_its_settings_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, store = swept(tmp_path, noisy(0.01, 0.01, 0.1), "{metric: drift, baseline: {n: 1}}", seeds=3)
    barred = saved.points[0].jobs["world_model"]
    read = Store.spec

    def spec(self: Store, ref: JobRef) -> JobSpec:
        if ref == barred:
            raise PermissionError(13, "Permission denied", str(self.folder(ref) / "config.yaml"))
        return read(self, ref)

    monkeypatch.setattr(Store, "spec", spec)
    facts = gather(saved, store)
    assert "training.learning_rate" not in facts.configs["n=1"]
    assert facts.configs["n=1"]["sampler.num_steps"] == 1
    assert list(compare_study(saved, store, facts).primary["variant"]) == ["n=2"]


def test_the_gate_counts_the_variants_that_passed() -> None:
    failed, passed = (Gate(state, "Pong", "drift", state, "why") for state in ("failed", "passed"))
    assert "No variant is better than copying the last frame: 1 failed." in str(section([failed]))
    assert "Not every variant is better than copying the last frame: 1 passed, 1 failed." in str(section([failed, passed]))

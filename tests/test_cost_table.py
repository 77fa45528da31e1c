"""What a report says of the cost of world models: network calls and FLOP."""

import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.text import Text
from test_html_report import Page
from test_report import finish, finished

from diamond_bench.envs.games import spec
from diamond_bench.report import write_report
from diamond_bench.report.answers import answers_of, evidence
from diamond_bench.report.comparison import compare_study
from diamond_bench.report.cost_ratios import CostRatios
from diamond_bench.report.cost_table import costs_of_variants
from diamond_bench.report.facts import gather
from diamond_bench.report.figures import study_figures
from diamond_bench.report.world_costs import world_costs
from diamond_bench.results.table import collect
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.plan import Plan, plan_study, save_plan
from diamond_bench.worlds.families import build_world_model

pytestmark = pytest.mark.usefixtures("unrendered")
ARMS = "{one step: {sampler.num_steps: 1}, two steps: {sampler.num_steps: 2}, tokens: {family: tokens_small}}"


def planned(folder: Path, protocol: str, metric: str, *tokens: str, arms: str = ARMS) -> Plan:
    file = folder / "mine.yaml"
    primary = f"{{metric: {metric}, baseline: {{arm: one step}}, margin: 0.01}}"
    file.write_text(f"question: x\nprotocol: {protocol}\ngames: [Pong]\nseeds: 1\nprimary: {primary}\narms: {arms}\n")
    return plan_study(str(file), ["scale=tiny", *tokens])


def test_world_models_of_two_families_are_compared_by_flop_and_not_by_network_calls(tmp_path: Path) -> None:
    plan = planned(tmp_path, "world_model", "drift", "data=random")
    saved, store = finished(tmp_path, plan)
    facts = gather(saved, store)
    worlds: dict[str, Any] = {}
    for point in plan.points:
        dataset, training, evaluation = (plan.jobs[point.jobs[role]].config for role in ("dataset", "world_model", "evaluation"))
        worlds[point.arm] = build_world_model(training, spec("Pong", dataset.env)).bound(evaluation.sampler)
        costs = facts.costs[point.arm]
        assert costs["calls_per_frame"] == {"Pong": worlds[point.arm].calls_per_frame}
        assert costs["flops_per_frame"] == {"Pong": pytest.approx(worlds[point.arm].flops_per_frame, rel=0.01)}
        assert costs["training_flops"]["Pong"] > 3 * training.training.num_steps * worlds["one step"].flops_per_frame
    found = compare_study(saved, store, facts)
    rows = found.primary.set_index("variant")
    assert rows.loc["two steps", "nfe_ratio"] == 2.0
    assert rows.loc["two steps", "flops_ratio"] == pytest.approx(2.0)
    assert math.isnan(rows.loc["tokens", "nfe_ratio"])
    assert rows.loc["tokens", "flops_ratio"] == pytest.approx(
        worlds["tokens"].flops_per_frame / worlds["one step"].flops_per_frame, rel=0.01
    )
    two, tokens = (" ".join(answer.evidence) for answer in answers_of(found))
    assert "2 × the network calls." in two
    assert "calls" not in tokens
    assert f"{rows.loc['tokens', 'flops_ratio']:.3g} × the FLOP per frame." in tokens
    words = Page(write_report(saved, store, lambda text: None)[0].read_text()).words
    assert "FLOP of the training" in words
    assert "Network calls of different families do not compare" in words


@pytest.mark.parametrize("tokens", [(), ("sampler.num_steps=1,2",)])
def test_a_figure_of_two_families_does_not_compare_their_network_calls(tmp_path: Path, tokens: tuple[str, ...]) -> None:
    """With a number of calls for each arm, these are left out. With several they are the axis, and the caption has the table's note."""
    arms = "{one step: {}, transformer: {family: transformer_small}}"
    plan = planned(tmp_path, "world_model", "drift", "data=random", *tokens, arms=arms)
    store = Store(tmp_path / "outputs", say=lambda text: None)
    (*_, transformer) = (point.jobs["evaluation"] for point in plan.points if point.arm == "transformer")
    for ref, job in plan.jobs.items():
        finish(store, job, scores={"nfe_per_frame": 17.0} if ref == transformer else None)
    saved = save_plan(plan, store.root)
    offered = study_figures(saved, store, collect(saved, store), plan.jobs.keys())
    (quality,) = (figure for figure in offered if figure.kind == "quality")
    drawn = quality.draw()
    assert drawn is not None
    assert "network calls per frame:" not in drawn.caption
    assert ("network calls of different families do not compare" in drawn.caption) == bool(tokens)
    shown = {text.get_text() for text in drawn.figure.findobj(Text)}
    assert not [text for text in shown if "calls)" in text]
    assert any("transformer" in text for text in shown)


def test_families_that_were_not_read_are_not_compared_by_network_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with more than MAX_CONFIGS variants, or with settings of another version."""
    saved, store = finished(tmp_path, planned(tmp_path, "world_model", "drift", "data=random"))
    monkeypatch.setattr("diamond_bench.report.facts.MAX_CONFIGS", 2)
    facts = gather(saved, store)
    assert {facts.family_of(name) for name in ("one step", "two steps", "tokens")} == {None}
    ratios = CostRatios(facts)
    assert all(math.isnan(ratios.of(name, "one step")["nfe_ratio"]) for name in ("two steps", "tokens"))
    assert "Network calls of different families do not compare" in costs_of_variants(saved, facts)


@pytest.mark.parametrize(
    ("nfe", "flops", "said"), [(math.nan, 0.0, ""), (0.0, 0.0, ""), (1.0, 2.0, ""), (math.nan, 3.0, "3 × the FLOP per frame.")]
)
def test_a_cost_of_nothing_or_of_the_same_is_not_said(nfe: float, flops: float, said: str) -> None:
    unknown = dict.fromkeys(("difference", "p_holm", "p_equivalent"), math.nan)
    assert " ".join(evidence({**unknown, "nfe_ratio": nfe, "flops_ratio": flops, "missing": ""})) == said


def test_an_agent_s_world_model_has_the_calls_of_its_family(tmp_path: Path) -> None:
    plan = planned(tmp_path, "agent", "hns")
    costs = world_costs(save_plan(plan, tmp_path), lambda ref: plan.jobs[ref].config)
    assert {name: of["calls_per_frame"]["Pong"] for name, of in costs.items()} == {"one step": 1, "two steps": 2, "tokens": 65}
    assert costs["two steps"]["flops_per_frame"]["Pong"] == 2 * costs["one step"]["flops_per_frame"]["Pong"]

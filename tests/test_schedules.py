"""Sampling schedules, the trained range, and what planning may import."""

import dataclasses
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from presets import ONE_STAGE
from presets import objective as objective_preset
from presets import sampler as sampler_preset

from diamond_bench.compose import groups, parse
from diamond_bench.config import (
    SAMPLERS,
    SCHEDULES,
    AncestralSampler,
    DdpmLeadingSchedule,
    FactoredObjective,
    FlowSchedule,
    KarrasSchedule,
    OdeSampler,
    RangeSchedule,
)
from diamond_bench.diffusion.schedules import (
    alphas_cumprod,
    check_sampler,
    denoiser_sigmas,
    karras,
    leading_timesteps,
    nfe,
    sigmas,
    trained_sigma_range,
)
from diamond_bench.errors import UserError
from diamond_bench.studies.plan import plan_study

KARRAS, LEADING = KarrasSchedule(), DdpmLeadingSchedule()
OBJECTIVES = ["edm", "edm_clean", "ddpm", "ddpm_velocity", "ddpm_clean", "flow"]
PRESETS = [*ONE_STAGE, "churn", "flow_euler"]


@pytest.mark.parametrize(
    "schedule",
    [
        *(option.settings_type()(name=name) for name, option in SCHEDULES.items()),
        KarrasSchedule(rho=1.0),
        KarrasSchedule(sigma_min=0.01, sigma_max=157.0),
        FlowSchedule(sigma_max=999.0),
        RangeSchedule("cosine", sigma_max=999.0),
    ],
)
@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000])
def test_strictly_decreasing_and_ending_in_exactly_zero(schedule, n):
    levels = sigmas(OdeSampler(num_steps=n, schedule=schedule))
    assert levels.dtype == np.float64
    assert levels.shape == (n + 1,)
    assert (np.diff(levels) < 0).all()
    assert levels[-1] == 0.0
    assert levels[-2] > 0.0


@pytest.mark.parametrize("name", ["karras", "linear", "log_linear", "cosine"])
def test_ends_of_a_range_are_exact(name):
    schedule = SCHEDULES[name].settings_type()(name=name, sigma_min=0.01, sigma_max=157.0)
    levels = sigmas(OdeSampler(num_steps=7, schedule=schedule))
    assert levels[0] == 157.0
    assert levels[-2] == 0.01
    assert sigmas(OdeSampler(num_steps=1, schedule=schedule)).tolist() == [157.0, 0.0]
    assert karras(KARRAS, 1).tolist() == [5.0, 0.0]


def test_levels_by_hand():
    def levels(schedule, n=3):
        return sigmas(OdeSampler(num_steps=n, schedule=schedule)).tolist()

    assert levels(RangeSchedule("linear", sigma_min=1.0, sigma_max=5.0)) == pytest.approx([5, 3, 1, 0])
    assert levels(RangeSchedule("log_linear", sigma_min=0.01, sigma_max=100.0)) == pytest.approx([100, 1, 0.01, 0])
    eighth = math.tan(math.pi / 8)
    assert levels(RangeSchedule("cosine", sigma_min=eighth, sigma_max=1 / eighth)) == pytest.approx([1 / eighth, 1, eighth, 0])
    assert levels(FlowSchedule(sigma_max=3.0)) == pytest.approx([3, 1, 1 / 3, 0])  # times 3/4, 1/2, 1/4, 0
    assert levels(KarrasSchedule(sigma_min=1.0, sigma_max=9.0, rho=2.0)) == pytest.approx([9, 4, 1, 0])


def test_the_cosine_schedule_is_nichol_and_dhariwals():
    """Their cumulative product is cos^2(pi t / 2), t evenly spaced (their offset s is 0 here)."""
    first, last = (math.atan(sigma) / (math.pi / 2) for sigma in (5.0, 2e-3))
    alphas = np.cos(np.linspace(first, last, 10) * math.pi / 2) ** 2
    np.testing.assert_allclose(sigmas(OdeSampler(num_steps=10, schedule=RangeSchedule("cosine")))[:-1], np.sqrt(1 / alphas - 1), rtol=1e-9)


def test_leading_timesteps_by_hand():
    assert leading_timesteps(3, 1000) == [666, 333, 0]
    assert leading_timesteps(1, 1000) == [500]
    alphas = alphas_cumprod(1000, 1e-4, 0.02)
    assert sigmas(AncestralSampler(num_steps=1))[0] == pytest.approx(math.sqrt(1 / alphas[500] - 1))


def test_trained_ranges():
    assert trained_sigma_range(FactoredObjective()) == (2e-3, 20.0)
    low, high = trained_sigma_range(objective_preset("ddpm"))
    assert low == pytest.approx(0.01, rel=1e-3)
    assert high == pytest.approx(157, rel=0.01)


def test_nfe_and_the_levels_of_the_calls():
    assert [nfe(OdeSampler(num_steps=n)) for n in (1, 3)] == [1, 3]
    assert [nfe(OdeSampler(name="heun", num_steps=n)) for n in (1, 3)] == [1, 5]
    assert nfe(AncestralSampler(num_steps=10)) == 10
    churned = OdeSampler(num_steps=2, s_churn=1.0, churn_sigma="sigma_hat", s_tmin=0.1)
    raised = 5 * math.sqrt(2)
    assert denoiser_sigmas(churned) == [pytest.approx(raised), 2e-3]
    assert denoiser_sigmas(dataclasses.replace(churned, churn_sigma="sigma")) == [5.0, 2e-3]
    heun = dataclasses.replace(churned, name="heun")
    assert denoiser_sigmas(heun) == [pytest.approx(raised), 2e-3, 2e-3]
    assert nfe(sampler_preset("dpm_solver_pp_2m", num_steps=7)) == nfe(sampler_preset("ddim", num_steps=7)) == 7
    assert nfe(dataclasses.replace(heun, guidance=0.5)) == 2 * nfe(heun)


@pytest.mark.parametrize(
    ("sampler", "objective"),
    [
        (OdeSampler(), FactoredObjective()),
        (OdeSampler(name="heun", num_steps=10), FactoredObjective()),
        (AncestralSampler(num_steps=1), objective_preset("ddpm")),
        (AncestralSampler(num_steps=10), objective_preset("ddpm")),
        (AncestralSampler(num_steps=1000), objective_preset("ddpm")),
        (AncestralSampler(num_steps=1), FactoredObjective()),
        (AncestralSampler(num_steps=3), FactoredObjective()),
        (OdeSampler(schedule=KarrasSchedule(sigma_min=0.01)), objective_preset("ddpm")),  # as its lowest level is written
        # the edges of a range belong to it
        (
            OdeSampler(schedule=KarrasSchedule(sigma_min=trained_sigma_range(objective_preset("ddpm"))[0] * (1 - 1e-9))),
            objective_preset("ddpm"),
        ),
        (OdeSampler(schedule=KarrasSchedule(sigma_max=20.0)), FactoredObjective()),
    ],
)
def test_samplers_that_fit(sampler, objective):
    check_sampler(sampler, objective)


@pytest.mark.parametrize(
    ("sampler", "objective", "says"),
    [
        (OdeSampler(), objective_preset("ddpm"), ["sigma 0.002", "0.01", "157", "sampler.schedule.sigma_min"]),
        (OdeSampler(schedule=KarrasSchedule(sigma_max=80.0)), FactoredObjective(), ["sigma 80", "20", "sampler.schedule.sigma_max"]),
        (
            AncestralSampler(num_steps=10),
            FactoredObjective(),
            ["0.002", "20", "sampler.num_steps=4, or sampler/schedule=karras would fit"],
        ),
        (AncestralSampler(num_steps=51), objective_preset("ddpm", num_train_timesteps=50), ["0.01 to 0.8", "sampler/schedule=karras"]),
        (
            AncestralSampler(num_steps=11, schedule=DdpmLeadingSchedule(num_train_timesteps=10)),
            objective_preset("ddpm"),
            ["sampler.num_steps=11", "10 timesteps"],
        ),
        (OdeSampler(schedule=KarrasSchedule(sigma_min=5.0)), FactoredObjective(), ["sigma_min=5", "sigma_max=5"]),
        (OdeSampler(), FactoredObjective(sigma_min=30.0), ["objective.sigma_min=30"]),
        (AncestralSampler(schedule=DdpmLeadingSchedule(beta_start=0.0)), objective_preset("ddpm"), ["beta_start=0"]),
        (OdeSampler(s_tmin=2.0, s_tmax=1.0), FactoredObjective(), ["s_tmin=2", "sampler.s_tmax=1"]),
        # no n levels that fall: overflow, and fewer numbers than steps between the ends
        (OdeSampler(schedule=KarrasSchedule(rho=1e-3)), FactoredObjective(), ["rho=0.001", "no 3 different finite levels"]),
        (OdeSampler(num_steps=4, schedule=KarrasSchedule(rho=1e18)), FactoredObjective(), ["rho=1e+18", "no 4 different finite levels"]),
        (OdeSampler(schedule=KarrasSchedule(sigma_max=math.inf)), FactoredObjective(), ["sigma_max=inf"]),
        (
            OdeSampler(num_steps=1000, schedule=RangeSchedule(sigma_min=5.0 - 1e-13)),
            FactoredObjective(),
            ["no 1000 different finite levels", "fewer sampler.num_steps"],
        ),
        (OdeSampler(), FactoredObjective(sigma_max=math.inf), ["objective.sigma_max=inf"]),
        (AncestralSampler(), objective_preset("ddpm", beta_start=1e-18), ["beta_start=1e-18", "a noise level of its own"]),
        (AncestralSampler(), objective_preset("ddpm", beta_end=0.999), ["beta_end=0.999", "a noise level of its own"]),
        # only the raised level leaves the range
        (
            OdeSampler(num_steps=2, schedule=KarrasSchedule(sigma_max=20.0), s_churn=9.0, churn_sigma="sigma_hat"),
            FactoredObjective(),
            ["28.28", "raised by churn", "sampler.schedule.sigma_max=14.14 would fit"],
        ),
    ],
)
def test_samplers_that_do_not_fit_are_refused(sampler, objective, says):
    with pytest.raises(UserError) as refusal:
        check_sampler(sampler, objective)
    for word in says:
        assert word in str(refusal.value)


def fits(sampler, objective):
    try:
        check_sampler(sampler, objective)
    except UserError as refusal:
        return str(refusal)
    return None


def test_which_presets_fit():
    """What a user types first. Those that train on flow's or EDM's levels take EDM's; DDPM's are not as low, flow's reach further."""
    refused = {(o, s) for o in OBJECTIVES for s in PRESETS if fits(sampler_preset(s), objective_preset(o))}
    ddpm = {(o, s) for o in ("ddpm", "ddpm_velocity", "ddpm_clean") for s in PRESETS if s not in ("ddpm_ancestral", "ddim")}
    assert refused == ddpm | {("edm", "flow_euler"), ("edm_clean", "flow_euler")}


@pytest.mark.parametrize("schedule", [None, *SCHEDULES])
@pytest.mark.parametrize("name", PRESETS)
def test_each_advice_followed_literally_fits(name, schedule):
    for objective in (
        *map(objective_preset, OBJECTIVES),
        FactoredObjective(sigma_min=0.4, sigma_max=0.7),
        FactoredObjective(sigma_min=6.0),
    ):
        for n in (1, 3, 50, 700):
            own = {} if schedule is None else {"schedule": {"name": schedule, **({"sigma_max": 999.0} if schedule == "flow" else {})}}
            sampler = sampler_preset(name, num_steps=n, **own)
            refusal = fits(sampler, objective)
            if refusal is None:
                continue
            assert refusal.endswith(" would fit")
            for advice in refusal.removesuffix(" would fit").split("; ")[-1].split(", or "):
                changed = sampler
                for override in parse(advice.split()):
                    changed = followed(changed, override.key, override.value)
                assert fits(changed, objective) is None, (refusal, advice)


def followed(sampler, key, value):
    if key == "sampler/schedule":
        return dataclasses.replace(sampler, schedule=SCHEDULES[value].settings_type()(name=value))
    if key == "sampler.num_steps":
        return dataclasses.replace(sampler, num_steps=value)
    return dataclasses.replace(sampler, schedule=dataclasses.replace(sampler.schedule, **{key.removeprefix("sampler.schedule."): value}))


def test_a_range_no_schedule_fits_is_said_to_be_too_narrow():
    # its two levels are a factor of 1.33 apart
    assert "too narrow" in fits(sampler_preset("churn", num_steps=3), FactoredObjective(sigma_min=1.0, sigma_max=1.1))


STUDY = "question: x\nprotocol: world_model\ngames: [Pong]\nseeds: 1\nprimary: {metric: drift}\n"


@pytest.mark.parametrize(
    "tokens",
    [
        ["objective=flow", "sampler=flow_euler"],
        ["objective=flow", "sampler=euler"],
        ["objective=ddpm_velocity", "sampler=ddim"],
        ["objective=edm", "sampler=dpm_solver_pp_2m"],
        ["objective=edm", "sampler=churn"],
        ["objective=edm_clean", "sampler=ddim", "sampler/schedule=cosine"],
        ["objective=edm", "sampler=flow_euler", "sampler.schedule.sigma_max=20.0"],
        ["objective=edm", "sampler=flow_euler", "sampler/schedule=karras"],
        ["objective=ddpm_clean", "sampler=heun", "sampler.schedule.sigma_min=0.01"],
        ["objective=ddpm", "sampler=flow_euler", "sampler/schedule=karras", "sampler.schedule.sigma_min=0.01"],
    ],
)
def test_first_commands_plan(tokens, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(STUDY)
    plan = plan_study(str(file), ["scale=tiny", *tokens])
    (config,) = (spec.config for spec in plan.jobs.values() if spec.kind == "evaluate_world_model")
    chosen = dict(token.split("=") for token in tokens)
    expected = sampler_preset(chosen["sampler"])
    assert config.sampler.name == expected.name
    assert config.sampler.schedule.name == chosen.get("sampler/schedule", expected.schedule.name)


def test_a_refusal_reaches_the_user_before_anything_is_planned(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(STUDY)
    with pytest.raises(UserError, match=r"asks for sigma 999.*sampler\.schedule\.sigma_max=20\.0"):
        plan_study(str(file), ["scale=tiny", "objective=edm", "sampler=flow_euler"])


def test_every_sampler_and_schedule_has_its_file():
    assert set(groups()["sampler"]) == {*SAMPLERS, *PRESETS}
    assert set(groups()["sampler/schedule"]) == set(SCHEDULES)
    assert set(groups()["objective"]) >= set(OBJECTIVES)


def test_planning_imports_no_torch():
    modules = "diamond_bench.diffusion.schedules, diamond_bench.models.denoiser_cost, diamond_bench.models.shape"
    code = f"import sys; import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_of_somebodys_own_objective_say_their_range() -> None:
    @dataclasses.dataclass(frozen=True)
    class Own:
        name: str = "own"
        sigma_min: float = 0.01
        sigma_max: float = 10.0

    own: Any = Own()
    assert trained_sigma_range(own) == (0.01, 10.0)
    check_sampler(OdeSampler(schedule=KarrasSchedule(sigma_min=0.02)), own)
    with pytest.raises(UserError, match="objective own was trained on"):
        check_sampler(OdeSampler(), own)

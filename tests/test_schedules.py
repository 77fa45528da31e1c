"""Sampling schedules, the trained range, and what planning may import."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest

from diamond_bench.config import AncestralSampler, DdpmLeadingSchedule, DdpmObjective, EdmObjective, KarrasSchedule, OdeSampler
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

KARRAS, LEADING = KarrasSchedule(), DdpmLeadingSchedule()


@pytest.mark.parametrize("schedule", [KARRAS, LEADING, KarrasSchedule(rho=1.0), KarrasSchedule(sigma_min=0.01, sigma_max=157.0)])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000])
def test_strictly_decreasing_and_ending_in_exactly_zero(schedule, n):
    levels = sigmas(OdeSampler(num_steps=n, schedule=schedule))
    assert levels.dtype == np.float64
    assert levels.shape == (n + 1,)
    assert (np.diff(levels) < 0).all()
    assert levels[-1] == 0.0
    assert levels[-2] > 0.0


def test_ends_of_the_karras_schedule_are_exact():
    levels = karras(KarrasSchedule(sigma_min=0.01, sigma_max=157.0), 7)
    assert levels[0] == 157.0
    assert levels[-2] == 0.01
    assert karras(KARRAS, 1).tolist() == [5.0, 0.0]


def test_leading_timesteps_by_hand():
    assert leading_timesteps(3, 1000) == [666, 333, 0]
    assert leading_timesteps(1, 1000) == [500]
    alphas = alphas_cumprod(1000, 1e-4, 0.02)
    assert sigmas(AncestralSampler(num_steps=1))[0] == pytest.approx(math.sqrt(1 / alphas[500] - 1))


def test_trained_ranges():
    assert trained_sigma_range(EdmObjective()) == (2e-3, 20.0)
    low, high = trained_sigma_range(DdpmObjective())
    assert low == pytest.approx(0.01, rel=1e-3)
    assert high == pytest.approx(157, rel=0.01)


def test_nfe_and_told_levels():
    assert [nfe(OdeSampler(num_steps=n)) for n in (1, 3)] == [1, 3]
    assert [nfe(OdeSampler(name="heun", num_steps=n)) for n in (1, 3)] == [1, 5]
    assert nfe(AncestralSampler(num_steps=10)) == 10
    churned = OdeSampler(num_steps=2, s_churn=1.0, churn_sigma="sigma_hat", s_tmin=0.1)
    raised = 5 * math.sqrt(2)
    assert denoiser_sigmas(churned) == [pytest.approx(raised), 2e-3]
    assert denoiser_sigmas(dataclasses.replace(churned, churn_sigma="sigma")) == [5.0, 2e-3]


@pytest.mark.parametrize(
    ("sampler", "objective"),
    [
        (OdeSampler(), EdmObjective()),
        (OdeSampler(name="heun", num_steps=10), EdmObjective()),
        (AncestralSampler(num_steps=1), DdpmObjective()),
        (AncestralSampler(num_steps=10), DdpmObjective()),
        (AncestralSampler(num_steps=1000), DdpmObjective()),
        (AncestralSampler(num_steps=1), EdmObjective()),
        (AncestralSampler(num_steps=3), EdmObjective()),
        (OdeSampler(schedule=KarrasSchedule(sigma_min=0.0101)), DdpmObjective()),
        # the edges of a range belong to it
        (OdeSampler(schedule=KarrasSchedule(sigma_min=trained_sigma_range(DdpmObjective())[0] * (1 - 1e-9))), DdpmObjective()),
        (OdeSampler(schedule=KarrasSchedule(sigma_max=20.0)), EdmObjective()),
    ],
)
def test_samplers_that_fit(sampler, objective):
    check_sampler(sampler, objective)


@pytest.mark.parametrize(
    ("sampler", "objective", "says"),
    [
        (OdeSampler(), DdpmObjective(), ["sigma 0.002", "0.01", "157", "sampler.schedule.sigma_min"]),
        (OdeSampler(schedule=KarrasSchedule(sigma_max=80.0)), EdmObjective(), ["sigma 80", "20", "sampler.schedule.sigma_max"]),
        (AncestralSampler(num_steps=10), EdmObjective(), ["0.002", "20", "sampler.num_steps=4 would fit"]),
        (AncestralSampler(num_steps=51), DdpmObjective(num_train_timesteps=50), ["num_steps"]),
        (
            AncestralSampler(num_steps=11, schedule=DdpmLeadingSchedule(num_train_timesteps=10)),
            DdpmObjective(),
            ["num_steps=11", "10 timesteps"],
        ),
        (OdeSampler(schedule=KarrasSchedule(sigma_min=5.0)), EdmObjective(), ["sigma_min=5", "sigma_max=5"]),
        (OdeSampler(), EdmObjective(sigma_min=30.0), ["objective.sigma_min=30"]),
        (AncestralSampler(schedule=DdpmLeadingSchedule(beta_start=0.0)), DdpmObjective(), ["beta_start=0"]),
        (OdeSampler(s_tmin=2.0, s_tmax=1.0), EdmObjective(), ["s_tmin=2"]),
        # only the raised level leaves the range
        (
            OdeSampler(num_steps=2, schedule=KarrasSchedule(sigma_max=20.0), s_churn=9.0, churn_sigma="sigma_hat"),
            EdmObjective(),
            ["28.28", "churn"],
        ),
    ],
)
def test_samplers_that_do_not_fit_are_refused(sampler, objective, says):
    with pytest.raises(UserError) as refusal:
        check_sampler(sampler, objective)
    for word in says:
        assert word in str(refusal.value)


def test_the_advice_fits():
    with pytest.raises(UserError, match=r"sampler\.num_steps=4 would fit"):
        check_sampler(AncestralSampler(num_steps=10), EdmObjective())
    check_sampler(AncestralSampler(num_steps=4), EdmObjective())


def test_planning_imports_no_torch():
    modules = "diamond_bench.diffusion.schedules, diamond_bench.models.flops, diamond_bench.models.shape"
    code = f"import sys; import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

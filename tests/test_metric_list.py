"""The list of metrics in the docs, and messages for names of metrics and columns."""

import importlib.util
from pathlib import Path

import pytest

from diamond_bench.errors import UserError
from diamond_bench.metrics.columns import METRIC_INFO, columns_of, source_of
from diamond_bench.metrics.planning import check_names, meant
from diamond_bench.studies.plan import plan_study

HOOK = Path(__file__).parents[1] / "docs" / "hooks" / "metric_list.py"


def test_the_page_of_metrics_lists_every_column_of_the_registry() -> None:
    spec = importlib.util.spec_from_file_location("metric_list", HOOK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.PAGE.read_text()
    assert module.render(page) == page, "run python docs/hooks/metric_list.py"
    for name, column in METRIC_INFO.items():
        if column.protocol == "world_model":
            assert f"`{column.listed_as or name}`" in page
    assert "`diamond-bench weights fetch fvd`, the job `extract_clip_features`" in page


@pytest.mark.parametrize(
    ("name", "clause"),
    [
        ("action_lag", "it is a column of the metric action_sensitivity, so write metrics=[...,action_sensitivity]"),
        ("kid", "it is a column of the metric fid or kid, so write metrics=[...,fid]"),
        ("sharpness_ratio", "it is a column of sharpness, which every evaluation measures"),
        ("nfe_per_frame", "every evaluation that imagines frames records this column, so leave it out"),
        ("training_seconds", "every training records this column, so leave it out"),
        ("dataset_return", "every dataset of whole games records this column, so leave it out"),
        ("nonsense", ""),
        ("test_return", ""),
    ],
)
def test_a_column_is_traced_to_its_metric(name: str, clause: str) -> None:
    assert source_of(name) == clause


def test_a_metric_is_traced_to_its_columns() -> None:
    assert columns_of("sharpness") == "it is a metric, and its columns are sharpness_ratio, noise_excess"
    assert columns_of("sharpness_ratio") == ""


def test_a_name_that_is_no_metric_is_explained() -> None:
    assert meant("lpisp").startswith("did you mean lpips")
    assert meant("idle_lifetme").startswith("did you mean idle_lifetime? It is a column of the metric idle_decay, so write")
    with pytest.raises(UserError, match=r"metrics: unknown metric 'action_lag': it is a column of the metric action_sensitivity, so write"):
        plan_study("sampling_steps", ["scale=tiny", "metrics=[drift,action_lag]"])


@pytest.mark.parametrize(
    ("metrics", "names", "rest"),
    [
        ("psnr,one_step", "one_step", "psnr"),
        ("modes,psnr,memory_gain,pose,outcomes,ssim", "modes, memory_gain, pose and outcomes", "psnr,ssim"),
        ("drift,state", "state", "drift"),
        ("lpips,lpips_vgg,action_gain", "lpips and lpips_vgg", "action_gain"),
    ],
)
def test_all_refused_metrics_are_named_at_once_with_the_list_of_the_others(metrics: str, names: str, rest: str) -> None:
    asked = ["scale=tiny", "games=[MsPacman]", "data=random", *(["env.frame_size=16"] if "lpips" in metrics else [])]
    with pytest.raises(UserError) as refused:
        plan_study("sampling_steps", [*asked, f"metrics=[{metrics}]"])
    assert str(refused.value).endswith(f"To leave {names} out, use metrics=[{rest}]")
    assert plan_study("sampling_steps", [*asked, f"metrics=[{rest}]"]).metrics == tuple(rest.split(","))


def test_names_that_no_evaluation_may_request_are_named_at_once() -> None:
    with pytest.raises(UserError) as refused:
        check_names(("drift", "lpisp", "one_step", "psnrr"))
    lines = str(refused.value).splitlines()
    assert lines[0].startswith("metrics: unknown metric 'lpisp': did you mean lpips")
    assert lines[1] == "metrics: one_step is measured wherever it can be, so it cannot be requested"
    assert lines[2].startswith("metrics: unknown metric 'psnrr'")
    assert len(lines) == 3

"""What a finished study shows: its table, its report, and its words when something is wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import in_this_process

from diamond_bench.errors import UserError
from diamond_bench.metrics.columns import METRIC_INFO
from diamond_bench.report import write_report
from diamond_bench.results.table import COLUMNS, collect, mixtures, pivot, seed_means, uninformative
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import sealed
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies.plan import load_plans

pytestmark = pytest.mark.usefixtures("unrendered")


@pytest.fixture
def store(tiny_store: Path, tmp_path: Path) -> Store:
    """A copy of the swept store, to be changed."""
    shutil.copytree(tiny_store, tmp_path / "outputs")
    return Store(tmp_path / "outputs", say=lambda text: None)


def test_the_table_is_tidy(tiny_store: Path) -> None:
    store = Store(tiny_store)
    table = collect(load_plans(tiny_store)[0], store)
    assert list(table.columns) == [*COLUMNS, "axis.n"]
    model = table[table["seed"].notna()]
    assert not model.duplicated(["variant", "game", "seed", "metric", "kind"]).any()
    assert set(model["variant"]) == {"n=1", "n=2", "n=3", "n=5", "n=10"}
    assert set(model["metric"]) >= {
        "drift",
        "psnr",
        "ssim",
        "one_step_psnr",
        "nfe_per_frame",
        "frames_per_second",
        "parameters",
        "train_loss",
    }
    measured = set(table[table["measured"]]["metric"])
    assert measured == {"frames_per_second", "imagination_seconds", "peak_memory_mb", "training_seconds", "updates_per_second"}
    nfe = model[model["metric"] == "nfe_per_frame"].set_index("variant")["value"]
    assert nfe.to_dict() == {"n=1": 1, "n=2": 2, "n=3": 3, "n=5": 5, "n=10": 10}
    assert set(table["scale"]) == {"tiny"}
    assert not mixtures(table)


def test_each_baseline_is_shown_once(tiny_store: Path) -> None:
    table = collect(load_plans(tiny_store)[0], Store(tiny_store))
    baselines = table[table["seed"].isna()]
    assert set(baselines["variant"]) - {"dataset"} == {"copy-last-frame", "unrelated-frames", "uniform-ranks"}
    assert not baselines.duplicated(["variant", "metric"]).any()
    assert len(baselines[baselines["metric"] == "one_step_psnr"]) == 1


def test_curves_are_reached_from_the_table_and_give_its_numbers(tiny_store: Path) -> None:
    store = Store(tiny_store)
    table = collect(load_plans(tiny_store)[0], store)
    for row in table[(table["metric"] == "drift") & table["seed"].notna()].itertuples():
        with np.load(store.folder(JobRef("evaluate_world_model", str(row.job))) / "arrays.npz") as arrays:
            assert arrays["drift"].shape == (3, 8)
            assert float(arrays["drift"].mean()) == pytest.approx(row.value, rel=1e-5)


def test_a_mixture_of_revisions_or_precisions_is_flagged(tiny_store: Path) -> None:
    table = collect(load_plans(tiny_store)[0], Store(tiny_store))
    table.loc[table["variant"] == "n=1", "precision"] = "bf16"
    table.loc[(table["variant"] == "n=2") & (table["kind"] == "evaluate_world_model"), "revision"] = 99
    notes = " ".join(mixtures(table))
    assert "mixed precisions: bf16, fp32" in notes
    assert "mixed revisions of evaluate_world_model" in notes


@pytest.mark.parametrize(
    ("real", "value", "noted"),
    [
        ("emulator", 0.25, True),
        ("emulator", 0.9, False),
        ("emulator", np.nan, False),
        ("real-imposed", 0.2, True),
        ("state-probe", 0.25, False),  # a baseline that is no ceiling of this column
        ("emulator, horizon=8", 0.25, True),
    ],
)
def test_a_note_says_if_the_network_reads_no_actions(real: str, value: float, noted: bool) -> None:
    settings = real.removeprefix("emulator") if "," in real else ""
    floor = rows(f"copy-last-frame{settings}", "action_accuracy", 0.25, seeded=False)
    models = rows("n=1", "action_accuracy", 0.25, 0.25)
    notes = uninformative(table_of(*models, *floor, *rows(real, "action_accuracy", value, seeded=False)))
    assert [note.startswith(f"action_accuracy in Pong{settings}: ") for note in notes] == [True] * noted
    assert all(f"{value:g}) than on copied ones (copy-last-frame, 0.25)" in note for note in notes)
    assert all("train the network longer (inverse_dynamics.num_steps)" in note for note in notes)


def rows(variant: str, metric: str, *values: float, seeded: bool = True) -> list[tuple[Any, ...]]:
    return [("Pong", variant, metric, seed if seeded else pd.NA, value) for seed, value in enumerate(values)]


def table_of(*lines: tuple[Any, ...]) -> pd.DataFrame:
    table = pd.DataFrame(lines, columns=["game", "variant", "metric", "seed", "value"])
    return table.astype({"seed": "Int64", "value": "float64"})


def test_the_pivot_gives_means_and_the_reports_intervals_from_three_seeds_on() -> None:
    table = table_of(*rows("n=1", "psnr", 20.0, 21.0, 22.0), *rows("n=2", "psnr", 20.0, 22.0), *rows("n=3", "psnr", 5.0))
    reach = 4.302653 / 3**0.5  # Student's t with 2 degrees of freedom times the standard error of 20, 21, 22
    assert pivot(table).to_dict("records") == [
        {"game": "Pong", "variant": "n=1", "psnr": f"21 [{21 - reach:.4g}, {21 + reach:.4g}]"},
        {"game": "Pong", "variant": "n=2", "psnr": "21"},
        {"game": "Pong", "variant": "n=3", "psnr": "5"},
    ]


def test_an_interval_ends_where_its_metric_ends() -> None:
    low = rows("n=1", "mode_minority_share", 0.0, 0.0, 0.015)  # its Student interval is 0.005 +- 0.0215
    high, free = rows("n=1", "ssim", 0.99, 0.90, 0.99), rows("n=1", "psnr", 0.0, 0.0, 0.015)
    means = seed_means(table_of(*low, *high, *free)).set_index("metric")
    assert means.loc["mode_minority_share", ["low", "high"]].tolist() == pytest.approx([0.0, 0.005 + 4.302653 * 0.005])
    assert means.loc["ssim", "high"] == 1.0
    assert means.loc["psnr", "low"] == pytest.approx(0.005 - 4.302653 * 0.005)
    assert METRIC_INFO["drift_final"].low == 0.0  # what is derived from a metric has its bounds


def test_baselines_and_values_without_end_have_no_interval() -> None:
    baseline = rows("copy-last-frame", "drift", 0.1, 0.2, 0.3, seeded=False)
    means = seed_means(table_of(*baseline, *rows("n=1", "psnr", 20.0, np.inf, 21.0, 22.0)))
    assert means["mean"].tolist() == pytest.approx([0.2, np.inf])
    assert means[["low", "high"]].isna().all(axis=None)
    assert pivot(table_of(*rows("n=1", "psnr", 20.0, np.inf, 21.0))).loc[0, "psnr"] == "inf"
    assert pivot(table_of(*rows("n=1", "action_lag", np.nan, 1.0, np.nan))).loc[0, "action_lag"] == "nan", "no lag is not lag 0"
    assert pivot(table_of(*rows("n=1", "psnr", 20.0, np.inf, 21.0)), words=True).loc[0, "psnr"] == "∞"
    assert pivot(table_of(*rows("n=1", "action_lag", np.nan, 1.0, np.nan)), words=True).loc[0, "action_lag"] == "no number"


def test_equal_values_of_all_seeds_have_no_interval() -> None:
    table = table_of(*rows("n=1", "mode_minority_share", 0.0, 0.0, 0.0), *rows("n=1", "nfe_per_frame", 3.0, 3.0, 3.0))
    assert pivot(table).loc[0].tolist() == ["Pong", "n=1", "0", "3"]
    assert seed_means(table_of(*rows("n=1", "drift", 0.1, 0.1, 0.1 + 1e-16)))[["low", "high"]].isna().all(axis=None)


def test_the_terminal_names_its_intervals(tiny_store: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_store, tmp_path / "outputs")
    done = in_this_process("results", "sampling_steps", "scale=tiny", cwd=tmp_path)
    assert "mean over seeds, and [its 95% interval, Student's t] from 3 seeds on" in done.stdout + done.stderr
    assert "±" not in done.stdout


def test_the_report_is_redrawn_only_when_results_change(store: Store) -> None:
    plan = load_plans(store.root)[0]
    files = write_report(plan, store, lambda text: None)
    assert {file.name for file in files} >= {"summary.csv", "drift-Breakout.png", "drift-Breakout.pdf", "trajectories-Breakout.png"}
    times = {file: file.stat().st_mtime_ns for file in files}
    write_report(plan, store, lambda text: None)
    assert {file: file.stat().st_mtime_ns for file in files} == times
    shutil.rmtree(store.folder(plan.points[0].jobs["evaluation"]))
    write_report(plan, store, lambda text: None)
    assert all(file.stat().st_mtime_ns != times[file] for file in files)
    table = pd.read_parquet(plan.folder / "results.parquet")
    assert set(table[table["metric"] == "drift"]["variant"]) == {"n=2", "n=3", "n=5", "n=10", "copy-last-frame", "unrelated-frames"}


def test_the_same_sweep_again_runs_no_job(store: Store) -> None:
    before = {ref: state.attempt for ref, state in store.states().items()}
    done = in_this_process("sweep", "sampling_steps", "scale=tiny", cwd=store.root.parent)
    assert {ref: state.attempt for ref, state in store.states().items()} == before
    assert "n=10" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep", "sampling_stps"], ["sampling_stps", "sampling_steps"]),
        (["sweep", "sampling_steps", "scale=tiny", "games=[Brekout]"], ["Brekout", "Breakout"]),
        (["sweep", "sampling_steps", "scale=tiny", "sampler.num_steps=0"], ["sampler.num_steps=0"]),
        (["sweep", "sampling_steps", "scale=tiny", "data.dataset=/nowhere"], ["/nowhere"]),
        (["sweep", "sampling_steps", "scale=tiny", "execution.device=cuda:9"], ["cuda"]),
        (["sweep", "sampling_steps", "scale=tiny", "output_dir=/proc/none"], ["/proc/none", "output_dir="]),
        (["swep"], ["swep"]),
        (["sweep"], ["STUDY"]),
        (
            ["results", "sampling_steps", "output_dir=empty"],
            ["has not been swept", "diamond-bench sweep sampling_steps scale=smoke output_dir=empty\n"],
        ),
        (["open", "sampling_steps", "sampler.num_steps=1"], ["diamond-bench sweep sampling_steps sampler.num_steps=1 scale=smoke\n"]),
        (["results", "sampling_steps", "scale=small"], ["no results yet", "diamond-bench sweep sampling_steps scale=small\n"]),
        (["status", "output_dir=empty"], ["no study has been swept"]),
        (["show", "zzzz", "output_dir=empty"], ["zzzz"]),
        (["report", "sampling_steps", "scale=tiny", "output_dir=empty"], ["no finished evaluation"]),
        (["merge", "nowhere"], ["nowhere", "no store"]),
        (["weights", "fetch", "lpps"], ["lpps", "lpips"]),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2_and_creates_nothing(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    done = in_this_process(*arguments, cwd=tmp_path, exit_code=2)
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_results_as_csv_and_json(tiny_store: Path, tmp_path: Path) -> None:
    here = [f"output_dir={tiny_store}"]
    in_this_process("results", "sampling_steps", *here, "--csv", "all.csv", cwd=tmp_path)
    table = pd.read_csv(tmp_path / "all.csv")
    shown = json.loads(in_this_process("results", "sampling_steps", *here, "--json", cwd=tmp_path).stdout)
    assert len(shown) == len(table)
    in_this_process("results", "sampling_steps", *here, "--csv", "no/such/folder.csv", cwd=tmp_path, exit_code=2)
    in_this_process("results", "sampling_steps", *here, "--csv", "all.csv", cwd=tmp_path)  # the same table again
    (tmp_path / "mine.yaml").write_text("question: mine?")
    done = in_this_process("results", "sampling_steps", *here, "--csv", "mine.yaml", cwd=tmp_path, exit_code=2)
    assert "mine.yaml: there is another file of this name" in done.stderr
    assert (tmp_path / "mine.yaml").read_text() == "question: mine?"


def test_results_name_the_damaged_jobs_that_they_lack(tiny_store: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_store, tmp_path / "outputs")
    store = Store(tmp_path / "outputs")
    ref = load_plans(store.root)[0].points[0].jobs["evaluation"]
    file = store.folder(ref) / "result.json"
    file.write_text(file.read_text().replace('"value": 0.', '"value": 9.', 1))
    for options in ([], ["--json"], ["--csv", "table.csv"]):
        assert f"note: {ref} is left out: " in in_this_process("results", "sampling_steps", *options, cwd=tmp_path).stderr


def test_json_of_status_and_results_is_json(store: Store) -> None:
    plan = load_plans(store.root)[0]
    file = store.folder(plan.points[0].jobs["evaluation"]) / "result.json"
    content = json.loads(file.read_text())
    content["rows"][0]["value"] = "nan"
    file.write_text(json.dumps(sealed(content)))
    for command in (["results", "sampling_steps"], ["status"]):
        shown = in_this_process(*command, "--json", cwd=store.root.parent).stdout
        assert json.loads(shown, parse_constant=pytest.fail)


def test_show_and_diff(tiny_store: Path, tmp_path: Path) -> None:
    plan = load_plans(tiny_store)[0]
    one, other = (point.jobs["evaluation"] for point in plan.points[:2])
    shown = in_this_process("show", one.id[:8], f"output_dir={tiny_store}", cwd=tmp_path).stdout
    assert str(JobRef(*one)) in shown
    assert "one_step_psnr" in shown
    differs = in_this_process("diff", one.id, other.id, f"output_dir={tiny_store}", cwd=tmp_path).stdout
    assert "sampler.num_steps" in differs
    assert "sampler.schedule" not in differs


def test_a_flipped_bit_in_the_curves_is_reported_and_the_evaluation_repeated(store: Store) -> None:
    plan = load_plans(store.root)[0]
    ref = plan.points[0].jobs["evaluation"]
    content = bytearray((store.folder(ref) / "arrays.npz").read_bytes())
    place = content.index(b"drift.npy") + 200
    content[place] ^= 1
    (store.folder(ref) / "arrays.npz").write_bytes(content)
    shutil.rmtree(plan.folder / "report")
    with pytest.raises(UserError, match=r"arrays\.npz is damaged.*run the sweep again"):
        write_report(plan, store, lambda text: None)
    assert store.state(ref).status == "missing"


def test_axes_keep_their_types_in_the_stored_table(tiny_store: Path) -> None:
    plan = load_plans(tiny_store)[0]
    stored = pd.read_parquet(plan.folder / "results.parquet")
    assert stored["axis.n"].dropna().unique().tolist() == [1, 2, 3, 5, 10]
    assert stored[stored["seed"].isna()]["axis.n"].isna().all()

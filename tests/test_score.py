"""`diamond-bench score`: frames that another program imagined, on starts that this one published."""

import io
import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import imageio_ffmpeg
import numpy as np
import pytest
from command_line import ROOT, in_this_process
from test_evaluation import CONFIG, HORIZON, SETTINGS, numbers
from test_evaluation import data as data  # a fixture

from diamond_bench.config import DataConfig, ExecutionConfig, RunConfig
from diamond_bench.data.given_frames import digest_of, find_given, open_given
from diamond_bench.data.references import one_step_windows, reference_windows
from diamond_bench.data.static import EpisodeSet
from diamond_bench.errors import UserError
from diamond_bench.evaluation.given import Starts, content_digest, starts_of
from diamond_bench.jobs import evaluate_world_model as job
from diamond_bench.jobs.context import JobContext, Result
from diamond_bench.metrics import selectable
from diamond_bench.metrics.header import Play
from diamond_bench.spaces import ActionSpec
from diamond_bench.store.kinds import GivenFrames
from diamond_bench.stored.models import training_behind
from diamond_bench.studies.score import manifest_of, plan_prepare, plan_score

SHAPE = (5, HORIZON, 16, 16, 3)


# Both ends


def starts_in(heldout: EpisodeSet) -> dict[Play, Starts]:
    """The starts of the evaluation of test_evaluation.py, as the job finds them."""
    layout = job.load_info(Path()).content["heldout"]
    window, starts = (layout["reference_context"], layout["reference_horizon"]), layout["reference_starts"]
    every = reference_windows(heldout, len(starts), *window, seed=0, starts=starts)
    references = reference_windows(heldout, SETTINGS.num_trajectories, *window, seed=0, starts=starts)
    return starts_of(SETTINGS, references, one_step_windows(every, SETTINGS.num_one_step, 0), ActionSpec.discrete(4))


def true_frames(starts: Starts) -> np.ndarray:
    """The true frames in the order of a given file. Each sample is the same."""
    true = np.stack([starts.play(row).true[0].permute(0, 2, 3, 1).numpy() for row in range(starts.count)])
    return np.broadcast_to(true[:, None] if starts.samples else true, starts.shape())


def frozen_frames(starts: Starts) -> np.ndarray:
    plays = [starts.play(row) for row in range(starts.count)]
    last = np.stack([play.frames[0, play.context - 1].permute(1, 2, 0).numpy() for play in plays])
    return np.broadcast_to(last.reshape(len(last), *[1] * (len(starts.shape()) - 4), *last.shape[1:]), starts.shape())


def scored(folder: Path, starts: dict[Play, Starts], frames: Callable[[Starts], np.ndarray], kinds: tuple[Play, ...]) -> Result:
    """The evaluation of frames that a function makes from each of these kinds of starts."""
    folder.mkdir()
    for kind in kinds:
        np.save(folder / f"{kind}.npy", frames(starts[kind]))
    given = GivenFrames(digest_of(find_given(folder, starts)), content_digest(starts), kinds, str(folder))
    metrics = ("drift", "psnr", "ssim", *(["action_gain"] if "altered" in kinds else []))
    auto = ExecutionConfig(precision="auto")
    config = replace(CONFIG, evaluation=replace(SETTINGS, metrics=metrics), given=given, execution=auto)
    result = job.run(config, JobContext(folder, {"dataset": folder}))
    assert not [*(folder / "checkpoint").glob("precision-*")], "no world model runs, so nothing chooses its precision"
    return result


def test_true_frames_have_no_error(data: dict[str, EpisodeSet], tmp_path: Path) -> None:
    starts = starts_in(data["heldout"])
    found = numbers(scored(tmp_path / "true", starts, true_frames, tuple(starts)))
    assert found["drift", ""] == found["drift_final", ""] == found["drift_best_of_k", ""] == found["energy_score", ""] == 0
    assert found["psnr", ""] == found["one_step_psnr", ""] == np.inf
    assert found["ssim", ""] == pytest.approx(1)
    assert found["sharpness_ratio", ""] == pytest.approx(1)
    assert found["noise_excess", ""] == 0
    assert np.isnan(found["action_gain", ""]), "true frames do not respond to other actions"


def test_frozen_frames_have_the_numbers_of_copying(data: dict[str, EpisodeSet], tmp_path: Path) -> None:
    starts = starts_in(data["heldout"])
    found = numbers(scored(tmp_path / "frozen", starts, frozen_frames, tuple(starts)))
    copied = [metric for metric, baseline in found if baseline == "copy-last-frame"]
    assert {"drift", "psnr", "ssim", "one_step_psnr", "drift_final", "energy_score"} <= set(copied)
    for metric in copied:
        assert found[metric, ""] == found[metric, "copy-last-frame"], metric
    assert found["action_gain", ""] == 0


@pytest.mark.parametrize(
    "fault",
    [
        lambda true: true[:, ::-1],  # time runs backwards
        lambda true: np.roll(true, 1, axis=0),  # trajectories in another order
        lambda true: true[:, :, :, ::-1],  # mirrored
        lambda true: np.concatenate((true[:, :1], true[:, :-1]), axis=1),  # one frame late
    ],
)
def test_frames_in_another_order_are_caught(data: dict[str, EpisodeSet], tmp_path: Path, fault: Callable[[np.ndarray], np.ndarray]) -> None:
    starts = starts_in(data["heldout"])
    true = true_frames(starts["rollouts"])
    by_hand = np.abs(fault(true).astype(float) - true).mean() / 255
    found = numbers(scored(tmp_path / "wrong", starts, lambda of: fault(true_frames(of)), ("rollouts",)))
    assert found["drift", ""] == pytest.approx(by_hand)
    assert by_hand > 0.005


def test_kinds_of_play_that_are_missing_leave_their_metrics_out(data: dict[str, EpisodeSet], tmp_path: Path) -> None:
    starts = starts_in(data["heldout"])
    result = scored(tmp_path / "alone", starts, true_frames, ("rollouts",))
    found = {row.metric for row in result.rows}
    assert {"drift", "ssim", "sharpness_ratio"} <= found
    assert not {"one_step_psnr", "drift_best_of_k", "energy_score", "action_gain", "nfe_per_frame"} & found
    assert result.info["frames_given"]["plays"] == ["rollouts"]
    assert "work" not in result.info, "nothing was imagined"


def test_another_dataset_and_changed_frames_are_refused(data: dict[str, EpisodeSet], tmp_path: Path) -> None:
    starts = starts_in(data["heldout"])
    own = content_digest(starts)
    data["heldout"].frames[5] += 1
    other = content_digest(starts)
    data["heldout"].frames[5] -= 1
    assert other != own
    folder = tmp_path / "given"
    folder.mkdir()
    np.save(folder / "rollouts.npy", true_frames(starts["rollouts"]))
    right = GivenFrames(digest_of(find_given(folder, starts)), own, ("rollouts",), str(folder))
    wrong = {
        "other frames and actions": replace(right, starts=other),
        "has changed": replace(right, digest="0"),
        "not there any more": replace(right, folder=str(tmp_path / "moved")),
    }
    for reason, given in wrong.items():
        with pytest.raises(UserError, match=reason):
            job.run(replace(CONFIG, given=given), JobContext(folder, {"dataset": folder}))


# Folders


CONFIG_OF_STARTS = RunConfig(
    game="synthetic/opponent",
    data=DataConfig(num_train_frames=400, num_references=5, reference_context=3, reference_horizon=HORIZON),
    evaluation=replace(SETTINGS, metrics=("drift",)),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole answer to starts that were never written: frames and the manifest."""
    (tmp_path / "mine").mkdir()
    write_manifest(tmp_path / "mine", CONFIG_OF_STARTS)
    np.save(tmp_path / "mine" / "rollouts.npy", np.zeros(SHAPE, np.uint8))
    return tmp_path / "mine"


def write_manifest(folder: Path, config: RunConfig) -> None:
    content = manifest_of(config, "tiny", "0" * 64, ActionSpec.discrete(3), {"rollouts": SHAPE, "samples": (3, 2, 2, 16, 16, 3)})
    (folder / "manifest.json").write_text(json.dumps(content))


def archive(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def as_npz(folder: Path, content: bytes) -> None:
    (folder / "rollouts.npy").unlink()
    (folder / "rollouts.npz").write_bytes(content)


def as_hdf5(folder: Path, **arrays: Any) -> None:
    (folder / "rollouts.npy").unlink()
    with h5py.File(folder / "rollouts.hdf5", "w") as file:
        for name, value in arrays.items():
            file[name] = value


def as_link(folder: Path) -> None:
    shutil.move(folder / "rollouts.npy", folder.parent / "elsewhere.npy")
    (folder / "rollouts.npy").symlink_to(folder.parent / "elsewhere.npy")


def edited(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_text(file.read_text().replace('"num_trajectories": 5', '"num_trajectories": 4'))


def cut(folder: Path) -> None:
    file = folder / "rollouts.npy"
    file.write_bytes(file.read_bytes()[:-100])


def save(folder: Path, array: Any) -> None:
    np.save(folder / "rollouts.npy", array, allow_pickle=True)


ZEROS = np.zeros(SHAPE, np.uint8)
WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "floats": (lambda f: save(f, ZEROS.astype(np.float32)), "float32; expected uint8 from 0 to 255"),
    "colours first": (lambda f: save(f, np.moveaxis(ZEROS, -1, 2)), "colours come before height and width"),
    "one missing": (lambda f: save(f, ZEROS[:4]), "1 trajectory missing"),
    "one too many": (lambda f: save(f, np.zeros((6, *SHAPE[1:]), np.uint8)), "1 trajectory too many"),
    "a frame too few": (lambda f: save(f, ZEROS[:, :-1]), f"{HORIZON - 1} along the axis time, not {HORIZON}"),
    "four colours": (lambda f: save(f, np.zeros((*SHAPE[:-1], 4), np.uint8)), "4 along the axis colour, not 3"),
    "unknown format": (lambda f: (f / "rollouts.npy").rename(f / "rollouts.npy.gz"), r"rollouts\.npy\.gz is in none of the formats"),
    "time first": (lambda f: save(f, ZEROS.swapaxes(0, 1)), r"the order is \(trajectory"),
    "objects": (lambda f: save(f, np.array([{}], object)), "pickled Python objects, which are never loaded"),
    "a pickle": (lambda f: (f / "rollouts.npy").write_bytes(pickle.dumps(ZEROS)), "not an .npy file of frames"),
    "cut": (cut, "bytes of frames; expected"),
    "empty": (lambda f: (f / "rollouts.npy").write_bytes(b""), "not an .npy file"),
    "a folder": (lambda f: ((f / "rollouts.npy").unlink(), (f / "rollouts.npy").mkdir()), "expected a file rollouts.npy"),
    "a link": (as_link, "it is a link"),
    "other name": (lambda f: (f / "rollouts.npy").rename(f / "rolouts.npy"), r"did you mean rollouts\?"),
    "no frames": (lambda f: (f / "rollouts.npy").unlink(), "it has no frames: expected rollouts.npy"),
    "two": (lambda f: (f / "rollouts.npz").write_bytes(archive(frames=ZEROS)), "expected one of them"),
    "npz of others": (lambda f: as_npz(f, archive(video=ZEROS)), "no array 'frames', only video; rename it"),
    "npz of objects": (lambda f: as_npz(f, archive(frames=np.array([{}], object))), "never loaded"),
    "npz cut": (lambda f: as_npz(f, archive(frames=ZEROS)[:-50]), "not a whole .npz archive"),
    "npz damaged": (lambda f: as_npz(f, archive(frames=ZEROS).replace(b"\0" * 64, b"\1" * 64, 1)), "not a whole .npz archive"),
    "hdf5 of floats": (lambda f: as_hdf5(f, frames=ZEROS.astype(float)), "expected uint8"),
    "hdf5 link": (lambda f: as_hdf5(f, frames=h5py.ExternalLink("other.hdf5", "frames")), "no array 'frames' of its own"),
    "hdf5 damaged": (lambda f: (f / "rollouts.npy").rename(f / "rollouts.h5"), "not a readable HDF5 file"),
    "no videos": (lambda f: ((f / "rollouts.npy").unlink(), (f / "rollouts").mkdir()), "it holds 0 videos"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "copy that of the starts"),
    "edited": (edited, "edited by hand"),
    "not a manifest": (lambda f: (f / "manifest.json").write_text("[]"), "no manifest of"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_malformed_folder_is_refused(folder: Path, wrong: str) -> None:
    plan_score([folder], ["metrics=[drift]"])
    spoil, message = WRONG[wrong]
    spoil(folder)
    with pytest.raises(UserError, match=message):
        plan_score([folder], ["metrics=[drift]"])


def test_the_command_refuses_with_one_message_and_creates_nothing(folder: Path, tmp_path: Path) -> None:
    np.save(folder / "rollouts.npy", ZEROS[:4])
    done = in_this_process("score", str(folder), "output_dir=out", cwd=tmp_path, exit_code=2)
    assert done.stderr.count("\n") == 1
    assert "1 trajectory missing" in done.stderr
    assert not (tmp_path / "out").exists()
    existing = in_this_process("score", "--prepare", str(folder), "game=synthetic/opponent", cwd=tmp_path, exit_code=2)
    assert "exists already" in existing.stderr
    assert not (tmp_path / "outputs").exists()


def test_frames_of_other_starts_are_refused_with_what_differs(folder: Path, tmp_path: Path) -> None:
    (other := tmp_path / "other").mkdir()
    write_manifest(other, replace(CONFIG_OF_STARTS, evaluation=replace(CONFIG_OF_STARTS.evaluation, seed=3)))
    np.save(other / "rollouts.npy", ZEROS)
    for folders, starts in (([folder], other), ([folder, other], None)):
        with pytest.raises(UserError, match=r"other starts than .*evaluation\.seed is 0 in the one and 3 in the other"):
            plan_score(folders, [], starts)


def test_a_manifest_of_another_version_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later version whose datasets are other jobs."""
    from diamond_bench.store import kinds

    monkeypatch.setitem(kinds.KINDS, "collect_dataset", replace(kinds.KINDS["collect_dataset"], revision=99))
    with pytest.raises(UserError, match="prepare the starts again"):
        plan_score([folder], [])


def test_settings_of_the_starts_cannot_be_changed(folder: Path) -> None:
    with pytest.raises(UserError, match="expected a folder of imagined frames"):
        plan_score([folder / "rollouts.npy"], [])
    for token in ("evaluation.horizon=2", "scale=tiny", "data.seed=1"):
        with pytest.raises(UserError, match=re.escape(token.partition("=")[0]) + ": a score takes metrics="):
            plan_score([folder], [token])
    for token in ("metrics=[drift]", "sampler=euler", "evaluation.milestone=0.5"):
        with pytest.raises(UserError, match=r"score --prepare takes|does not affect the starts"):
            plan_prepare(folder, ["game=synthetic/opponent", "scale=tiny", token])


def test_every_metric_is_measured_or_has_a_reason(folder: Path) -> None:
    plan = plan_score([folder], [])
    (named,) = {spec.config.evaluation.metrics for spec in plan.jobs.values() if spec.kind == "evaluate_world_model"}
    said = [sentence.partition(" is not measured: ")[0] for sentence in plan.unmeasured]
    assert set(selectable()) <= {*named, *said}
    assert not set(named) & set(said)
    assert {"drift", "psnr", "ssim"} <= set(named)
    reasons = dict(sentence.split(" is not measured: ", 1) for sentence in plan.unmeasured)
    assert not [reason for reason in reasons.values() if "metrics: " in reason]
    assert reasons["kvd"].startswith(f"the starts have evaluation.horizon={HORIZON}, and KVD needs clips of 16 frames")
    assert reasons["proper_scores"] == "the folder holds no samples.npy."
    assert reasons["modes"] == "it needs samples of next frames whose distribution is known, which a folder of frames cannot hold."
    with pytest.raises(UserError, match=r"action_gain cannot be measured: the folder holds no altered\.npy"):
        plan_score([folder], ["metrics=[action_gain]"])


def test_every_format_is_read_alike(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 16, 16, 3), np.uint8)  # K = 3 samples
    np.save(tmp_path / "a.npy", frames)
    np.save(tmp_path / "b.npy", np.asfortranarray(frames))
    (tmp_path / "c.npz").write_bytes(archive(frames=frames, more=1))
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_dataset("frames", data=frames, compression="gzip")
    (tmp_path / "e").mkdir()
    for number, video in enumerate(frames.reshape(-1, *frames.shape[2:])):
        file = tmp_path / "e" / f"v_{number}.mkv"
        writer = imageio_ffmpeg.write_frames(file, (16, 16), codec="ffv1", pix_fmt_out="gbrp", macro_block_size=1)
        writer.send(None)
        for frame in video:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
    for path in find_given(tmp_path, "abcde").values():
        reader = open_given(path, frames.shape)
        assert np.array_equal(reader(range(2)), frames), path
        assert np.array_equal(reader(range(1, 2)), frames[1:]), path
    for shape, reason in (
        ((2, 3, 5, 16, 16, 3), "4 frames; expected 5"),
        ((2, 3, 3, 16, 16, 3), "more than 3 frames"),
        ((2, 3, 4, 8, 16, 3), "16 x 16"),
    ):
        with pytest.raises(UserError, match=reason):
            open_given(tmp_path / "e", shape)(range(1))


# From the command line


@pytest.mark.usefixtures("unrendered")
def test_an_independent_script_answers_and_is_scored(tmp_path: Path) -> None:
    """The script of docs/score.md, which knows NumPy alone."""
    small = ("scale=tiny", "data.num_train_frames=100", "evaluation.num_one_step=2")
    in_this_process("score", "--prepare", "starts", "game=synthetic/opponent", *small, cwd=tmp_path)
    assert not [name for name in np.load(tmp_path / "starts/starts/rollouts.npz") if name not in ("context", "actions")]
    scripts = [
        re.findall(r"```(?:py|python)\n(.*?)```", page.read_text(), re.DOTALL)
        for page in (tmp_path / "starts/README.md", ROOT / "docs/score.md")
    ]
    assert scripts[0][0] == scripts[1][0]
    assert set(re.findall(r"^import (\w+)", scripts[0][0], re.MULTILINE)) == {"json", "numpy"}
    subprocess.run([sys.executable, "-I", "-c", scripts[0][0]], cwd=tmp_path / "starts", check=True)
    done = in_this_process("score", "starts", "--starts", "starts", "metrics=[drift,action_gain]", "--json", cwd=tmp_path)
    rows = {(row["metric"], row["variant"]): row["value"] for row in json.loads(done.stdout)}
    assert rows["drift", "starts"] == rows["drift", "copy-last-frame"] > 0
    assert rows["one_step_psnr", "starts"] == rows["one_step_psnr", "copy-last-frame"]
    assert rows["action_gain", "starts"] == 0
    assert list((tmp_path / "outputs").glob("studies/score-*/*/report/index.html"))
    from diamond_bench.store.artifacts import Store

    store = Store(tmp_path / "outputs")
    (evaluation,) = [ref for ref in store.refs() if ref.kind == "evaluate_world_model"]
    with pytest.raises(UserError, match="frames that were given"):
        training_behind(store, evaluation)

"""Somebody's Minari dataset becomes the same artifact, or is refused in one message."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage
from minari.serialization import serialize_space

from diamond_bench.config import DataConfig, EnvConfig
from diamond_bench.data.foreign import dataset_digest
from diamond_bench.data.references import count_leaks, reference_windows
from diamond_bench.data.static import load_info, load_split
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import Interrupted, JobContext
from diamond_bench.jobs.import_dataset import run
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.store.kinds import KINDS, ImportDataset

LENGTHS = (30, 45, 12, 60, 33, 21)


def foreign(
    folder: Path,
    shape: tuple[int, ...] = (48, 40, 3),
    lengths: tuple[int, ...] = LENGTHS,
    action_space: spaces.Space[Any] | None = None,
    observation_space: spaces.Space[Any] | None = None,
    change: Any = None,
    data_format: str = "hdf5",
    jpeg: bool = False,
) -> Path:
    """A dataset written by Minari itself, lossless; episode i is drawn from seed i. Returns its folder."""
    storage = MinariStorage.new(
        data_path=_built(folder / "data"),
        observation_space=observation_space or spaces.Box(0, 255, shape, np.uint8),
        action_space=action_space or spaces.Discrete(5, start=2),
        data_format=data_format,
        jpeg_encoding=jpeg,
    )
    episodes = []
    for i, steps in enumerate(lengths):
        rng = np.random.default_rng(i)
        episode: dict[str, Any] = {
            "observations": list(rng.integers(0, 256, (steps + 1, *shape), dtype=np.uint8)),
            "actions": list(rng.integers(2, 7, steps)),
            "rewards": list(rng.normal(size=steps)),
            "terminations": [False] * (steps - 1) + [i % 2 == 0],
            "truncations": [False] * (steps - 1) + [i % 2 == 1],
        }
        if change is not None:
            change(i, episode)
        episodes.append(EpisodeBuffer(id=None, seed=None, **episode))
    storage.update_episodes(episodes)
    return folder


def _built(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder


def config(source: Path, **data: Any) -> ImportDataset:
    defaults = {"num_train_frames": 90, "num_references": 5, "reference_context": 4, "reference_horizon": 11, "seed": 3}
    digest = dataset_digest(source / "data", source / "cache")
    return ImportDataset(digest, EnvConfig(frame_size=16), DataConfig(dataset=str(source), **{**defaults, **data}))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("shape", [(48, 40, 3), (3, 48, 40), (48, 40), (48, 40, 1), (1, 48, 40), (16, 16, 3)])
def test_images_of_every_layout_become_square_rgb(tmp_path: Path, shape: tuple[int, ...]) -> None:
    source = foreign(tmp_path / "source", shape)
    (tmp_path / "job").mkdir()
    run(config(source), JobContext(tmp_path / "job"))
    train, heldout = load_split(tmp_path / "job", "train"), load_split(tmp_path / "job", "heldout")
    assert train.frames.shape == (90, 3, 16, 16)
    order = np.random.default_rng(3).permutation(6).tolist()
    assert heldout.lengths.tolist() == [LENGTHS[i] + 1 for i in order[: len(heldout)]]
    for part, indices in ((heldout, order), (train, order[len(heldout) :])):
        for k in range(len(part)):
            rng = np.random.default_rng(indices[k])
            steps = LENGTHS[indices[k]]
            frames = rng.integers(0, 256, (steps + 1, *shape), dtype=np.uint8)
            actions, start, rows = rng.integers(2, 7, steps), int(part.starts[k]), int(part.lengths[k])
            np.testing.assert_array_equal(part.actions[start : start + rows - 1], actions[: rows - 1] - 2)
            for t in (0, rows - 1):
                picture = frames[t].transpose(1, 2, 0) if shape[0] in (1, 3) else frames[t]
                expected = cv2.resize(np.ascontiguousarray(picture), (16, 16), interpolation=cv2.INTER_AREA)
                rgb = np.broadcast_to(expected.reshape(16, 16, -1), (16, 16, 3)).transpose(2, 0, 1)
                np.testing.assert_array_equal(part.frames[start + t], rgb)
    assert bool(train.truncations[-2]), "the last training episode is cut"
    info = load_info(tmp_path / "job")
    assert info.spec.actions == ActionSpec.discrete(5)
    assert count_leaks(train, reference_windows(heldout, 5, 4, 11, seed=0, train=train)) == 0


def test_interrupted_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    source = foreign(tmp_path / "source")
    folders = [tmp_path / "straight", tmp_path / "resumed"]
    for folder in folders:
        folder.mkdir()
    run(config(source), JobContext(folders[0]))
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        run(config(source), JobContext(folders[1], should_stop=lambda: next(calls) >= 3))
    assert len(list((folders[1] / "partial").glob("*.h5"))) == 3
    run(config(source), JobContext(folders[1]))
    read = [{p.relative_to(f).as_posix(): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders]
    assert read[0] == read[1]


def test_references_from_several_episodes(tmp_path: Path) -> None:
    source = foreign(tmp_path / "source")
    (tmp_path / "job").mkdir()
    result = run(config(source, num_references=3, windows_per_episode=1, reference_horizon=7), JobContext(tmp_path / "job"))
    heldout = load_split(tmp_path / "job", "heldout")
    windows = reference_windows(heldout, 3, 4, 7, seed=0, starts=result.info["heldout"]["reference_starts"])
    assert sorted(windows.episode_numbers().tolist()) == [0, 1, 2]


def repeat(i: int, episode: dict[str, Any]) -> None:
    if i == 4:
        rng = np.random.default_rng(1)
        episode["observations"] = list(rng.integers(0, 256, (46, 48, 40, 3), dtype=np.uint8))
        episode["actions"] = list(rng.integers(2, 7, 45))
        episode.update(rewards=[0.0] * 45, terminations=[False] * 45, truncations=[False] * 44 + [True])


def contained(i: int, episode: dict[str, Any]) -> None:
    if i in (0, 5):  # episode 5 is the end of episode 0
        rng = np.random.default_rng(100)
        frames, actions = rng.integers(0, 256, (31, 48, 40, 3), dtype=np.uint8), rng.integers(2, 7, 30)
        skipped = 0 if i == 0 else 9
        episode["observations"], episode["actions"] = list(frames[skipped:]), list(actions[skipped:])


def goes_on(i: int, episode: dict[str, Any]) -> None:
    episode["terminations"][5] = True


def outside(i: int, episode: dict[str, Any]) -> None:
    episode["actions"][0] = 7


def one_short(i: int, episode: dict[str, Any]) -> None:
    episode["observations"].pop()


@pytest.mark.parametrize(
    ("space", "spec"),
    [
        (spaces.MultiDiscrete([3, 5], start=[0, 2]), ActionSpec.columns((3, 5))),
        (spaces.Box(np.array([-1, 0.1]), np.array([1, 0.3]), dtype=np.float64), ActionSpec.continuous((-1.0, 0.1), (1.0, 0.3))),
    ],
    ids=["MultiDiscrete", "Box"],
)
def test_other_actions_are_imported_from_zero_and_checked(tmp_path: Path, space: spaces.Space[Any], spec: ActionSpec) -> None:
    played: dict[int, Any] = {}

    def sampled(i: int, episode: dict[str, Any]) -> None:
        space.seed(i)
        episode["actions"] = played[i] = [space.sample() for _ in episode["actions"]]

    source = foreign(tmp_path / "source", action_space=space, change=sampled)
    (tmp_path / "job").mkdir()
    run(config(source), JobContext(tmp_path / "job"))
    assert load_info(tmp_path / "job").spec == WorldSpec(FrameSpec(16, 16), spec)
    heldout, first = load_split(tmp_path / "job", "heldout"), getattr(space, "start", np.zeros(2))
    number = int(np.random.default_rng(3).permutation(6)[0])
    expected = (np.stack(played[number]) - first).astype(spec.dtype)
    np.testing.assert_array_equal(heldout.actions[: len(expected)], expected)

    def beyond(i: int, episode: dict[str, Any]) -> None:
        sampled(i, episode)
        episode["actions"][4] = episode["actions"][4] + np.array([0, 3]).astype(episode["actions"][4].dtype)

    source = foreign(tmp_path / "beyond", action_space=space, change=beyond)
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"episode 0: its actions are .* at step 4; outside its action space, "):
        run(config(source), JobContext(tmp_path / "other"))


@pytest.mark.parametrize(
    ("built", "message"),
    [
        ({"change": repeat}, "episode 1 and episode 4 are the same"),
        ({"change": goes_on}, "episode 0 goes on after its end at step 5"),
        ({"change": outside}, "episode 0: its actions are int64 .30,., such as 7 at step 0; outside its action space, 2 to 6"),
        ({"change": one_short}, "30 observations and 30 rewards for 30 actions; expected one observation more"),
        ({"action_space": spaces.MultiBinary(3)}, "actions are MultiBinary; Discrete, MultiDiscrete, Box can be imported"),
        ({"observation_space": spaces.Box(0, 1, (4,), np.float32)}, "expected uint8 images"),
        ({"shape": (48, 40, 4)}, "expected uint8 images"),
        ({"lengths": (100,)}, "1 episodes hold 0 usable held-out windows"),
        (
            {"lengths": (14, 15, 16, 17)},
            "hold 3 usable held-out windows of 15 frames, with at least one episode left to train on, but 5 are",
        ),
    ],
)
def test_what_cannot_be_imported_is_refused(tmp_path: Path, built: dict[str, Any], message: str) -> None:
    source = foreign(tmp_path / "source", **built)
    (tmp_path / "job").mkdir()
    with pytest.raises(UserError, match=message):
        run(config(source), JobContext(tmp_path / "job"))
    assert not list((tmp_path / "job").iterdir())


def stored(name: str, make: Callable[[Any], Any]) -> Callable[[h5py.File], None]:
    """An edit that puts make(values) in place of an array of episode 2."""

    def edit(file: h5py.File) -> None:
        values = file[f"episode_2/{name}"][()]
        del file[f"episode_2/{name}"]
        file[f"episode_2/{name}"] = make(values)

    return edit


def at_step_3(value: Any) -> Callable[[Any], Any]:
    def make(values: Any) -> Any:
        values = values.astype(type(value))
        values[3] = value
        return values

    return make


def linked(file: h5py.File) -> None:
    del file["episode_2/actions"]
    file["episode_2/actions"] = h5py.ExternalLink("/etc/hostname", "actions")


def outside_the_file(file: h5py.File) -> None:
    del file["episode_2/rewards"]
    file["episode_2"].create_dataset("rewards", (12,), "f8", external=[("/etc/hostname", 0, 96)])


def huge(file: h5py.File) -> None:
    del file["episode_2/observations"]
    file["episode_2"].create_dataset("observations", (10**7, 48, 40, 3), "u1", chunks=(1, 48, 40, 3))


def swapped_out(file: h5py.File) -> None:
    file["other"] = file["episode_2"]
    del file["episode_2"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (stored("observations", lambda v: v / 255), "its observations are float64 (48, 40, 3), but metadata.json says uint8 (48, 40, 3)"),
        (stored("observations", lambda v: np.full(v.shape, np.nan, np.float32)), "its observations are float32 (48, 40, 3), but metadata"),
        (stored("observations", lambda v: v[:, :24]), "its observations are uint8 (24, 40, 3), but metadata.json says uint8 (48, 40, 3)"),
        (stored("observations", lambda _: 7), "its observations are no array"),
        (stored("actions", at_step_3(2.5)), "its actions are float64 (12,), such as "),
        (stored("actions", at_step_3(2**40)), "such as 1099511627776 at step 3; outside its action space, 2 to 6"),
        (stored("rewards", at_step_3(np.nan)), "its rewards are float64 (12,), such as nan at step 3; expected finite numbers"),
        (stored("rewards", at_step_3(-np.inf)), "such as -inf at step 3; expected finite numbers"),
        (stored("rewards", at_step_3(1e200)), "such as 1e+200 at step 3; expected finite numbers"),
        (stored("rewards", at_step_3(1j)), "its rewards are complex128 (12,), such as "),
        (stored("rewards", lambda v: np.stack([v, v], axis=1)), "its rewards are float64 (12, 2), such as "),
        (stored("terminations", at_step_3(0.5)), "its terminations are float64 (12,), such as "),
        (stored("truncations", at_step_3(2)), "such as 2 at step 3; expected true or false"),
        (linked, "its array 'actions' lies outside of main_data.hdf5"),
        (outside_the_file, "its array 'rewards' lies outside of main_data.hdf5"),
        (huge, "is too large"),
        (swapped_out, "is missing"),
    ],
)
def test_data_that_is_not_what_the_metadata_says_is_refused(tmp_path: Path, edit: Callable[[h5py.File], None], message: str) -> None:
    source = foreign(tmp_path / "source")
    with h5py.File(source / "data" / "main_data.hdf5", "r+") as file:
        edit(file)
    (tmp_path / "job").mkdir()
    with pytest.raises(UserError) as error:
        run(config(source), JobContext(tmp_path / "job"))
    assert "episode 2" in str(error.value)
    assert message in str(error.value)
    assert not list((tmp_path / "job").iterdir())


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"total_episodes": 5}, "it holds 6 episodes, but metadata.json says 5"),
        ({"total_steps": 200}, "its episodes have 201 steps, but metadata.json says 200"),
    ],
)
def test_counts_that_are_not_those_of_the_data_are_refused(tmp_path: Path, claims: dict[str, int], message: str) -> None:
    source = foreign(tmp_path / "source")
    file = source / "data" / "metadata.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **claims}))
    (tmp_path / "job").mkdir()
    with pytest.raises(UserError, match=message):
        run(config(source), JobContext(tmp_path / "job"))
    assert not list((tmp_path / "job").iterdir())


@pytest.mark.parametrize(("data_format", "jpeg"), [("arrow", False), ("arrow", True), ("hdf5", True)])
def test_every_format_of_minari_is_read_and_checked(tmp_path: Path, data_format: str, jpeg: bool) -> None:
    source = foreign(tmp_path / "source", data_format=data_format, jpeg=jpeg)
    jobs = [tmp_path / "job", tmp_path / "refused"]
    for job in jobs:
        job.mkdir()
    run(config(source), JobContext(jobs[0]))
    assert load_split(jobs[0], "train").frames.shape == (90, 3, 16, 16)
    file = source / "data" / "metadata.json"
    smaller = serialize_space(spaces.Box(0, 255, (40, 40, 3), np.uint8))
    file.write_text(json.dumps({**json.loads(file.read_text()), "observation_space": smaller}))
    with pytest.raises(UserError, match="episode 0"):
        run(config(source), JobContext(jobs[1]))
    assert not list(jobs[1].iterdir())


def as_floats(_: int, episode: dict[str, Any]) -> None:
    episode["observations"] = [frame.astype(np.float32) for frame in episode["observations"]]


def test_floats_in_an_arrow_file_are_refused(tmp_path: Path) -> None:
    box = spaces.Box(0, 255, (48, 40, 3), np.float32)
    source = foreign(tmp_path / "source", observation_space=box, data_format="arrow", change=as_floats)
    file = source / "data" / "metadata.json"
    file.write_text(file.read_text().replace("float32", "uint8"))
    (tmp_path / "job").mkdir()
    with pytest.raises(UserError, match=r"episode 0: its observations are float32 \(48, 40, 3\), but metadata\.json says uint8"):
        run(config(source), JobContext(tmp_path / "job"))
    assert not list((tmp_path / "job").iterdir())


def grey_video(i: int, steps: int) -> Any:
    return np.random.default_rng(i).integers(0, 256, (steps + 1, 16, 16), dtype=np.uint8)


def stacks(order: int, channel: int) -> Callable[[int, dict[str, Any]], None]:
    """Three grey frames one on the other, the first repeated at an episode's beginning, as gymnasium's FrameStack has them."""

    def change(i: int, episode: dict[str, Any]) -> None:
        video = grey_video(i, LENGTHS[i])
        rows = np.maximum(np.arange(len(video))[:, None] + np.arange(-2, 1)[::order], 0)
        episode["observations"] = list(np.moveaxis(video[rows], 1, channel))

    return change


def alone(i: int, episode: dict[str, Any]) -> None:
    episode["observations"] = list(grey_video(i, LENGTHS[i]))


@pytest.mark.parametrize(("order", "channel"), [(1, 3), (-1, 3), (1, 1)], ids=["oldest first", "newest first", "channels first"])
def test_stacked_grey_frames_are_refused_or_the_newest_is_taken(tmp_path: Path, order: int, channel: int) -> None:
    shape = (16, 16, 3) if channel == 3 else (3, 16, 16)
    sources = foreign(tmp_path / "stacked", shape, change=stacks(order, channel)), foreign(tmp_path / "grey", (16, 16), change=alone)
    jobs = [tmp_path / "refused", tmp_path / "newest", tmp_path / "alone"]
    for job in jobs:
        job.mkdir()
    with pytest.raises(UserError, match=r"episode 0: its channels are three stacked grey frames.*data\.stacked_frames=newest"):
        run(config(sources[0]), JobContext(jobs[0]))
    run(config(sources[0], stacked_frames="newest"), JobContext(jobs[1]))
    run(config(sources[1]), JobContext(jobs[2]))
    for split in ("train", "heldout"):
        newest, expected = (load_split(job, split) for job in jobs[1:])  # type: ignore[arg-type]
        assert np.array_equal(newest.frames, expected.frames)


def still(i: int, episode: dict[str, Any]) -> None:
    episode["observations"] = [np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)] * (LENGTHS[i] + 1)


def grey_as_rgb(i: int, episode: dict[str, Any]) -> None:
    episode["observations"] = [np.broadcast_to(frame[..., None], (16, 16, 3)) for frame in grey_video(i, LENGTHS[i])]


def still_and_grey(i: int, episode: dict[str, Any]) -> None:
    episode["observations"] = [np.full((16, 16, 3), i, np.uint8)] * (LENGTHS[i] + 1)


@pytest.mark.parametrize("change", [still, grey_as_rgb, still_and_grey])
def test_colours_and_grey_pictures_do_not_pass_for_stacks(tmp_path: Path, change: Any) -> None:
    source = foreign(tmp_path / "source", (16, 16, 3), change=change)
    (tmp_path / "job").mkdir()
    run(config(source), JobContext(tmp_path / "job"))
    if change is not still_and_grey:
        (tmp_path / "other").mkdir()
        with pytest.raises(UserError, match=r"episode 0 is not three stacked grey frames"):
            run(config(source, stacked_frames="newest"), JobContext(tmp_path / "other"))


@pytest.mark.parametrize(("seed", "refused"), [(0, True), (1, False)])
def test_a_part_of_another_episode_is_never_held_out_from_it(tmp_path: Path, seed: int, refused: bool) -> None:
    source = foreign(tmp_path / "source", change=contained, lengths=(30, 45, 12, 60, 33, 21))
    (tmp_path / "job").mkdir()
    planned = config(source, seed=seed, num_train_frames=1000)
    if refused:
        with pytest.raises(UserError, match="episode_00005 of the dataset occurs as a part of another episode"):
            run(planned, JobContext(tmp_path / "job"))
        return
    run(planned, JobContext(tmp_path / "job"))
    train, heldout = load_split(tmp_path / "job", "train"), load_split(tmp_path / "job", "heldout")
    assert count_leaks(train, reference_windows(heldout, 5, 4, 11, seed=0, train=train)) == 0


def test_datasets_that_were_imported_without_the_checks_are_imported_again() -> None:
    assert KINDS["import_dataset"].revision == 2


def test_damage_and_change_are_refused(tmp_path: Path) -> None:
    source = foreign(tmp_path / "source")
    planned = config(source)
    file = source / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:5000])
    (tmp_path / "job").mkdir()
    with pytest.raises(UserError, match="has changed since"):
        run(planned, JobContext(tmp_path / "job"))
    with pytest.raises(UserError, match="cannot be read"):
        run(config(source), JobContext(tmp_path / "job"))

"""The metric action_accuracy: its values on models that obey, ignore or delay their actions, and the job that trains its network."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_action_sensitivity import Quarters, play, quarters
from test_evaluation import CONFIG, CONTEXT, SETTINGS, STARTS, Predictor, data, numbers  # noqa: F401

from diamond_bench.config import DataConfig, EnvConfig, InverseDynamicsConfig
from diamond_bench.data.static import EpisodeSet
from diamond_bench.diffusion.quantization import quantize, to_bytes
from diamond_bench.errors import UserError
from diamond_bench.jobs import collect_dataset, evaluate_world_model, loaded_world, train_inverse_dynamics
from diamond_bench.jobs.action_effects import Effects, action_effects
from diamond_bench.jobs.context import Interrupted, JobContext, Result
from diamond_bench.metrics.action_reader import ActionReader, accuracy_rows, load_reader, save_reader
from diamond_bench.models.inverse_dynamics import ActionCode, InverseDynamics
from diamond_bench.models.inverse_dynamics_cost import inverse_dynamics_cost
from diamond_bench.spaces import ActionSpec, FrameSpec
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobSpec
from diamond_bench.store.kinds import CollectDataset, TrainInverseDynamics
from diamond_bench.worlds.contract import Draw

ACCURATE = replace(CONFIG, evaluation=replace(SETTINGS, metrics=("drift", "action_accuracy")))
CODE = ActionCode(ActionSpec.discrete(4), (0, 1, 2, 3))


class Played(Quarters):
    """Imagines the quarter of the action `late` steps before the last one."""

    def predict(self, past: torch.Tensor, actions: torch.Tensor, draw: Draw) -> torch.Tensor:
        return quantize(quarters(actions[:, -1 - self.late]), "round")


class PerfectReader(InverseDynamics):
    """Reads the lit quarter of the second frame, and without it that of the first."""

    width = 4

    def forward(self, before: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return after[:, 0, ::4, 0][:, : self.width], before[:, 0, ::4, 0][:, : self.width]


class Game:
    """In place of the emulator: each frame shows the quarter of its action, and the game ends after `frames` frames."""

    def __init__(self, frames: int = 4) -> None:
        self.frames = frames
        self.taken: dict[tuple[int, int], list[int]] = {}

    def played(self, place: tuple[int, int], actions: Iterable[Any], seed: Any) -> Iterator[tuple[np.ndarray, float, bool]]:
        self.taken[place] = [int(action) for action in actions]
        for action in self.taken[place][: self.frames]:
            yield to_bytes(quarters(torch.tensor([action])))[0].numpy(), 0.0, False


def measured(folder: Path, world: Predictor, monkeypatch: pytest.MonkeyPatch, code: ActionCode = CODE, game: Game | None = None) -> Result:
    network = PerfectReader(1, FrameSpec(16, 16), 4)
    network.width = code.width
    save_reader(ActionReader(network, code), 1, FrameSpec(16, 16), folder)
    monkeypatch.setattr("diamond_bench.metrics.action_reader.load_reader", lambda *_: ActionReader(network, code))
    monkeypatch.setattr(loaded_world, "load_world_model", lambda *_: world)
    monkeypatch.setattr(evaluate_world_model, "playable", lambda *_: game)
    inputs = dict.fromkeys(("dataset", "world_model", "inverse_dynamics"), folder)
    return evaluate_world_model.run(ACCURATE, JobContext(folder, inputs))


def test_a_model_that_obeys_is_read_perfectly(
    data: dict[str, EpisodeSet],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    play(data)
    found = numbers(measured(tmp_path, Played(), monkeypatch))
    arrays = np.load(tmp_path / "arrays.npz")
    imposed, before = arrays["altered_action_imposed"][..., 0], arrays["altered_action_first"][..., 0]
    assert found["action_accuracy", ""] == 1.0
    assert found["action_accuracy_gain", ""] == pytest.approx(1 - (imposed == before).mean())
    assert found["action_accuracy_lag_1", ""] == pytest.approx((imposed[:, 1:] == imposed[:, :-1]).mean())
    assert np.array_equal(arrays["altered_action_confusion"].sum(axis=0), np.diag(np.bincount(imposed.astype(int).ravel(), minlength=4)))


def test_copying_and_withheld_actions_are_at_the_floor(
    data: dict[str, EpisodeSet],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both show the action of the last real step, which the imposed actions match by chance alone."""
    play(data)
    found = numbers(measured(tmp_path, Predictor(), monkeypatch))
    arrays = np.load(tmp_path / "arrays.npz")
    assert all((row == row[0]).all() for row in arrays["altered_action_copied"])
    chance = (arrays["altered_action_imposed"] == arrays["altered_action_copied"]).mean()
    assert found["action_accuracy", ""] == found["action_accuracy", "copy-last-frame"] == pytest.approx(chance)
    assert found["action_accuracy_gain", ""] == 0.0
    assert chance < 0.6


def test_a_model_without_actions_is_right_as_often_as_its_only_answer_is_imposed(
    data: dict[str, EpisodeSet],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    play(data)

    class Deaf(Played):
        def predict(self, past: torch.Tensor, actions: torch.Tensor, draw: Draw) -> torch.Tensor:
            return super().predict(past, torch.full_like(actions, 2), draw)

    found = numbers(measured(tmp_path, Deaf(), monkeypatch))
    counts = np.load(tmp_path / "arrays.npz")["altered_action_confusion"].sum(axis=0)  # imposed x read
    assert counts[:, [0, 1, 3]].sum() == 0
    assert found["action_accuracy", ""] == pytest.approx(counts[2, 2] / counts.sum())
    assert counts.sum() == 5 * 4
    assert found["action_accuracy", ""] < 0.6


@pytest.mark.parametrize("frames", [4, 2])
def test_the_ceiling_is_the_game_from_the_same_states_under_the_same_actions(
    frames: int,
    data: dict[str, EpisodeSet],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model that copies is at the floor, and the game at 1. Frames after the game's end do not count."""
    play(data)
    game = Game(frames)
    found = numbers(measured(tmp_path, Predictor(), monkeypatch, game=game))
    arrays = np.load(tmp_path / "arrays.npz")
    assert found["action_accuracy", "emulator"] == 1.0
    assert found["action_accuracy", ""] < 0.6
    order = np.random.default_rng(SETTINGS.seed).permutation(len(STARTS))[: SETTINGS.num_trajectories]
    last = [STARTS[i] + CONTEXT - 1 for i in order]
    imposed = arrays["altered_action_imposed"][..., 0]
    assert game.taken == {(row // 20, row % 20): [int(action) for action in taken] for row, taken in zip(last, imposed, strict=True)}
    shown = data["heldout"].actions[[row - 1 for row in last]].numpy()  # by the last real frame, after which the first action is taken
    before = np.concatenate([shown[:, None], imposed[:, :-1]], axis=1)[:, :frames]
    assert found["action_accuracy_gain", "emulator"] == pytest.approx(1 - (before == imposed[:, :frames]).mean())


def test_a_model_that_obeys_one_step_late_is_found(
    data: dict[str, EpisodeSet],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    play(data)
    found = numbers(measured(tmp_path, Played(late=1), monkeypatch))
    imposed = np.load(tmp_path / "arrays.npz")["altered_action_imposed"][..., 0]
    late = np.load(tmp_path / "arrays.npz")["altered_action_read"][..., 0]
    assert (late[:, 1:] == imposed[:, :-1]).all()
    assert found["action_accuracy_lag_1", ""] == 1.0
    assert found["action_accuracy", ""] == pytest.approx((imposed == late).mean())
    assert found["action_accuracy", ""] < 0.6


def test_actions_with_one_effect_are_one_class(
    data: dict[str, EpisodeSet],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model that confuses the actions 2 and 3 makes no mistake if they have the same effect."""
    play(data)
    code = ActionCode(ActionSpec.discrete(4, ("NOOP", "FIRE", "UP", "UPFIRE")), (0, 1, 2, 2))
    assert code.class_names == ("NOOP", "FIRE", "UP/UPFIRE")

    class Confused(Played):
        def predict(self, past: torch.Tensor, actions: torch.Tensor, draw: Draw) -> torch.Tensor:
            return super().predict(past, actions.clamp(max=2), draw)

    found = numbers(measured(tmp_path, Confused(), monkeypatch, code))
    assert found["action_accuracy", ""] == 1.0


def test_numbers_and_choices_have_signs_and_errors_derived_by_hand() -> None:
    continuous = ActionCode(ActionSpec.continuous((-1.0, 0.0), (1.0, 4.0)))
    rows = accuracy_rows(continuous, np.array([[0.5, 1.0], [-0.5, 3.0]]), np.array([[0.25, 3.0], [-1.0, 3.0]]))
    found = {row.metric: row.value for row in rows}
    assert found == {"action_sign_accuracy": 0.75, "action_value_error": pytest.approx((0.125 + 0.5 + 0.25 + 0) / 4)}
    keys = ActionCode(ActionSpec.columns((2, 5)))  # a key, and a mouse with 5 bins, of which 2 is the middle
    read = np.array([[0.0, 4.0], [1.0, 3.0], [1.0, 0.0], [0.0, 2.0]])
    found = {row.metric: row.value for row in accuracy_rows(keys, np.array([[0.0, 4.0], [1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]), read)}
    assert found == {
        "action_accuracy": 5 / 8,
        "action_sign_accuracy": pytest.approx(2 / 3),
        "action_value_error": pytest.approx((0 + 3 / 4 + 1 / 4 + 0) / 4),
    }
    only_keys = accuracy_rows(ActionCode(ActionSpec.columns((2, 2))), np.ones((3, 2)), np.ones((3, 2)))
    assert [row.metric for row in only_keys] == ["action_accuracy"]


@pytest.mark.parametrize("code", [CODE, ActionCode(ActionSpec.columns((2, 3))), ActionCode(ActionSpec.continuous((-1.0,), (3.0,)))])
def test_a_code_decodes_what_it_stands_for(code: ActionCode, tmp_path: Path) -> None:
    spec = code.spec
    given: list[Any] = [[-1.0], [0.5], [3.0]] if spec.low else [[1, 2], [0, 1]] if spec.trailing else [0, 1, 2, 3]
    actions = torch.tensor(given)
    values = code.values(actions)
    if spec.low:
        output = actions / 2 - 0.5
    else:
        output = torch.cat([50.0 * torch.nn.functional.one_hot(values[:, i], size) for i, size in enumerate(code.sizes)], dim=1)
    assert output.shape == (len(actions), code.width)
    assert torch.equal(code.decode(output), values)
    assert float(code.loss(output, values)) < 1e-6
    network = InverseDynamics(4, FrameSpec(16, 24), code.width)
    assert sum(p.numel() for p in network.parameters()) == inverse_dynamics_cost(4, FrameSpec(16, 24), code.width).parameters
    save_reader(ActionReader(network, code), 4, FrameSpec(16, 24), tmp_path)
    assert load_reader(tmp_path, torch.device("cpu")).code == code
    (tmp_path / "inverse_dynamics" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="no inverse-dynamics network that can be read"):
        load_reader(tmp_path, torch.device("cpu"))


def test_effects_of_actions_are_those_of_the_game() -> None:
    effects = action_effects("synthetic/opponent", EnvConfig(frame_size=16), ActionSpec.discrete(3), seed=0)
    assert effects.classes() == (0, 1, 2)
    columns = effects.after[:, :, 1, -1, ::2].argmax(axis=2)  # of the green player, in the bottom row
    before = effects.before[:, 1, -1, ::2].argmax(axis=1)
    assert np.array_equal(columns[:, 0], before)
    assert np.array_equal(columns[:, 1], np.minimum(before + 1, 7))
    assert np.array_equal(columns[:, 2], np.maximum(before - 1, 0))
    assert len(np.unique(before)) > 4
    walkers = effects.after[:, :, 0, 2].reshape(len(before), 3, -1)
    assert (walkers == walkers[:, :1]).all(), "the walker moves at random, but equally after all actions"


def test_actions_are_merged_only_if_their_effects_are_equal_in_all_states() -> None:
    after = np.zeros((2, 4, 3, 1, 1), np.uint8)
    after[0, 1] = after[0, 3] = after[1, 1] = 9  # actions 1 and 3 differ in the second state, 0 and 2 in none
    assert Effects(after[:, 0], np.zeros((2, 4), int), after).classes() == (0, 1, 0, 2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random play of synthetic/opponent in a store."""
    store = Store(tmp_path_factory.mktemp("store") / "outputs")
    collected = CollectDataset(
        "synthetic/opponent",
        EnvConfig(frame_size=16),
        DataConfig(policy="random", num_train_frames=600, num_references=2, reference_horizon=8),
    )
    spec = JobSpec("collect_dataset", collected, {})
    store.prepare(spec)
    folder = store.folder(spec.ref)
    collect_dataset.run(collected, JobContext(folder))
    return folder


QUICK = InverseDynamicsConfig(channels=8, num_steps=200, batch_size=32, learning_rate=3e-3, cooldown=0.5, pixel_noise=0.1, blur=0.5)


def test_the_job_learns_to_read_a_synthetic_game(dataset: Path, tmp_path: Path) -> None:
    result = train_inverse_dynamics.run(TrainInverseDynamics(QUICK), JobContext(tmp_path, {"dataset": dataset}))
    found = numbers(result)
    assert result.info["classes"] == ["NOOP", "RIGHT", "LEFT"]
    # At a wall one of two moves looks like none: 1/8 of states for each, where the network can only guess.
    assert found["action_accuracy", "real-imposed"] > 0.65
    assert found["action_accuracy_gain", "real-imposed"] > 0.3


def test_a_network_is_the_same_stopped_killed_or_neither(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at update 8, it resumes at the checkpoint of update 5. Stopped there, it saves that update first."""
    config = TrainInverseDynamics(replace(QUICK, channels=4, num_steps=12, batch_size=4, checkpoint_every=5))
    effects = train_inverse_dynamics._effects(dataset, ActionSpec.discrete(3), 0)
    monkeypatch.setattr(train_inverse_dynamics, "_effects", lambda *_: effects)
    said: list[str] = []

    def weights(name: str, **context: Any) -> dict[str, torch.Tensor]:
        (tmp_path / name).mkdir(exist_ok=True)
        train_inverse_dynamics.run(config, JobContext(tmp_path / name, {"dataset": dataset}, say=said.append, **context))
        return load_reader(tmp_path / name, torch.device("cpu")).network.state_dict()

    class Killed(BaseException):
        pass

    def kill(done: int, total: int, text: str) -> None:
        if done == 8:
            raise Killed

    whole = weights("whole")
    with pytest.raises(Killed):
        weights("killed", progress=kill)
    calls = iter([False] * 7 + [True] * 10)
    with pytest.raises(Interrupted, match="after update 8 of 12"):
        weights("stopped", should_stop=lambda: next(calls))
    for name, update in (("killed", 5), ("stopped", 8)):
        assert not (tmp_path / name / "inverse_dynamics").exists()
        resumed = weights(name)
        assert said.pop() == f"resumed after update {update} of 12"
        assert all(torch.equal(resumed[key], tensor) for key, tensor in whole.items())


def test_blur_keeps_flat_frames_and_the_sum_of_a_point() -> None:
    flat, point = torch.full((9, 3, 9, 9), 0.3), torch.zeros(9, 3, 9, 9)
    point[:, :, 4, 4] = 1.0
    generator = torch.Generator().manual_seed(0)
    assert torch.allclose(train_inverse_dynamics._blurred(flat, 1.0, generator), flat)
    blurred = train_inverse_dynamics._blurred(point, 1.0, generator)
    assert torch.allclose(blurred.sum(dim=(2, 3)), torch.ones(9, 3))
    assert float(blurred[:, :, 4, 4].min()) < 0.9
    assert train_inverse_dynamics._blurred(flat, 0.0, generator) is flat

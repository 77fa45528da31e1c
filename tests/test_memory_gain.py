"""The metric memory_gain on worlds whose memory is known: all of it, none, the last L frames, and a copied frame."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import StandIn
from test_evaluation import CONFIG, SETTINGS, numbers
from test_report import finish

from diamond_bench.config import EnvConfig
from diamond_bench.data.static import EpisodeSet
from diamond_bench.envs.games import make_env, make_policy, spec
from diamond_bench.envs.maze import _MOVES
from diamond_bench.envs.sights import Gaps, find_gaps
from diamond_bench.errors import UserError
from diamond_bench.jobs import evaluate_world_model as job
from diamond_bench.jobs.context import JobContext
from diamond_bench.metrics.memory_gain import BINS, METRIC, cell_errors, chance, gains
from diamond_bench.report.gap_figures import gap_figures
from diamond_bench.results.table import collect
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.plan import load_plans, plan_study, save_plan
from diamond_bench.worlds.contract import Draw, WorldModel
from diamond_bench.worlds.families import open_world
from diamond_bench.worlds.oracle import Oracle
from diamond_bench.worlds.recordings import RecordedEpisodes

GAME, ENV, CONTEXT, HORIZON, EPISODES, ROWS = "maze/corridor", EnvConfig(frame_size=16), 8, 40, 2, 400
STARTS = [ROWS * episode + offset for episode in range(EPISODES) for offset in range(0, ROWS - CONTEXT - HORIZON, CONTEXT + HORIZON)]
MEMORY = replace(
    CONFIG,
    evaluation=replace(
        SETTINGS,
        metrics=("drift", "memory_gain"),
        num_trajectories=len(STARTS),
        horizon=HORIZON,
        batch_size=7,
        num_one_step=0,
        num_sample_starts=1,
        sample_horizon=1,
    ),
)
GREY = 128 / 127.5 - 1
"""The mean of both colours, which is the best guess."""

Play = tuple[EpisodeSet, np.ndarray, list[int]]
Evaluate = Callable[[WorldModel], dict[str, float]]


class Remembering(StandIn):
    """Remembers the last L frames: it paints what they show at the place where the actions moved it, and grey elsewhere."""

    def __init__(self, context: int) -> None:
        super().__init__(16, 5)
        self.context = context  # type: ignore[misc]

    def bound(self, sampler: object) -> "Remembering":
        return self

    def predict(self, past: torch.Tensor, actions: torch.Tensor, draw: Draw) -> torch.Tensor:
        moves = 2 * torch.tensor(_MOVES)[actions][..., 1].flip(1).cumsum(1).flip(1)  # pixels to the right since each past frame
        painted = torch.full_like(past[:, -1], GREY)
        for frames, moved in zip(past.unbind(1), moves.unbind(1), strict=True):
            for row, (frame, shift) in enumerate(zip(frames, moved.tolist(), strict=True)):
                low, high = max(0, -shift), min(16, 16 - shift)
                if low < high:
                    painted[row, :, :, low:high] = frame[:, :, low + shift : high + shift]
        return painted


class Copying(Remembering):
    """Repeats the last frame."""

    def predict(self, past: torch.Tensor, actions: torch.Tensor, draw: Draw) -> torch.Tensor:
        return past[:, -1]


class Blind(Remembering):
    """Gets no actions: it paints what it remembers as if the window had stood still."""

    def predict(self, past: torch.Tensor, actions: torch.Tensor, draw: Draw) -> torch.Tensor:
        return super().predict(past, torch.zeros_like(actions), draw)


class Late(Remembering):
    """Remembers the last frame and moves it by the action before the right one."""

    def __init__(self) -> None:
        super().__init__(2)

    def predict(self, past: torch.Tensor, actions: torch.Tensor, draw: Draw) -> torch.Tensor:
        return super().predict(past[:, 1:], actions[:, :1], draw)


class Blurring(Remembering):
    """Paints everything half as strong."""

    def predict(self, past: torch.Tensor, actions: torch.Tensor, draw: Draw) -> torch.Tensor:
        return (super().predict(past, actions, draw) + GREY) / 2


@pytest.fixture(scope="module")
def play() -> Play:
    """Episodes of the scripted policy, their memories, and their seeds."""
    frames, actions, rams, seeds = [], [], [], list(range(EPISODES))
    for seed in seeds:
        env, policy = make_env(GAME, ENV), make_policy("expert", GAME, np.random.default_rng(seed + 50))
        frame, info = env.reset(seed=seed)
        for _ in range(ROWS):
            frames.append(frame)
            rams.append(info["ram"])
            actions.append(policy(info["ram"], 0))
            frame, _, _, _, info = env.step(actions[-1])
    shown = torch.from_numpy(np.stack(frames).transpose(0, 3, 1, 2).copy())
    flags = torch.zeros(len(shown), dtype=torch.bool)
    starts, lengths = torch.arange(EPISODES) * ROWS, torch.full((EPISODES,), ROWS)
    return EpisodeSet(shown, torch.tensor(actions), None, flags, flags, starts, lengths), np.stack(rams), seeds


@pytest.fixture
def measured(play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """A function: the numbers of an evaluation of a world."""
    episodes, rams, _ = play
    layout = {"reference_context": CONTEXT, "reference_horizon": HORIZON, "reference_starts": STARTS, "refused_as_leaks": 0}
    info = type("Info", (), {"spec": spec(GAME, ENV), "content": {"game": GAME, "heldout": layout}})
    monkeypatch.setattr(job, "load_info", lambda folder: info)
    monkeypatch.setattr("diamond_bench.data.static.load_info", lambda folder: info)
    monkeypatch.setattr("diamond_bench.data.ram.load_ram", lambda folder, split: rams)
    monkeypatch.setattr(job, "load_split", lambda folder, split: episodes)

    def evaluate(world: WorldModel) -> dict[str, float]:
        monkeypatch.setattr(job, "loaded_world", lambda *_: world)
        config = replace(MEMORY, family=None if isinstance(world, Remembering) else Oracle())
        result = job.run(config, JobContext(tmp_path, {"dataset": tmp_path, "world_model": tmp_path}))
        found = {(name, baseline): value for (name, baseline), value in numbers(result).items() if name.startswith("memory")}
        return {f"copy_{name}" if baseline else name: value for (name, baseline), value in found.items()}

    return evaluate


def of_bins(found: dict[str, float], way: str = "memory") -> list[float]:
    return [found[f"{way}_gain_{name}"] for name in BINS]


@pytest.mark.parametrize(("frames", "remembered"), [(1, 0), (2, 1), (4, 2), (8, 3)])
def test_a_memory_of_some_frames_gains_all_up_to_their_number_and_nothing_beyond(frames: int, remembered: int, measured: Evaluate) -> None:
    """The bins end at the gaps 2, 4, 8, 16 and 32. With one frame it is the model that forgets, which is the floor."""
    found = measured(Remembering(frames))
    assert of_bins(found) == pytest.approx([1.0] * remembered + [0.0] * (6 - remembered), abs=1e-6)
    assert found["memory_unseen_error"] == pytest.approx(1.0, abs=1e-6), "the best guess without memory"
    assert found["memory_gain"] == pytest.approx(remembered / 6, abs=1e-6)
    assert found["memory_free_unseen_error"] == pytest.approx(1.0, abs=1e-6)
    if frames == 1:
        assert of_bins(found, "memory_free") == pytest.approx([0.0] * 6, abs=1e-6)
    else:  # what it forgot and then painted grey it remembers as grey
        assert 0 < found["memory_free_gain_2"] < 1
        assert of_bins(found, "memory_free")[4:] == pytest.approx([0.0] * 2, abs=1e-6)


def test_a_memory_that_blurs_gains_half(measured: Evaluate) -> None:
    """A colour half way between the true one and the best guess has the error 0.5, up to the rounding of bytes."""
    assert of_bins(measured(Blurring(8))) == pytest.approx([0.5] * 3 + [0.0] * 3, abs=0.01)


def gaps_by_hand(columns: np.ndarray) -> np.ndarray:
    """The steps since the column of each cell was last in view, 0 if never, (rows, 8). `columns`: the first one in view, (rows,)."""
    found = np.zeros((len(columns), 8), int)
    for row, first in enumerate(columns.tolist()):
        if row % ROWS == 0:
            when: dict[int, int] = {}
        for at in range(8):
            found[row, at] = row - when[first + at] if first + at in when else 0
            when[first + at] = row
    return found


def gains_by_hand(play: Play, gaps: np.ndarray, errors: np.ndarray) -> dict[str, tuple[float, int]]:
    """The gain of each bin that occurs, and its seen columns: those that come into view by `gaps` (rows, 8) in an imagined frame, after the
    same action as an unseen one. `errors`: (rows, 8)."""
    rows = np.array([row for row in range(len(gaps)) if any(start + CONTEXT <= row < start + CONTEXT + HORIZON for start in STARTS)])
    action = np.broadcast_to(play[0].actions.numpy()[rows - 1, None], (len(rows), 8))
    gap, error = gaps[rows], errors[rows]
    found = {}
    for name, low, high in zip(BINS, (2, 3, 5, 9, 17, 33), (2, 4, 8, 16, 32, ROWS), strict=True):
        differences = []
        for act in np.unique(action[gap == 0]):
            seen = (action == act) & (gap >= low) & (gap <= high)
            differences.extend(error[(action == act) & (gap == 0)].mean() - error[seen])
        if differences:
            found[name] = (float(np.mean(differences)), len(differences))
    return found


@pytest.mark.parametrize("fault", ["one row late", "one step long"])
def test_a_fault_in_the_gaps_gives_the_gains_of_those_gaps(
    fault: str, play: Play, measured: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a memory of four frames a cell has the error 0 if it was in view up to four steps ago, and 1 otherwise. Under the right gaps the
    gains are 1, 1, 0, 0, 0, 0."""

    def faulty(things: np.ndarray, lengths: list[int]) -> Gaps:
        if fault == "one row late":
            return find_gaps(np.roll(things, 1, axis=0), lengths)
        right = find_gaps(things, lengths)
        return Gaps(np.where(right.last > 1, right.last + 1, right.last), right.first)

    columns = play[1][:, 2].astype(int)
    right = gaps_by_hand(columns)
    wrong = gaps_by_hand(np.roll(columns, 1)) if fault == "one row late" else np.where(right > 1, right + 1, right)
    expected = gains_by_hand(play, wrong, np.where((right > 0) & (right <= 4), 0.0, 1.0))
    correct = dict(zip(BINS, (1, 1, 0, 0, 0, 0), strict=True))
    assert max(abs(gain - correct[name]) for name, (gain, _) in expected.items()) > 0.1, "the fault matters"
    monkeypatch.setattr("diamond_bench.metrics.memory_gain.find_gaps", faulty)
    found = measured(Remembering(4))
    for name in BINS:
        gain, cells = expected.get(name, (None, 0))
        assert found.get(f"memory_gain_{name}") == (gain if gain is None else pytest.approx(gain, abs=1e-6))
        assert found[f"memory_cells_{name}"] == 8 * cells, "a column has eight cells"


def test_the_true_world_is_right_about_all_that_was_seen(play: Play, measured: Evaluate) -> None:
    """Its error there is 0, so every gain is its error at things never seen, about 1: it draws them from the true distribution."""
    episodes, _, seeds = play
    world = open_world(
        Oracle(), spec(GAME, ENV), torch.device("cpu"), RecordedEpisodes(Path("held-out"), episodes, GAME, ENV, tuple(seeds))
    )
    found = measured(world)
    assert found["memory_unseen_error"] == pytest.approx(1.0, abs=0.1)
    assert of_bins(found) == pytest.approx([found["memory_unseen_error"]] * 6)
    assert found["memory_free_unseen_error"] == pytest.approx(1.0, abs=0.2)
    assert of_bins(found, "memory_free") == pytest.approx([1.0] * 6, abs=0.3)


@pytest.mark.parametrize("world", [Copying(1), Blind(8)], ids=["copy", "withheld actions"])
def test_copying_the_last_frame_is_as_by_hand(world: Remembering, play: Play, measured: Evaluate) -> None:
    """The column that comes into view is compared with the one that was there before: error 2 where the colours differ, else 0. A memory
    that gets no actions paints the same picture."""
    episodes, rams, _ = play
    frames = episodes.frames.numpy()[:, :, ::2, ::2]
    differ = np.zeros((len(frames), 8, 8), bool)
    differ[1:] = (frames[1:] != frames[:-1]).any(axis=1)
    gaps = gaps_by_hand(rams[:, 2].astype(int))
    expected, cells = zip(*gains_by_hand(play, gaps, 2.0 * differ.mean(axis=1)).values(), strict=True)
    found = measured(world)
    assert of_bins(found) == pytest.approx(expected, abs=1e-6)
    assert [found[f"memory_cells_{name}"] for name in BINS] == [8 * number for number in cells], "a column has eight cells"
    assert found["memory_cells"] == 8 * sum(cells)
    assert [found[f"copy_memory_gain_{name}"] for name in BINS] == pytest.approx(expected, abs=1e-6)
    assert found["copy_memory_free_gain"] == pytest.approx(found["memory_free_gain"])
    assert found["memory_unseen_error"] == pytest.approx(1.0, abs=0.2)
    of_action = {int(action): set(gaps[1:][episodes.actions.numpy()[:-1] == action].ravel().tolist()) for action in (3, 4)}
    assert 0 not in of_action[4], "on the way back nothing is new, so those cells are not compared"
    assert 2 in of_action[4]


def test_actions_that_are_one_step_late_are_as_by_hand(play: Play, measured: Evaluate) -> None:
    """Each column shows what the last frame has where the action before would have moved it from: error 2 where the colours differ, else 0.
    Beyond the last frame it is grey: error 1."""
    frames, move = play[0].frames.numpy()[:, :, ::2, ::2], np.array(_MOVES)[play[0].actions.numpy(), 1]
    errors = np.ones((len(frames), 8))
    for row in range(2, len(frames)):
        for at in range(8):
            source = at + move[row - 2]
            if 0 <= source < 8:
                errors[row, at] = 2 * (frames[row, :, :, at] != frames[row - 1, :, :, source]).any(axis=0).mean()
    gaps = gaps_by_hand(play[1][:, 2].astype(int))
    expected = [gain for gain, _ in gains_by_hand(play, gaps, errors).values()]
    assert max(expected) < 0.7, "the right action gives a memory of one frame more where it waited"
    assert of_bins(measured(Late())) == pytest.approx(expected, abs=1e-6)


def test_chance_and_counts_by_hand() -> None:
    """Bin 0 has 4 seen cells after action 0. Bin 1 has 2 after action 0 and 8 after action 1. Unseen are 8 and 2. Action 2 has none."""
    counts = np.zeros((2, 1, 3, 1, 7), np.int64)
    counts[0, 0, 0, 0, :3] = 8, 4, 2
    counts[1, 0, 1, 0, [0, 2]] = 2, 8
    counts[1, 0, 2, 0, 2] = 5
    found = chance(counts)
    assert (found.seen[:3].tolist(), found.unseen) == ([4, 10, 0], 10)
    assert found.bins[:2] == pytest.approx([(1 / 8 + 1 / 4) ** 0.5, (0.2**2 / 8 + 0.8**2 / 2 + 1 / 10) ** 0.5])
    assert np.isnan(found.bins[2:]).all()
    assert found.mean == pytest.approx((0.6**2 / 8 + 0.4**2 / 2 + (1 / 4 + 1 / 10) / 4) ** 0.5), "both bins share the unseen cells"
    counts[..., 0] = 0
    assert np.isnan(chance(counts).mean)


def test_random_colours_deviate_by_chance() -> None:
    """400 draws of errors 0 and 2, with the numbers above."""
    counts = np.zeros((1, 1, 2, 1, 7), np.int64)
    counts[0, 0, 0, 0, :3], counts[0, 0, 1, 0, [0, 2]] = (8, 4, 2), (2, 8)
    drawn = [gains(2.0 * np.random.default_rng(seed).binomial(counts, 0.5), counts)[1][:2] for seed in range(400)]
    by_chance = chance(counts)
    assert np.std(drawn, axis=0) == pytest.approx(by_chance.bins[:2], rel=0.15)
    assert np.std(np.mean(drawn, axis=1)) == pytest.approx(by_chance.mean, rel=0.15)


def test_seen_and_unseen_are_compared_at_the_same_action() -> None:
    """Things seen after action 0 have the error 3, as unseen ones have, and after action 1 the error 1. Action 2 has no unseen things."""
    errors, counts = np.zeros((2, 1, 3, 1, 7)), np.zeros((2, 1, 3, 1, 7), np.int64)
    for action, unseen, seen in ((0, 8, 2), (1, 2, 8), (2, 0, 5)):
        counts[1, 0, action, 0, [0, 2]] = unseen, seen
    errors[1, 0, 0, 0, [0, 2]] = 24.0, 6.0
    errors[1, 0, 1, 0, [0, 2]] = 2.0, 8.0
    errors[1, 0, 2, 0, 2] = 40.0
    unseen, found = gains(errors, counts)
    assert unseen == pytest.approx(2.6)
    assert found[1] == pytest.approx(0.0), "without the match it would be 2.6 - 54 / 15"
    assert np.isnan(found[[0, 2, 3, 4, 5]]).all()
    errors[1, 0, 1, 0, 2] = 0.0  # all remembered: 8 of the 10 compared cells are better by 1
    assert gains(errors, counts)[1][1] == pytest.approx(0.8)


def test_games_and_data_without_the_truth_are_refused() -> None:
    for words, message in (
        (
            ["games=[synthetic/turn]"],
            r"memory_gain needs the things that each frame shows, which are known for maze/corridor, .*, not for synth",
        ),
        (["games=[maze/loop]", "env.frame_size=20"], r"env\.frame_size=20: maze/loop shows 8 x 8 cells"),
    ):
        with pytest.raises(UserError, match=message):
            plan_study("sampling_steps", ["scale=tiny", "metrics=[memory_gain]", *words])


def test_errors_of_cells_by_hand() -> None:
    """The four colours of a counter are the corners of a tetrahedron around grey."""
    corners = np.array([[0.1, 0.1, 0.1], [0.9, 0.9, 0.1], [0.1, 0.9, 0.9], [0.9, 0.1, 0.9]])
    grey, true = np.full(3, 0.5), corners[1]
    shown = np.stack([true, grey, (true + grey) / 2, 2 * grey - true, [1.0, 1.0, 0.0], *corners])
    found = cell_errors(shown, np.broadcast_to(true, shown.shape), grey)
    assert found == pytest.approx([0, 1, 0.5, 2, 0, 4 / 3, 0, 4 / 3, 4 / 3])
    assert found[5:].mean() == pytest.approx(1.0), "a colour drawn at random is as wrong as grey"


def test_the_figure_draws_each_gain_at_its_gap(tmp_path: Path) -> None:
    plan, store = plan_study("memory", ["scale=tiny", "seeds=2"]), Store(tmp_path, say=lambda text: None)
    evaluations = {point.jobs["evaluation"]: point for point in plan.points}
    for ref, job_spec in plan.jobs.items():
        point = evaluations.get(ref)
        past = 0 if point is None else point.axes["L"]
        scores = {f"memory_gain_{name}": 0.1 * past + point.seed for name in BINS[1:]} if point else {}
        counts = {"memory_chance_8": 0.01 * past, "memory_cells_8": 500.0 - past} if point else {}
        finish(store, job_spec, scores=scores | counts)
    (offered,) = gap_figures(METRIC.figures[0], save_plan(plan, store.root), collect(load_plans(store.root)[0], store))
    drawn = offered.draw()
    assert drawn is not None
    assert "64 stands for gaps of 33 or more" in drawn.caption
    assert "by chance, and seen cells, one step ahead: 8: 0.08 of 492" in drawn.caption
    lines = {str(line.get_label()): line for line in drawn.figure.axes[0].get_lines()}
    for label, gain in (("stacked, L=8", 1.3), ("stacked, L=1 (baseline)", 0.6)):
        assert lines[label].get_xdata().tolist() == [4, 8, 16, 32, 64]
        assert lines[label].get_ydata() == pytest.approx([gain] * 5)
    assert set(lines["best guess without memory"].get_ydata()) == {0.0}

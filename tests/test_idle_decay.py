"""The metric idle_decay on worlds whose collapse and motion are known: none, at a known frame, and cut by the game's end."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_evaluation import CONFIG, CONTEXT, SETTINGS, STARTS, Predictor, evaluate, numbers
from test_evaluation import data as data  # a fixture
from test_worlds import ENV, TURN, played

from analysis.stability import collapses, nearest_distance
from diamond_bench.data import sources, static
from diamond_bench.data.static import EpisodeSet
from diamond_bench.diffusion.quantization import quantize
from diamond_bench.envs.games import family_of, make_env, spec
from diamond_bench.errors import UserError
from diamond_bench.evaluation.fixed_actions import fixed_actions
from diamond_bench.jobs import evaluate_world_model as job
from diamond_bench.metrics.idle_decay import threshold_of, true_plays
from diamond_bench.spaces import ActionSpec
from diamond_bench.studies.plan import plan_study
from diamond_bench.worlds.contract import Draw
from diamond_bench.worlds.oracle.world import OracleWorld

LEVELS, STEP = range(100, 140, 4), 4
"""The frames of training are grey, of these levels."""
FRAMES = 40
STABILITY = replace(CONFIG, evaluation=replace(SETTINGS, metrics=("drift", "idle_decay"), hold_frames=FRAMES, batch_size=3))


class Game:
    """In place of the emulator: goes up and down by one level of `LEVELS`, and ends after `frames` frames."""

    def __init__(self, start: dict[tuple[int, int], int], frames: int = FRAMES) -> None:
        self.start, self.frames, self.held = start, frames, list[int]()

    def played(self, place: tuple[int, int], actions: Iterable[Any], seed: Any) -> Iterator[tuple[np.ndarray, float, bool]]:
        level = self.start[place]
        for t, action in zip(range(self.frames), actions, strict=False):
            self.held.append(int(action))
            shown = level + STEP * ((t + 1) % 2) * (1 if level < LEVELS[-1] else -1)
            yield np.full((3, 16, 16), shown, np.uint8), 0.0, t + 1 == self.frames


class Alternating(Predictor):
    """Imagines what `Game` shows, from the level of the frame before the last one."""

    def predict(self, past: torch.Tensor, actions: torch.Tensor, draw: Draw) -> torch.Tensor:
        return past[:, -2].clone()


class Brighter(Predictor):
    """Each frame is one step brighter, but only under action `only`, if there is one. `late`: it takes the action of the step before."""

    def __init__(self, only: int | None = None, late: int = 0) -> None:
        super().__init__()
        self.only, self.late = only, late

    def predict(self, past: torch.Tensor, actions: torch.Tensor, draw: Draw) -> torch.Tensor:
        action = actions[:, -1 - self.late]
        acts = torch.ones_like(action) if self.only is None else (action == self.only).long()
        return quantize(past[:, -1] + 2 * STEP / 255 * acts[:, None, None, None], "round")


class Blurring(Predictor):
    """Halves the contrast of the last frame."""

    def predict(self, past: torch.Tensor, actions: torch.Tensor, draw: Draw) -> torch.Tensor:
        mean = past[:, -1].mean(dim=(-2, -1), keepdim=True)
        return quantize((past[:, -1] + mean) / 2, "round")


class Blinking(Predictor):
    """Each second frame is white, and the others are the last one before."""

    def predict(self, past: torch.Tensor, actions: torch.Tensor, draw: Draw) -> torch.Tensor:
        white = (past[:, -1] == 1)[:, :1, :1, :1]
        return torch.where(white, past[:, -2], torch.ones_like(past[:, -2]))


@pytest.fixture
def game(data: dict[str, EpisodeSet], monkeypatch: pytest.MonkeyPatch) -> Game:
    """Grey frames. Every held-out episode goes up and down between two levels. The first start is at level 100."""
    for name, episodes in data.items():
        row = torch.arange(len(episodes.frames))
        level = 100 + STEP * (row % 10) if name == "train" else 100 + 2 * STEP * (row // 20) + STEP * (row % 2)
        actions = torch.where(row % 10 < 3, 0, 1 + row % 3) if name == "train" else episodes.actions
        frames = level[:, None, None, None].expand(-1, 3, 16, 16).to(torch.uint8).contiguous()
        game_over = row % 20 == 18 if name == "heldout" else episodes.terminations
        data[name] = replace(episodes, frames=frames, actions=actions, terminations=game_over)
    heldout = data["heldout"]
    start = {}
    for first in STARTS:
        last = first + CONTEXT - 1
        start[last // 20, last % 20] = int(heldout.frames[last, 0, 0, 0])
    found = Game(start)
    monkeypatch.setattr(job, "playable", lambda *_: found)
    monkeypatch.setattr(sources, "load_rows", lambda folder: data["train"])
    monkeypatch.setattr(static, "load_info", lambda folder: job.load_info(folder))
    return found


def measured(folder: Path, world: Predictor, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> dict[tuple[str, str], float]:
    config = replace(STABILITY, evaluation=replace(STABILITY.evaluation, **settings))
    found = numbers(evaluate(folder, world, monkeypatch, config))
    return {key: value for key, value in found.items() if key[0].startswith(("idle", "held", "hold"))}


def levels_of_starts(data: dict[str, EpisodeSet]) -> list[int]:
    order = np.random.default_rng(SETTINGS.seed).permutation(len(STARTS))[: SETTINGS.num_sample_starts]
    return [int(data["heldout"].frames[STARTS[i] + CONTEXT - 1, 0, 0, 0]) for i in order]


def test_a_world_that_moves_as_its_game_does_never_collapses(
    game: Game,
    data: dict[str, EpisodeSet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = measured(tmp_path / "e", Alternating(), monkeypatch)
    for name in ("idle", "held"):
        for baseline in ("", "emulator"):
            assert found[f"{name}_survival", baseline] == 1
            assert found[f"{name}_lifetime", baseline] == FRAMES
            assert found[f"{name}_survival_low", baseline] == pytest.approx(0.025 ** (1 / 3))
    assert found["idle_motion_ratio", ""] == pytest.approx(1)
    assert (found["held_starts", ""], found["hold_frames", ""], found["idle_true_plays", ""]) == (3, FRAMES, 3)
    assert found["idle_train_share", ""] == 0
    arrays = np.load(tmp_path / "e" / "arrays.npz")
    # 2 episodes of 30 rows, the last without an action: runs of three no-ops at the start of each ten
    assert arrays["held_train_shares"][:4] == pytest.approx([18 / 58, 12 / 58, 6 / 58, 0])
    assert arrays["held_idle"].tolist() == [True, False] * 3
    assert Counter(game.held) == {0: 3 * FRAMES, 1: FRAMES, 2: FRAMES, 3: FRAMES}


def test_a_frozen_world_lasts_but_does_not_move(game: Game, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(tmp_path / "e", Predictor(), monkeypatch)
    assert (found["idle_survival", ""], found["held_survival", ""]) == (1, 1)
    assert (found["idle_motion_ratio", ""], found["held_motion_ratio", ""]) == (0, 0)


def test_a_world_that_fades_to_white_collapses_when_it_leaves_the_levels_of_training(
    game: Game,
    data: dict[str, EpisodeSet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Frame k has the level of the start plus k steps, and is known up to the highest level of training."""
    found = measured(tmp_path / "e", Brighter(), monkeypatch)
    lasted = [(LEVELS[-1] - level) // STEP for level in levels_of_starts(data)]
    assert np.load(tmp_path / "e" / "arrays.npz")["held_lasted"].tolist() == [frames for frames in lasted for _ in range(2)]
    assert found["idle_survival", ""] == found["held_survival", ""] == 0
    assert found["idle_lifetime", ""] == pytest.approx(np.mean(lasted))
    assert found["idle_lifetime", "emulator"] == FRAMES
    # until it is white it takes one step per frame, as the game does
    until_white = [min(FRAMES, (255 - level) / STEP) for level in levels_of_starts(data)]
    assert found["idle_motion_ratio", ""] == pytest.approx(np.sum(until_white) / (3 * FRAMES), abs=0.02)


def test_the_no_op_and_other_actions_are_apart(game: Game, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(tmp_path / "e", Brighter(only=0), monkeypatch)
    assert (found["idle_survival", ""], found["held_survival", ""]) == (0, 1)
    one = measured(tmp_path / "o", Brighter(only=2), monkeypatch)  # each other action is held from one of the three starts
    assert (one["idle_survival", ""], one["held_survival", ""]) == (1, pytest.approx(2 / 3))


def test_actions_one_step_late_are_one_frame_late(
    game: Game,
    data: dict[str, EpisodeSet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first held frame still follows the last action of the context. So the play lasts one frame longer if that is another action. A
    metric of held actions sees no more of a shift."""
    heldout, order = data["heldout"], np.random.default_rng(SETTINGS.seed).permutation(len(STARTS))[: SETTINGS.num_sample_starts]
    before = [int(heldout.actions[STARTS[i] + CONTEXT - 2]) for i in order]
    lasted = [(LEVELS[-1] - level) // STEP + (action != 0) for level, action in zip(levels_of_starts(data), before, strict=True)]
    found = measured(tmp_path / "e", Brighter(only=0, late=1), monkeypatch)
    assert np.load(tmp_path / "e" / "arrays.npz")["held_lasted"][::2].tolist() == lasted
    assert found["idle_lifetime", ""] == pytest.approx(np.mean(lasted))


def test_a_world_that_blurs_leaves_the_training_data_and_slows_down(
    game: Game, data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The right half of each frame is 40 levels brighter. The first blurred frame has 20 between both halves, so each pixel is 10 levels
    from the nearest training frame: far above the threshold. The pixels then move by 10, 5, 2.5, ... levels, and those of the held-out
    references by 4 in each frame."""
    for episodes in data.values():
        episodes.frames[..., 8:] += 40
    monkeypatch.setattr(job, "playable", lambda *_: None)
    found = measured(tmp_path / "e", Blurring(), monkeypatch)
    for name in ("idle", "held"):
        assert found[f"{name}_survival", ""] == found[f"{name}_lifetime", ""] == 0
        assert found[f"{name}_motion_ratio", ""] == pytest.approx((100 / (1 - 0.25)) / (FRAMES * STEP**2), abs=0.02)


FAULTS = {
    "a single unknown frame counts": ("diamond_bench.metrics.idle_decay.RUN", 1),
    "the game's end does not count": (
        "analysis.stability.collapses",
        lambda distances, lengths, *rest: collapses(distances, np.full(len(lengths), FRAMES), *rest),
    ),
    "one training frame is known": (
        "analysis.stability.nearest_distance",
        lambda queries, known: nearest_distance(queries, known[:1]),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_metric_misses_the_values_derived_by_hand(
    fault: str, game: Game, data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blinking never collapses, because no ten unknown frames follow each other. Brighter lasts as long as there are brighter training
    frames. A game of six frames censors both."""
    game.frames = 6
    known = [(LEVELS[-1] - level) // STEP for level in levels_of_starts(data) for _ in range(2)]
    right = [[6] * 6, [False] * 6, [min(6, frames) for frames in known], [frames < 6 for frames in known]]

    def found(folder: str) -> list[list[int]]:
        found = []
        for name, world in (("blinking", Blinking()), ("brighter", Brighter())):
            measured(tmp_path / f"{folder}-{name}", world, monkeypatch)
            arrays = np.load(tmp_path / f"{folder}-{name}" / "arrays.npz")
            found += [arrays["held_lasted"].tolist(), arrays["held_collapsed"].tolist()]
        return found

    assert found("right") == right
    place, wrong = FAULTS[fault]
    monkeypatch.setattr(place, wrong)
    assert found("faulty") != right


def test_play_is_censored_where_the_game_ends_unless_it_is_in_unknown_frames(
    game: Game,
    data: dict[str, EpisodeSet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The world is not asked for further frames. One unknown frame before the end is a collapse: the play did not come back."""
    levels = levels_of_starts(data)
    game.frames = min((LEVELS[-1] - level) // STEP for level in levels)
    found = measured(tmp_path / "e", Brighter(), monkeypatch)
    assert np.isnan(found["idle_survival", ""]), "no play was observed to the last frame"
    arrays = np.load(tmp_path / "e" / "arrays.npz")
    assert arrays["held_lengths"].tolist() == arrays["held_lasted"].tolist() == [game.frames] * 6
    assert not arrays["held_collapsed"].any()
    assert found["idle_lifetime", ""] == game.frames
    game.frames += 1
    found = measured(tmp_path / "f", Brighter(), monkeypatch)
    arrays = np.load(tmp_path / "f" / "arrays.npz")
    gone = [(LEVELS[-1] - level) // STEP < game.frames for level in levels]
    assert arrays["held_collapsed"].tolist() == [end for end in gone for _ in range(2)]
    assert found["idle_lifetime", ""] == game.frames - np.mean(gone)


def test_the_threshold_lets_true_play_of_this_length_pass(
    game: Game,
    data: dict[str, EpisodeSet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second of three held-out games ends with eight unknown frames. The threshold of the two others raises the alarm for it, and its
    own one none for them: a false alarm in three plays. The threshold of all three is its distance from the highest level of training."""
    data["heldout"].frames[32:40] = 200
    found = measured(tmp_path / "e", Brighter(), monkeypatch)
    assert found["idle_false_alarms", ""] == pytest.approx(1 / 3)
    arrays = np.load(tmp_path / "e" / "arrays.npz")
    assert arrays["held_false_alarms"].tolist() == [0, 1, 0]
    assert arrays["held_threshold"] == pytest.approx((200 - LEVELS[-1]) / 255, abs=1e-6)
    assert arrays["held_lasted"].tolist() == [(200 - level) // STEP for level in levels_of_starts(data) for _ in range(2)]


@pytest.mark.parametrize(("plays", "strange", "threshold"), [(40, 1, 0.5), (200, 2, 0.1), (200, 3, 0.5)])
def test_at_most_one_true_play_in_a_hundred_collapses(plays: int, strange: int, threshold: float) -> None:
    """Plays of 1,000 frames, of which some have ten frames at the distance 0.5: less than one frame in a thousand."""
    distances = np.full((plays, 1000), 0.1)
    distances[:strange, 500:510] = 0.5
    assert threshold_of(distances, np.full(plays, 1000)) == threshold


def test_true_play_is_cut_to_the_length_of_imagined_play(data: dict[str, EpisodeSet]) -> None:
    """Three games of 20 frames, of which the last ends by itself. After three frames of context there are 17."""
    over = torch.zeros(60, dtype=torch.bool)
    over[58] = True
    plays = true_plays(replace(data["heldout"], terminations=over), CONTEXT, 10)
    found = [(play.episode, play.first, play.frames, play.whole) for play in plays]
    assert found[:2] == [(0, 3, 10, True), (0, 13, 7, False)]
    assert found[4:] == [(2, 43, 10, True), (2, 53, 7, True)]


def test_data_without_true_play_of_this_length_are_refused(
    game: Game,
    data: dict[str, EpisodeSet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data["heldout"] = replace(data["heldout"], terminations=torch.zeros(60, dtype=torch.bool))
    words = (
        r"true play of 40 frames \(evaluation\.hold_frames\), but the longest held-out game has 17 .* evaluation\.hold_frames=17 or less"
    )
    with pytest.raises(UserError, match=words):
        measured(tmp_path / "e", Alternating(), monkeypatch)
    assert measured(tmp_path / "f", Alternating(), monkeypatch, hold_frames=17)["idle_true_plays", ""] == 3
    words = r"data\.windows_per_episode=1 cuts held-out games, which leaves 112 after .*; set evaluation\.hold_frames=112 or less"
    settings = ["data.reference_context=8", "data.reference_horizon=22", "data.windows_per_episode=1", "evaluation.hold_frames=113"]
    with pytest.raises(UserError, match=words):
        plan_study("sampling_steps", ["scale=smoke", "metrics=[drift,idle_decay]", *settings])


@pytest.mark.parametrize(("game", "steps"), [("synthetic/turn", 2015), ("maze/corridor", 1023)])
def test_play_beyond_the_limit_of_an_episode_is_refused_at_planning(game: str, steps: int) -> None:
    def planned_with(*settings: str) -> object:
        return plan_study("sampling_steps", ["scale=tiny", f"games=[{game}]", "metrics=[drift,idle_decay]", *settings])

    with pytest.raises(
        UserError, match=rf"an episode of {game} is cut after {steps} steps, .* set evaluation\.hold_frames=\d+ or less\."
    ) as error:
        planned_with("evaluation.hold_frames=5000")
    (longest,) = re.findall(r"set evaluation\.hold_frames=(\d+)", str(error.value))
    planned_with(f"evaluation.hold_frames={longest}")
    with pytest.raises(UserError):
        planned_with(f"evaluation.hold_frames={int(longest) + 1}")
    with pytest.raises(UserError, match=rf"an episode of {game} is cut after {steps} steps, .* set data\.reference_horizon=\d+ or less"):
        planned_with("evaluation.hold_frames=12", "data.reference_horizon=5000", "data.num_train_frames=100000")
    with pytest.raises(UserError, match=r"leaves 0 frames after the context .*; lower data\.reference_context$"):
        planned_with("evaluation.hold_frames=12", "data.reference_context=3000")


def test_play_of_games_that_can_end_early_is_not_refused_at_planning() -> None:
    """A crash ends a game on the highway, so a shorter one counts as true play."""
    pytest.importorskip("highway_env")
    plan_study("sampling_steps", ["scale=tiny", "games=[highway/highway-v0]", "metrics=[drift,idle_decay]", "evaluation.hold_frames=500"])


def test_a_held_out_episode_at_its_limit_is_one_true_play_of_the_largest_length() -> None:
    """The longest held play that planning allows is a stretch of an episode that was cut by its limit of steps."""
    steps, context = family_of(TURN).max_steps, 4
    env = make_env(TURN, ENV)
    env.reset(seed=0)
    count = 1
    while not env.step(0)[3]:
        count += 1
    assert count == steps
    rows, ends = steps + 1, torch.zeros(steps + 1, dtype=torch.bool)
    episodes = SimpleNamespace(starts=torch.tensor([0]), lengths=torch.tensor([rows]), terminations=ends)
    longest = steps + 1 - context
    assert [play.whole for play in true_plays(episodes, context, longest)] == [True]
    assert [play.whole for play in true_plays(episodes, context, longest + 1)] == [False]


def test_without_a_game_motion_is_compared_with_that_of_held_out_references(
    game: Game, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "playable", lambda *_: None)
    found = measured(tmp_path / "e", Alternating(), monkeypatch)
    assert found["idle_motion_ratio", ""] == pytest.approx(1)
    assert not any(baseline for _, baseline in found)


def test_no_number_depends_on_the_batch_size_and_progress_adds_up(game: Game, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(tmp_path / "e", Brighter(), monkeypatch)
    assert measured(tmp_path / "f", Brighter(), monkeypatch, batch_size=100) == found
    seen: list[tuple[int, int]] = []
    evaluate(tmp_path / "g", Brighter(), monkeypatch, STABILITY, progress=lambda done, total, text: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen[1:]] == list(range(1, seen[-1][1] + 1))


def test_the_game_goes_on_from_a_recorded_place_as_it_was_played() -> None:
    play = played()
    world = OracleWorld(make_env(TURN, ENV), spec(TURN, ENV), torch.device("cpu"), play)
    found = list(world.played((1, 5), [2] * 4, seed=(0, 1)))
    assert found[0][0].shape == (3, 16, 16)
    assert [f.tobytes() for f, _, _ in found] == [f.tobytes() for f, _, _ in world.played((1, 5), [2] * 4, seed=(0, 1))]
    built = make_env(TURN, ENV)
    built.reset(seed=1)
    for action in play.actions[1, :5]:
        built.step(int(action))
    built.unwrapped.np_random = np.random.default_rng([0, 1])
    for frame, reward, ended in found:
        true, gained, terminated, _, _ = built.step(2)
        assert np.array_equal(frame.transpose(1, 2, 0), true)
        assert (reward, ended) == (gained, terminated)
    assert len(list(world.played((0, 10), [0] * 5000, seed=(0,)))) == 2015 - 10  # up to the limit of steps


@pytest.mark.parametrize("spec", [ActionSpec.discrete(3), ActionSpec.columns((2, 5, 4)), ActionSpec.continuous((-1.0, 0.0), (1.0, 4.0))])
def test_the_no_op_is_the_first_fixed_action(spec: ActionSpec) -> None:
    first = next(iter(fixed_actions(spec).values()))
    assert first.reshape(-1).tolist() == list(spec.neutral)


def test_the_length_is_refused_without_the_metric() -> None:
    with pytest.raises(UserError, match=r"evaluation\.hold_frames: it has no effect with metrics that leave out idle_decay"):
        plan_study("sampling_steps", ["scale=tiny", "evaluation.hold_frames=5"])

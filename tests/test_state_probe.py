"""The state probe: memory against colours on real screens, learning, the metric state on frames known beforehand, and its job."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from analysis.state_figures import known_mean_curve
from diamond_bench.config import DataConfig, EnvConfig, ExecutionConfig
from diamond_bench.config.probe import ProbeConfig
from diamond_bench.data.ram import load_ram
from diamond_bench.data.references import Windows
from diamond_bench.data.static import load_split
from diamond_bench.envs.atari import AtariEnv
from diamond_bench.envs.experts import EXPERTS
from diamond_bench.envs.games import actions, object_names, read_states
from diamond_bench.envs.policies import EpsilonGreedy
from diamond_bench.envs.ram_state import OBJECTS
from diamond_bench.errors import UserError
from diamond_bench.jobs import collect_dataset, train_state_probe
from diamond_bench.jobs.context import Interrupted, JobContext
from diamond_bench.metrics.state_meter import StateMeter, load_probe, make_state_meter, probe_rows, read_frames, state_rows
from diamond_bench.models.state_probe import StateProbe, decode, probe_loss, probe_targets
from diamond_bench.models.state_probe_cost import state_probe_cost
from diamond_bench.spaces import FrameSpec
from diamond_bench.store.kinds import CollectDataset, TrainStateProbe
from diamond_bench.store.rows import Row
from diamond_bench.studies.plan import plan_study

# ------------------------------------------------------------------------------------------------ memory against colours

# colour, and the part of the screen (left, top, right, bottom) in which nothing else has it
COLOURS = {
    ("Breakout", "ball"): ((200, 72, 72), (8, 93, 152, 189)),
    ("Breakout", "paddle"): ((200, 72, 72), (8, 189, 152, 193)),
    ("Pong", "ball"): ((236, 236, 236), (0, 34, 160, 194)),
    ("Pong", "player"): ((92, 186, 92), (0, 34, 160, 194)),
    ("Pong", "enemy"): ((213, 130, 74), (0, 34, 160, 194)),
    ("Boxing", "player"): ((214, 214, 214), (30, 30, 130, 180)),
    ("Boxing", "enemy"): ((0, 0, 0), (30, 30, 130, 180)),
    ("Freeway", "chicken"): ((252, 252, 84), (44, 14, 54, 196)),
}
STEPS = 400


def play(game: str) -> tuple[np.ndarray, np.ndarray]:
    """The last screens (STEPS, 210, 160, 3) of steps of a careless expert, and their memories; the game begins anew when it is over."""
    env, rng = AtariEnv(game, EnvConfig(frame_skip=1)), np.random.default_rng(0)  # a screen that is one frame, not two
    policy = EpsilonGreedy(EXPERTS[game](), 0.4, 30, actions(game), rng)
    _, info = env.reset(seed=1)
    screens, memories = [], []
    for _ in range(STEPS):
        over = False
        for _ in range(4):
            if not over:
                _, _, over, _, info = env.step(policy(info["ram"]))
        if over:  # the screen stays as it was before the end
            _, info = env.reset()
        screens.append(env.render())
        memories.append(info["ram"].copy())
    env.close()
    return np.stack(screens), np.stack(memories)


@pytest.mark.parametrize("game", OBJECTS)
def test_memory_holds_the_positions_of_the_colours(game: str) -> None:
    screens, memories = play(game)
    states = read_states(game, memories)
    for k, name in enumerate(object_names(game)):
        colour, (left, top, right, bottom) = COLOURS[game, name]
        mask = (screens[:, top:bottom, left:right] == np.array(colour, np.uint8)).all(axis=-1)
        if game == "Freeway":
            mask[:, 100 - top : 107 - top] = False  # the yellow line between the lanes
        seen, present = mask.any(axis=(1, 2)), states.present[:, k]
        assert (seen <= present).all(), f"{name} is seen where memory says it is not there"
        hidden = present & ~seen
        if (game, name) == ("Breakout", "ball"):
            hidden &= np.abs(states.positions[:, k, 1] * 210 - 141.5) < 45.5  # not among bricks or at the paddle
        assert not hidden.any(), f"{name} is not seen where memory says it is"
        middles = np.array([middle(mask[i]) for i in np.flatnonzero(seen)]) + np.array([left, top])
        errors = middles - states.positions[seen, k] * (160, 210)
        assert len(errors) > STEPS / 2
        assert np.abs(np.median(errors, axis=0)).max() <= 0.5  # of 160 and 210: a fifth of a pixel of the 64
        if game == "Boxing":  # an arm that reaches out is no move
            errors = errors[mask[seen].any(axis=1).sum(axis=1) <= OBJECTS[game][name].size[0]]
            assert len(errors) > 50
        assert (np.abs(errors).max(axis=1) > 1.1).mean() < (0.25 if game == "Freeway" else 0.04)  # a chicken half under the line
        assert np.ptp(states.positions[seen, k], axis=0).max() > 0.1, "it never moved, so nothing was tested"


def middle(mask: np.ndarray) -> tuple[float, float]:
    ys, xs = np.nonzero(mask)
    return (xs.min() + xs.max() + 1) / 2, (ys.min() + ys.max() + 1) / 2


def test_what_is_not_in_play_is_absent() -> None:
    memory = np.zeros(128, np.uint8)
    assert read_states("Pong", memory).present.tolist() == [False, False, False]
    memory[[99, 72]] = 100
    assert read_states("Breakout", memory).present.tolist() == [False, True]
    memory[101] = 250  # below the screen
    assert not read_states("Breakout", memory).present[0]
    memory[101] = 100
    assert read_states("Breakout", memory).positions[0] * (160, 210) == pytest.approx((52, 111), abs=1e-3)


# ------------------------------------------------------------------------------------------------ the probe

SIZE = 24


def dots(num: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frames (n, 3, SIZE, SIZE) with a dot of about one pixel, drawn between pixels, its place in pixels and whether it is there."""
    rng = np.random.default_rng(seed)
    places, present = torch.from_numpy(rng.uniform(2, SIZE - 2, (num, 1, 2))).float(), torch.from_numpy(rng.random((num, 1)) < 0.8)
    grid = torch.arange(SIZE) + 0.5
    bumps = [torch.exp(-((grid - places[..., axis, None]) ** 2)) for axis in (0, 1)]
    frames = 200 * bumps[1][:, 0, :, None] * bumps[0][:, 0, None, :] * present[..., None]
    return frames[:, None].expand(-1, 3, -1, -1).round().to(torch.uint8), places, present


def trained(steps: int = 200) -> StateProbe:
    frames, places, present = dots(512, 0)
    torch.manual_seed(0)
    probe = StateProbe(1, 12)
    optimizer = torch.optim.AdamW(probe.parameters(), 0.01)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.01 * min(1.0, (steps - step) / (0.5 * steps))
        chosen = torch.randint(len(frames), (32,), generator=generator)
        targets = probe_targets(places[chosen] / SIZE, present[chosen], (SIZE, SIZE))
        loss = probe_loss(probe(frames[chosen] / 127.5 - 1), targets, (SIZE, SIZE))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return probe.eval()


@pytest.fixture(scope="module")
def dot_probe() -> StateProbe:
    return trained()


@pytest.mark.parametrize("shape", [(24, 24), (17, 31)])
def test_decoding_undoes_the_targets(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    share = torch.from_numpy(rng.uniform(0.05, 0.95, (50, 2, 2))).float()
    present = torch.from_numpy(rng.random((50, 2)) < 0.5)
    places, there = decode(probe_targets(share, present, shape).clamp(min=1e-9).log(), shape)
    assert torch.equal(there, present)
    sides = torch.tensor([shape[1], shape[0]])
    assert (places - share * sides)[present].abs().max() < 0.3  # exact, save at the border of an odd side
    inner = present & ((share * sides > 2) & (share * sides < sides - 2)).all(dim=2)
    assert (places - share * sides)[inner].abs().max() < 1e-3


def test_the_loss_is_least_at_the_truth_and_teaches_absence() -> None:
    """Logits that are right everywhere else say "not there" as soon as the object's cells are taken away."""
    targets = probe_targets(torch.full((1, 1, 2), 0.5), torch.ones(1, 1, dtype=torch.bool), (SIZE, SIZE))
    right = targets.clamp(min=1e-6).log()
    right[..., -1] = -3.0  # less likely than the object, likelier than any other cell
    background = right.clone()
    background[..., -1] = -30.0  # right about this frame, but without the object some cell of the background would be it
    assert probe_loss(right, targets, (SIZE, SIZE)) < probe_loss(background, targets, (SIZE, SIZE))
    assert probe_loss(right.roll(40, dims=2), targets, (SIZE, SIZE)) > probe_loss(right, targets, (SIZE, SIZE))


def test_a_probe_learns_a_moving_dot_to_less_than_a_pixel(dot_probe: StateProbe) -> None:
    frames, places, present = dots(400, 1)
    found, seen = read_frames(dot_probe, frames)
    there = present.numpy()
    assert (seen == there).mean() > 0.97
    distance = np.linalg.norm(found - places.numpy(), axis=-1)[seen & there]
    assert np.quantile(distance, 0.95) < 1.0
    assert np.median(distance) < 0.5
    rows = values(probe_rows(found, seen, places.double().numpy(), there))
    assert rows["probe_position_median"] == pytest.approx(np.median(distance))
    assert rows["probe_presence_accuracy"] == pytest.approx((seen == there).mean())


def test_the_cost_is_that_of_the_built_network() -> None:
    probe, shape = StateProbe(3, 10), (16, 20)
    macs = 0

    def count(layer: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal macs
        macs += layer.weight.numel() * output.shape[-1] * output.shape[-2]  # type: ignore[operator,union-attr]

    for layer in probe.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    probe(torch.zeros(1, 3, *shape))
    cost = state_probe_cost(3, 10, FrameSpec(*shape))
    assert cost.flops == 2 * macs
    assert cost.parameters == sum(p.numel() for p in probe.parameters())


# ------------------------------------------------------------------------------------------------ the metric


def meter(probe: StateProbe, num: int, horizon: int) -> tuple[StateMeter, torch.Tensor]:
    """References of `horizon` frames of dots, one after the other, and their frames."""
    frames, places, present = dots(num * horizon, 2)
    truth = StateMeter(("dot",), probe, places.double().numpy(), present.numpy(), np.arange(num) * horizon)
    return truth, frames.reshape(num, horizon, 3, SIZE, SIZE)


def values(rows: list[Row]) -> dict[str, float]:
    return {row.metric: row.value for row in rows}


def test_true_frames_give_the_floor_and_erased_ones_presence_errors(dot_probe: StateProbe) -> None:
    truth, frames = meter(dot_probe, 8, 20)
    floor = values(state_rows(truth.errors(frames, range(8), 20)))
    assert floor["state_position_error"] < 0.5
    assert floor["state_presence_error"] < 0.03
    assert floor["state_position_error"] == floor["state_position_error_dot"]
    erased = truth.errors(torch.zeros_like(frames), range(8), 20)
    assert values(state_rows(erased))["state_presence_error"] == pytest.approx(truth.present.mean())
    assert np.isnan(values(state_rows(erased))["state_position_error"])  # nothing that is in both


def test_a_shift_is_measured_as_that_shift(dot_probe: StateProbe) -> None:
    truth, frames = meter(dot_probe, 8, 20)
    inside = (np.abs(truth.positions[:, 0] - SIZE / 2) < SIZE / 2 - 6).all(axis=1).reshape(8, 20) & truth.present.reshape(8, 20)
    shifted = F.pad(frames, (3, 0, 0, 0))[..., :-3]
    errors = truth.errors(shifted, range(8), 20)["state_position_error_dot"]
    assert np.median(errors[inside]) == pytest.approx(3.0, abs=0.4)


def test_errors_are_those_of_the_rows_asked_for(dot_probe: StateProbe) -> None:
    """Reference i is compared with its own truth at its own t, whatever else is in the batch."""
    truth, frames = meter(dot_probe, 6, 10)
    everything = truth.errors(frames, range(6), 10)
    some = truth.errors(frames[[4, 1]], [4, 1], 10)
    for name, whole in everything.items():
        assert some[name] == pytest.approx(whole[[4, 1]], nan_ok=True, abs=1e-4)
    late = truth.errors(frames.roll(1, dims=1), range(6), 10)
    assert np.nanmean(late["state_position_error_dot"]) > 5 * np.nanmean(everything["state_position_error_dot"])
    still = truth.errors(frames[:, :1], range(6), 10)  # one frame stands for all
    assert still["state_presence_error_dot"].shape == (6, 10)
    assert np.nanmax(still["state_position_error_dot"][:, 0]) < 1.5 < np.nanmean(still["state_position_error_dot"][:, 1:])


def test_the_curve_of_what_is_known_is_a_ratio_of_sums() -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(5, 1, (3, 40, 6))
    array[rng.random(array.shape) < 0.5] = np.nan
    array[..., 4] = np.nan
    curve = known_mean_curve(array)
    assert np.isnan(curve.mean[4])
    reported = [0, 1, 2, 3, 5]
    assert curve.mean[reported] == pytest.approx(np.nanmean(array[..., reported], axis=(0, 1)))
    assert (curve.low[reported] < curve.mean[reported]).all()
    assert np.isnan(known_mean_curve(np.full((1, 2, 3), np.nan)).mean).all()
    with pytest.raises(ValueError, match="finite, or NaN"):
        known_mean_curve(np.full((1, 2, 3), np.inf))


def test_the_band_of_such_a_curve_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(150):
        array = rng.normal(2, 1, (1, 60, 1))
        array[rng.random(array.shape) > 0.3] = np.nan
        curve = known_mean_curve(array)
        hits.append(curve.low[0] <= 2 <= curve.high[0])
    assert 0.88 <= np.mean(hits) <= 0.995


# ------------------------------------------------------------------------------------------------ the job


@pytest.fixture(scope="module")
def breakout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset of Breakout."""
    folder = tmp_path_factory.mktemp("breakout")
    data = DataConfig(epsilon=0.6, num_train_frames=1200, num_references=4, reference_horizon=40)
    collect_dataset.run(CollectDataset("Breakout", data=data), JobContext(folder))
    return folder


QUICK = TrainStateProbe(
    ProbeConfig(channels=4, num_steps=12, batch_size=4, pixel_noise=0.1, checkpoint_every=5), ExecutionConfig(num_threads=1)
)


def test_memory_comes_row_for_row_with_the_frames(breakout: Path) -> None:
    for split in ("train", "heldout"):
        frames, memory = load_split(breakout, split).frames, load_ram(breakout, split)  # type: ignore[arg-type]
        assert memory.shape == (len(frames), 128)
        paddle = read_states("Breakout", memory).positions[:, 1, 0] * 64
        row = frames[:, 0, 58].float().numpy()  # the paddle's row
        row[:, :5] = row[:, 60:] = 0
        seen = (row * (np.arange(64) + 0.5)).sum(axis=1) / np.maximum(row.sum(axis=1), 1)
        inner = (paddle > 10) & (paddle < 54)
        assert np.median(np.abs(seen - paddle)[inner]) < 1.0
    with pytest.raises(UserError, match="cannot be read"):
        load_ram(breakout.parent, "train")


def run_probe(config: TrainStateProbe, folder: Path, dataset: Path, **context: object) -> dict[str, torch.Tensor]:
    folder.mkdir(exist_ok=True)
    train_state_probe.run(config, JobContext(folder, {"dataset": dataset}, **context))  # type: ignore[arg-type]
    return load_probe(folder, torch.device("cpu"))[0].state_dict()


def test_a_probe_is_the_same_interrupted_or_not(breakout: Path, tmp_path: Path) -> None:
    whole = run_probe(QUICK, tmp_path / "whole", breakout)
    calls = iter([False] * 7 + [True] * 10)
    with pytest.raises(Interrupted, match="after update 8 of 12"):
        run_probe(QUICK, tmp_path / "cut", breakout, should_stop=lambda: next(calls))
    resumed = run_probe(QUICK, tmp_path / "cut", breakout)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    other = run_probe(replace(QUICK, probe=replace(QUICK.probe, seed=1)), tmp_path / "other", breakout)
    assert not torch.equal(other["first.weight"], whole["first.weight"])


@pytest.mark.slow
def test_a_probe_of_smoke_scale_reads_breakout(breakout: Path, tmp_path: Path) -> None:
    """Its own floor, on games it has not seen: paddle and ball to a fraction of a pixel; a ball that is painted over is missed."""
    probe = ProbeConfig(channels=12, num_steps=160, batch_size=24, learning_rate=0.008, adam_beta2=0.99, pixel_noise=0.05)
    run_probe(TrainStateProbe(probe, ExecutionConfig(num_threads=1)), tmp_path / "p", breakout)
    heldout = load_split(breakout, "heldout")
    starts = heldout.starts[heldout.lengths > 60]
    windows = Windows(heldout, starts[:1], 8, 40)
    found = make_state_meter(tmp_path / "p", breakout, windows)
    true = windows.frames()[:, 8:]
    floor = values(state_rows(found.errors(true, [0], 40)))
    assert floor["state_position_error_paddle"] < 1.5
    assert floor["state_position_error_ball"] < 1.5
    assert floor["state_presence_error"] < 0.2
    where = np.arange(40) + found.first[0]
    frames, missed = true.clone(), []
    for t, (x, y) in enumerate(found.positions[where, 0].astype(int)):
        if found.present[where[t], 0] and 30 < y < 54:  # between bricks and paddle there is nothing else
            frames[0, t, :, y - 3 : y + 4, max(3, x - 3) : min(61, x + 4)] = 0
            missed.append(t)
    assert missed
    errors = found.errors(frames, [0], 40)["state_presence_error_ball"][0, missed]
    assert errors.mean() > 0.7
    shifted = true.clone()
    shifted[..., 57:60, 8:56] = true[..., 57:60, 4:52]  # the paddle, four pixels to the right
    paddle = found.positions[where, 1, 0]
    inner = (paddle > 12) & (paddle < 46)
    if inner.any():
        assert np.nanmedian(found.errors(shifted, [0], 40)["state_position_error_paddle"][0, inner]) == pytest.approx(4.0, abs=1.5)


def test_a_damaged_probe_is_refused(breakout: Path, tmp_path: Path) -> None:
    run_probe(replace(QUICK, probe=replace(QUICK.probe, num_steps=1)), tmp_path / "p", breakout)
    weights = tmp_path / "p" / "probe" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(UserError, match="no state probe that can be read"):
        load_probe(tmp_path / "p", torch.device("cpu"))


# ------------------------------------------------------------------------------------------------ planning, and the whole way


def test_games_and_datasets_without_memory_are_refused(breakout: Path) -> None:
    with pytest.raises(UserError, match="table there is for Boxing, Breakout, Freeway, Pong, not for Alien"):
        plan_study("sampling_steps", ["scale=tiny", "metrics=[state]", "games=[Alien]", "data=random"])
    with pytest.raises(UserError, match="state needs the console's memory"):
        plan_study("sampling_steps", ["scale=tiny", "metrics=[state]", f"data.dataset={breakout / 'train'}"])

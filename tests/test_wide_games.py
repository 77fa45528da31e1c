"""Frames that are not square, actions of several columns and games without rewards, from collection to report."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from wide_games import COLUMNS, FAMILIES, HEIGHT, NUMBERS, WIDTH, Tints

from diamond_bench.config import ConditioningConfig, DataConfig, EnvConfig, NetworkConfig, TrainingConfig
from diamond_bench.data.minari_io import read_own_episodes
from diamond_bench.data.segments import sample_segments
from diamond_bench.data.static import load_info, load_split
from diamond_bench.envs import games
from diamond_bench.errors import UserError
from diamond_bench.jobs import collect_dataset
from diamond_bench.jobs.context import JobContext
from diamond_bench.launch.attempt import run_job
from diamond_bench.report import write_report
from diamond_bench.results.table import collect
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.store.artifacts import Store
from diamond_bench.store.kinds import CollectDataset, TrainWorldModel
from diamond_bench.studies.plan import SavedPlan, plan_study, save_plan
from diamond_bench.studies.single import plan_train
from diamond_bench.worlds.families import build_world_model

SMALL = ("network.depths=[1,1]", "network.channels=[8,8]", "network.attention=[false,false]", "data=random", "metrics=[drift]")


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for prefix, path in FAMILIES.items():
        monkeypatch.setitem(games.ENV_FAMILIES, prefix, path)


def swept(folder: Path, game: str, *tokens: str) -> tuple[SavedPlan, Store]:
    """A study of one variant on the game, all its jobs run in this process, and its report written."""
    file = folder / "wide.yaml"
    file.write_text(
        f"question: Do wide frames work?\nprotocol: world_model\ngames: [{game}]\nseeds: 1\n"
        "primary: {metric: drift, baseline: {}, margin: 0.01}\n"
    )
    plan = plan_study(str(file), ["scale=tiny", *SMALL, *tokens])
    store = Store(folder / "outputs", say=lambda text: None)
    for ref, spec in plan.jobs.items():
        store.prepare(spec)
        end = run_job(store, ref, "cpu")
        assert end.name == "done", end.text
    saved = save_plan(plan, store.root)
    page = write_report(saved, store, lambda text: None)[0]
    assert game in page.read_text()
    assert list(page.parent.glob("trajectories-*.png"))
    return saved, store


ATTENDED = ("conditioning.frames=both", "conditioning.attended_levels=[false,true]", "conditioning.history_depths=[1,1]")
GUIDED = ("conditioning.action_dropout=0.2", "sampler.guidance=1.5")


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize(
    ("game", "actions", "rewards", "tokens"),
    [
        pytest.param(
            *("columns/tints", COLUMNS, False, (*ATTENDED, "conditioning.history_channels=[8,8]", "conditioning.actions=planes")),
            id="columns",
            marks=pytest.mark.slow,  # test_extending.py runs a game with columns of actions, and without rewards, to its report
        ),
        pytest.param("numbers/tints", NUMBERS, True, GUIDED, id="numbers"),
    ],
)
def test_a_wide_game_runs_from_collection_to_report(
    tmp_path: Path, game: str, actions: ActionSpec, rewards: bool, tokens: tuple[str, ...]
) -> None:
    saved, store = swept(tmp_path, game, *tokens)
    folder = next((store.root / "collect_dataset").iterdir())
    info = load_info(folder)
    assert info.spec == WorldSpec(FrameSpec(HEIGHT, WIDTH), actions, rewards)
    train = load_split(folder, "train")
    assert train.frames.shape == (400, 3, HEIGHT, WIDTH)
    env = Tints(actions)
    episode = next(read_own_episodes(folder / "train" / "data"))
    shown = episode.frames[1:, -1, 0, [0, 2]]
    np.testing.assert_array_equal(shown, np.round(200 * env.brightness(episode.actions)).astype(np.uint8), "action t leads to frame t + 1")
    table = collect(saved, store)
    drift = table.loc[(table["metric"] == "drift") & table["seed"].notna(), "value"]
    assert len(drift) == 1
    assert np.isfinite(drift).all()
    media = np.load(next((store.root / "evaluate_world_model").glob("*/media/frames.npz")))
    assert media["imagined"].shape[2:] == (HEIGHT, WIDTH, 3)
    returns = table.loc[table["metric"] == "dataset_return", "value"]
    if rewards:
        assert set(returns) == {7.0 * 40}
    else:
        assert returns.empty, "a game without rewards has no returns, zeros least of all"
        assert info.content["mean_return"] is None
        assert "dataset_return" not in pd.read_parquet(next(store.root.glob("studies/wide/*/results.parquet")))["metric"].to_numpy()


def test_a_trained_denoiser_uses_every_column_of_the_action(tmp_path: Path) -> None:
    """With another game's values in one column, noise and all else equal, the loss is well above that of the true actions."""
    data = DataConfig(policy="random", num_train_frames=400, num_references=2, reference_context=4, reference_horizon=8)
    collect_dataset.run(CollectDataset("columns/tints", EnvConfig(), data), JobContext(tmp_path))
    episodes = load_split(tmp_path, "train")
    torch.manual_seed(0)
    network = NetworkConfig((1, 1, 1), (8, 8, 8), (False, False, False), 16)
    world = build_world_model(
        TrainWorldModel(0, conditioning=ConditioningConfig(2), network=network), WorldSpec(FrameSpec(HEIGHT, WIDTH), COLUMNS)
    )
    (trainable,) = world.trainables(TrainingConfig(num_autoregressive_steps=0))
    optimizer, generator = torch.optim.AdamW(trainable.network.parameters(), lr=5e-3), torch.Generator().manual_seed(0)
    for _ in range(80):
        loss, _ = trainable.loss(sample_segments(episodes, 8, 3, generator), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    drawn = sample_segments(episodes, 64, 3, torch.Generator().manual_seed(9))
    with torch.no_grad():
        losses = [float(trainable.loss(drawn, torch.Generator().manual_seed(1))[0])]
        for column in range(2):
            changed = drawn.actions.clone()
            changed[..., column] = changed[..., column].roll(1, 0)
            losses.append(float(trainable.loss(replace(drawn, actions=changed), torch.Generator().manual_seed(1))[0]))
    assert min(losses[1:]) > 1.2 * losses[0], losses


def test_what_does_not_fit_a_wide_game_is_refused_at_planning(tmp_path: Path) -> None:
    everything = "its actions are MultiDiscrete and it gives no rewards and its frames are 24 x 40"
    for game, said in (("columns/tints", everything), ("numbers/tints", "are Box")):
        with pytest.raises(UserError, match=rf"games=\[{game}\]: .*{said}.*an agent needs Discrete actions, rewards, square frames"):
            plan_train([f"game={game}", "scale=tiny"])
    study = ["scale=tiny", "games=[columns/tints]"]
    for tokens, said in (
        (["data=expert"], "no scripted expert for columns/tints"),
        (["data=random", "env.frame_size=32"], r"env.frame_size: it has no effect with games=\[columns/tints\]"),
        (["data=random", "env.sticky_actions=0.25"], "env.sticky_actions=0.25: columns/tints has none"),
        (
            ["data=random", "family=oracle"],
            "it restores saved states of the game, and those of columns/tints cannot",
        ),
        (["data=random", "metrics=[modes]"], "which is not known for columns/tints"),
        (["data=random", "metrics=[state]"], "not for columns/tints"),
        (["data=random", "metrics=[lpips]"], r"frames of at least 32 pixels"),
    ):
        with pytest.raises(UserError, match=said):
            plan_study("sampling_steps", [*study, *tokens])

"""The registry of environment families: what each says of its games, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diamond_bench.config import EnvConfig, imported
from diamond_bench.data.static import load_info, spec_facts
from diamond_bench.envs import games
from diamond_bench.envs.family import EnvFamily
from diamond_bench.envs.policies import EpsilonGreedy, random_action, random_policy
from diamond_bench.errors import UserError
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("prefix", games.ENV_FAMILIES)
def test_a_family_plays_what_it_says(prefix: str) -> None:
    family: EnvFamily = imported(games.ENV_FAMILIES[prefix])
    game, config = family.names()[0], EnvConfig()
    assert all(name.startswith(prefix) and ("/" in name) == bool(prefix) for name in family.names())
    spec, env = games.spec(game, config), games.make_env(game, config)
    assert games.family_of(game) is family
    assert spec.actions.kind == family.action_kind
    assert env.observation_space.shape == (*spec.frames.sides, 3)
    assert ActionSpec.of_space(env.action_space, spec.actions.names) == spec.actions
    assert family.saves == hasattr(env.unwrapped, "save_state") == hasattr(env.unwrapped, "load_state")
    frame, _ = env.reset(seed=1)
    assert frame.shape == (*spec.frames.sides, 3)
    assert {"environment", "life_rule", "action_set"} <= games.score_conditions(game, config).keys()
    assert family.reads <= vars(config).keys()
    assert set(family.experts) <= set(family.names())
    assert {name for known in family.names() for name in family.truth(known).objects} == set(family.objects)
    assert (family.truth(game).next_frames is None) == (not family.truth(game).past_frames)


@pytest.mark.parametrize(
    ("game", "near"),
    [
        ("Brakout", "Breakout"),
        ("synthetic/trun", "synthetic/turn"),
        ("syntethic/turn", "synthetic/turn"),
        ("turn/Breakout", "Breakout"),
        ("vizdoom/my_way_hom", "vizdoom/my_way_home"),
        ("vizdoom/map01", "vizdoom/MAP01"),
        ("e1m1", "vizdoom/E1M1"),
        ("doom/E1M1", "vizdoom/E1M1"),
        ("highway/highway-v9", "highway/highway-v0"),
        ("maze/lop", "maze/loop"),
    ],
)
def test_an_unknown_game_gets_the_nearest_of_all_families(game: str, near: str) -> None:
    for ask in (games.check_game, games.actions, lambda game: games.make_env(game, EnvConfig())):
        with pytest.raises(UserError, match=f"game='{game}': unknown game: did you mean .*{near}"):
            ask(game)


@pytest.mark.parametrize(
    ("game", "setting", "named"),
    [
        ("Breakout", {"minority_share": 0.3}, "Breakout has none"),
        ("synthetic/turn", {"frame_skip": 2}, "synthetic/turn has none"),
        (None, {"minority_share": 0.3}, "a dataset of your own has none"),
        ("synthetic/turn", {"frame_size": 20}, "a multiple of 8"),
        ("Breakout", {"frame_height": 36}, "Breakout has none, so it has no effect; use env.frame_size"),
        ("vizdoom/MAP01", {"frame_width": 64}, "set env.frame_height too"),
        ("highway/exit-v1", {"frame_height": 36}, "use env.frame_size"),
        ("vizdoom/MAP01", {"frame_skip": 2}, "vizdoom/MAP01 has none"),
    ],
)
def test_settings_that_a_game_does_not_have_are_refused(game: str | None, setting: dict[str, float], named: str) -> None:
    ((key, value),) = setting.items()
    with pytest.raises(UserError, match=rf"env\.{key}={value}.*{named}"):
        games.check_env(game, EnvConfig(**setting))  # type: ignore[arg-type]


def test_frames_are_not_larger_than_the_pictures_of_the_engine() -> None:
    games.check_env("vizdoom/MAP01", EnvConfig(frame_height=180, frame_width=320))
    with pytest.raises(UserError, match=r"env\.frame_width=321: larger than the engine's pictures.*at most env\.frame_width=320"):
        games.check_env("vizdoom/MAP01", EnvConfig(frame_height=180, frame_width=321))


def test_random_actions_are_of_their_space_and_discrete_ones_keep_their_bits() -> None:
    generator, same = np.random.default_rng(3), np.random.default_rng(3)
    assert [random_action(ActionSpec.discrete(5), generator) for _ in range(9)] == [int(same.integers(5)) for _ in range(9)]
    for spec in (ActionSpec.columns((2, 7)), ActionSpec.continuous((-1.0, 0.1), (1.0, 0.3))):
        play = EpsilonGreedy(random_policy(spec, generator), 0.5, 2, spec, generator)
        drawn = np.stack([play(None) for _ in range(50)])
        assert all(spec.space().contains(action) for action in drawn)
        assert len(np.unique(drawn[:, 1])) > 5


@pytest.mark.parametrize("rewards", [True, False])
@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("actions", [ActionSpec.discrete(3), ActionSpec.discrete(2, ("NOOP", "UP")), ActionSpec.columns((2, 2))], ids=str)
@pytest.mark.parametrize("frames", [FrameSpec(16, 16), FrameSpec(24, 40)], ids=str)
def test_a_dataset_says_what_its_game_is_like(frames: FrameSpec, actions: ActionSpec, ends: bool, rewards: bool, tmp_path: Path) -> None:
    spec = WorldSpec(frames, actions, rewards, ends)
    counts = {"train": {"frames": 9}, "heldout": {"frames": 9}}
    (tmp_path / "dataset.json").write_text(json.dumps({**spec_facts(spec), **counts}))
    assert load_info(tmp_path).spec == spec


def test_no_other_room_branches_on_a_family() -> None:
    """A game's family is asked; nobody else compares names with it."""
    files = [path for path in (ROOT / "diamond_bench").rglob("*.py") if path.parent.name != "envs"]
    wrong = [f"{path}: {word}" for path in files for word in ("SYNTHETIC", '"synthetic', "envs.synthetic") if word in path.read_text()]
    assert not wrong


def test_the_page_of_data_has_a_row_for_every_family() -> None:
    assert games.environments_table() in (ROOT / "docs" / "data.md").read_text()


def test_families_load_without_torch_and_emulators() -> None:
    code = (
        "import sys; from diamond_bench.envs import games as g; g.games(); g.spec('synthetic/turn', g.EnvConfig());"
        "[g.spec(name, g.EnvConfig()) for name in ('vizdoom/MAP01', 'highway/exit-v1')];"
        "print(sorted({'torch', 'cv2', 'diamond_bench.envs.atari', 'vizdoom', 'highway_env', 'pygame'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"

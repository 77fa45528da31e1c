"""Driving: actions and their signs, episodes that follow from their seed, and black pictures that are refused."""

import gymnasium
import numpy as np
import pytest

from diamond_bench.config import EnvConfig
from diamond_bench.envs import games
from diamond_bench.envs.driver import VARIABLES
from diamond_bench.envs.roads import IDS
from diamond_bench.errors import UserError

pytest.importorskip("highway_env")

ROAD = "highway/highway-v0"


def variable(info: dict[str, np.ndarray], name: str) -> float:
    return float(info["ram"][: 4 * len(VARIABLES)].view("<f4")[VARIABLES.index(name)])


@pytest.mark.parametrize("name", IDS)
def test_every_road_is_driven_and_seen(name: str) -> None:
    game = f"highway/{name}"
    env, policy = games.make_env(game, EnvConfig()), games.make_policy("expert", game, np.random.default_rng(0))
    frame, info = env.reset(seed=0)
    frames = [frame]
    for _ in range(3):
        frame, reward, *_, info = env.step(policy(info["ram"], None))
        frames.append(frame)
        assert np.isfinite(reward)
    assert frame.std() > 5
    assert len({each.tobytes() for each in frames}) > 3
    env.close()


def test_an_episode_follows_from_its_seed_and_a_saved_state_continues_it() -> None:
    env, other = games.make_env(ROAD, EnvConfig()), games.make_env(ROAD, EnvConfig())

    def drive(of: gymnasium.Env, seed: int, steps: int) -> list[bytes]:
        policy = games.make_policy("expert", ROAD, np.random.default_rng(seed))
        frame, info = of.reset(seed=seed)
        frames = [frame.tobytes()]
        for _ in range(steps):
            frame, _, _, _, info = of.step(policy(info["ram"], None))
            frames.append(frame.tobytes())
        return frames

    first = drive(env, 1, 6)
    assert drive(env, 2, 1)[0] != first[0]
    assert drive(other, 1, 6) == first == drive(env, 1, 6)
    state = env.unwrapped.save_state()
    straight = np.zeros(2, np.float32)
    expected = [env.step(straight)[0].tobytes() for _ in range(3)]
    env.unwrapped.load_state(state)
    assert [env.step(straight)[0].tobytes() for _ in range(3)] == expected
    env.close()
    other.close()


def test_actions_have_the_stated_signs() -> None:
    env = games.make_env(ROAD, EnvConfig())
    for action, name, sign in (((1, 0), "speed", 1), ((-1, 0), "speed", -1), ((0, 0.3), "heading", 1)):
        _, info = env.reset(seed=0)
        before = variable(info, name)
        *_, info = env.step(np.array(action, np.float32))
        change = variable(info, name) - before
        assert np.sign(change) == sign, (name, action)
        if name == "speed":
            assert abs(change) == pytest.approx(0.5, abs=1e-4), "5 m/s^2 for a tenth of a second"
    env.close()


def test_the_driver_stays_on_the_road_longer_than_chance() -> None:
    lengths = {}
    for policy in ("expert", "random"):
        env, drive = games.make_env(ROAD, EnvConfig()), games.make_policy(policy, ROAD, np.random.default_rng(0))
        _, info = env.reset(seed=0)
        over, lengths[policy] = False, 0
        while not over and lengths[policy] < 80:
            _, _, over, _, info = env.step(drive(info["ram"], None))
            lengths[policy] += 1
        env.close()
    assert lengths["expert"] == 80 > lengths["random"]


def test_black_pictures_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    for ask in (games.check_env, games.make_env):
        with pytest.raises(UserError, match=r"highway-v0: with SDL_VIDEODRIVER=dummy all its pictures are black; unset the variable"):
            ask(ROAD, EnvConfig())


def test_drawing_prints_nothing_about_displays(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    pygame = pytest.importorskip("pygame")
    pygame.display.quit()
    env = games.make_env(ROAD, EnvConfig())
    env.reset(seed=0)
    env.close()
    assert capfd.readouterr().err == ""

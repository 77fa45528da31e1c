"""The policy look_around: how it turns and walks, and where it is refused. It needs no game."""

import numpy as np
import pytest

from diamond_bench.envs import games
from diamond_bench.envs.first_person import ACTIONS, MOUSE_X
from diamond_bench.errors import UserError
from diamond_bench.studies.plan import plan_study

HOME = "vizdoom/my_way_home"


def test_it_turns_to_both_sides_as_often_and_walks_a_twentieth_of_the_time() -> None:
    policy = games.make_policy("look_around", HOME, np.random.default_rng(0))
    actions = np.array([policy(None, None) for _ in range(20_000)])
    assert (actions >= 0).all()
    assert (actions < ACTIONS.sizes).all()
    counts, forward = np.array(MOUSE_X)[actions[:, ACTIONS.names.index("mouse_x")]], actions[:, ACTIONS.names.index("forward")]
    sizes, shares = np.unique(counts, return_counts=True)
    assert sizes.tolist() == [-100, -60, -30, 0, 30, 60, 100]
    assert shares / len(counts) == pytest.approx([1 / 8] * 3 + [1 / 4] + [1 / 8] * 3, abs=0.02)
    assert forward.mean() == pytest.approx(0.005 / 0.105, abs=0.02)
    # a new turn is drawn with probability 0.3, and equals the last one with probability 10/64
    assert (counts[1:] != counts[:-1]).mean() == pytest.approx(0.3 * (1 - 10 / 64), abs=0.015)
    others = np.delete(actions, [ACTIONS.names.index(name) for name in ("forward", "mouse_x")], axis=1)
    assert len(np.unique(others, axis=0)) == 1


def test_games_without_it_refuse_it() -> None:
    with pytest.raises(UserError, match=r"data\.policy=look_around: not for Pong; valid: expert, random"):
        plan_study("sampling_steps", ["scale=tiny", "games=Pong", "data.policy=look_around"])

"""Keys to actions: joysticks, other names, several columns, the mouse."""

import numpy as np
import pytest

from diamond_bench.envs.games import actions
from diamond_bench.errors import UserError
from diamond_bench.play.keys import key_map
from diamond_bench.spaces import ActionSpec


@pytest.mark.parametrize(
    ("game", "held", "expected"),
    [
        ("Boxing", "", "NOOP"),
        ("Boxing", "KeyW", "UP"),
        ("Boxing", "ArrowUp ArrowRight", "UPRIGHT"),
        ("Boxing", "KeyW ArrowRight Space", "UPRIGHTFIRE"),
        ("Boxing", "Space KeyS KeyA", "DOWNLEFTFIRE"),
        ("Boxing", "KeyA KeyD", "RIGHT"),
        ("Boxing", "KeyD KeyA", "LEFT"),
        ("Boxing", "KeyD KeyW KeyA", "UPLEFT"),
        ("Boxing", "KeyP Escape", "NOOP"),
        ("Breakout", "KeyD", "RIGHT"),
        ("Breakout", "KeyW", "NOOP"),
        ("Breakout", "KeyD Space", "FIRE"),
        ("Breakout", "Space KeyD", "RIGHT"),
        ("Pong", "Space ArrowLeft", "LEFTFIRE"),
        ("synthetic/turn", "ArrowLeft", "LEFT"),
    ],
)
def test_held_keys_give_the_longest_action(game: str, held: str, expected: str) -> None:
    spec = actions(game)
    assert spec.names[int(key_map(spec).action(held.split()))] == expected


def test_every_action_of_every_combination_can_be_played() -> None:
    for game in ("Boxing", "Breakout", "Pong", "MsPacman", "synthetic/turn"):
        spec = actions(game)
        keys = key_map(spec)
        rows = keys.table()
        assert [name for name, _ in rows] == list(spec.names)
        for number, (_, ways) in enumerate(rows):
            for way in ways:
                assert keys.action(way.split("+")) == number
        assert rows[0] == ("NOOP", ())


def test_actions_without_names_have_digits() -> None:
    keys = key_map(ActionSpec.discrete(4))
    assert [int(keys.action(held)) for held in ([], ["Digit1"], ["Digit3"], ["Digit1", "Digit2"])] == [0, 1, 3, 2]
    assert not {"KeyE", "KeyM", "Enter", "Period"} & key_map(ActionSpec.discrete(28)).buttons.keys()  # keys of the page
    with pytest.raises(UserError, match="keys"):
        key_map(ActionSpec.discrete(100))


def test_columns_follow_their_latest_key() -> None:
    keys = key_map(ActionSpec.columns((3, 2), ("red", "blue")))
    assert keys.table() == [("red = 1", ("Digit1",)), ("red = 2", ("Digit2",)), ("blue = 1", ("Digit3",))]
    assert keys.action(["Digit1", "Digit3", "Digit2"]).tolist() == [2, 1]
    assert keys.action(["Digit2", "Digit1"]).tolist() == [1, 0]


def test_a_box_follows_the_mouse_within_its_bounds() -> None:
    keys = key_map(ActionSpec.continuous((-10.0, -5.0, 0.5), (10.0, 5.0, 1.0), ("mouse_x", "mouse_y", "gas")))
    found = keys.action([], (3.5, -40.0))
    assert found.dtype == np.float32
    assert found.tolist() == [3.5, -5.0, 0.5]
    assert keys.action(["Digit6", "Digit1"], (3.5, 1.0)).tolist() == [-10.0, 1.0, 1.0]


def test_first_person_games_have_their_own_keys_and_the_mouse_chooses_bins() -> None:
    spec = actions("vizdoom/MAP01")
    keys = key_map(spec)
    names = {name: number for number, name in enumerate(spec.names)}
    still = keys.action([])
    assert still.tolist() == [0] * 13 + [11, 7], "no motion is the middle of the bins"
    taken = keys.action(["KeyW", "ShiftLeft", "Mouse0", "ArrowRight"])
    assert [name for name in spec.names[:13] if taken[names[name]]] == ["forward", "run", "fire"]
    assert taken[names["mouse_x"]] == 17  # 60 counts
    assert keys.action([], (-50.0, 4.0)).tolist()[-2:] == [4, 10]  # -100 and 10 counts, two per pixel
    assert keys.action([], (1e5, -1e5)).tolist()[-2:] == [22, 0]
    assert keys.action(["ArrowLeft"], (50.0, 0.0))[names["mouse_x"]] == 5, "a key wins over the mouse"
    assert keys.mouse
    assert not key_map(ActionSpec.columns((3, 2), ("mouse_x", "use"))).mouse
    rows = dict(keys.table())
    assert rows["forward"] == ("KeyW",)
    assert rows["mouse_x = -60"] == ("ArrowLeft",)
    assert len(rows) == 17


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ("KeyW KeyS", ["back"]),
        ("KeyS KeyD KeyW KeyA", ["forward", "left"]),
        ("Digit1 Digit3 Digit2 KeyC", ["crouch", "weapon_2"]),
        ("ArrowUp ArrowDown", ["mouse_y"]),
    ],
)
def test_of_opposite_keys_the_later_one_counts(held: str, expected: list[str]) -> None:
    spec = actions("vizdoom/MAP01")
    keys = key_map(spec)
    still, taken = keys.action([]), keys.action(held.split())
    assert [name for name, value, before in zip(spec.names, taken, still, strict=True) if value != before] == expected
    if expected == ["mouse_y"]:
        assert taken[-1] == 12, "50 counts down, as in the authors' game"


def test_a_car_is_driven_like_a_joystick() -> None:
    keys = key_map(ActionSpec.continuous((-1.0, -1.0), (1.0, 1.0), ("acceleration", "steering")))
    assert keys.action(["KeyW", "ArrowLeft"]).tolist() == [1, -1]
    assert keys.action(["KeyS", "KeyD"]).tolist() == [-1, 1]
    assert keys.action([]).tolist() == [0, 0]
    assert keys.table()[0] == ("acceleration = -1", ("KeyS", "ArrowDown"))

"""Specs of frames and actions: three kinds of gymnasium's spaces, to and from plain data."""

import json
import math

import gymnasium
import numpy as np
import pytest

from diamond_bench.errors import UserError
from diamond_bench.spaces import ActionSpec, FrameSpec

DISCRETE = ActionSpec.discrete(3, ("NOOP", "LEFT", "RIGHT"))
COLUMNS = ActionSpec.columns((2, 23, 15), ("jump", "x", "y"))
CONTINUOUS = ActionSpec.continuous((-1.0, 0.1), (1.0, 0.5))


@pytest.mark.parametrize(
    ("spec", "kind", "width", "shape", "shown"),
    [
        (DISCRETE, "Discrete", 3, (), "Discrete(3)"),
        (COLUMNS, "MultiDiscrete", 40, (3,), "MultiDiscrete([2, 23, 15])"),
        (CONTINUOUS, "Box", 2, (2,), "Box(2)"),
    ],
)
def test_a_spec_survives_json_and_gymnasium(spec: ActionSpec, kind: str, width: int, shape: tuple[int, ...], shown: str) -> None:
    assert (spec.kind, spec.width, spec.shape, str(spec)) == (kind, width, shape, shown)
    assert ActionSpec.from_plain(json.loads(json.dumps(spec.to_plain()))) == spec
    space = spec.space()
    assert type(space).__name__ == kind
    assert space.shape == shape
    assert ActionSpec.of_space(space, spec.names) == spec


def test_withheld_is_a_value_no_action_has() -> None:
    assert DISCRETE.withheld == COLUMNS.withheld == -1
    assert math.isnan(CONTINUOUS.withheld)


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Discrete(3, start=1),
        gymnasium.spaces.Box(-np.inf, np.inf, (2,)),
        gymnasium.spaces.Box(-1e200, 1e200, (2,), np.float64),
        gymnasium.spaces.Box(0, 1, (2, 2)),
        gymnasium.spaces.MultiBinary(3),
    ],
)
def test_other_spaces_are_refused(space: gymnasium.Space[object]) -> None:
    with pytest.raises(UserError, match="action space"):
        ActionSpec.of_space(space)


@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"kind": "Discrete", "sizes": [0]},
        {"kind": "Discrete", "sizes": [2, 3]},
        {"kind": "Box", "sizes": [2], "low": [0], "high": [1]},
        {"kind": "Box", "sizes": [0], "low": [1], "high": [0]},
        {"kind": "Discrete", "sizes": [2], "names": ["one"]},
    ],
)
def test_a_damaged_spec_is_refused(plain: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        ActionSpec.from_plain(plain)


def test_frames_have_a_height_and_a_width() -> None:
    assert (FrameSpec(24, 40).pixels, str(FrameSpec(24, 40))) == (960, "24 x 40")
    assert FrameSpec.square(8) == FrameSpec(8, 8)

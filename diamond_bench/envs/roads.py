"""The roads of highway-env and how they are driven. Without the package."""

from diamond_bench.spaces import ActionSpec

RATE = 10
"""Steps per second."""
MAX_STEPS = 400
"""Steps after which an episode is truncated: 40 seconds."""
CARS = 20
"""Other cars on a highway. Each takes time, and a picture shows 46 metres."""
IDS = ("highway-v0", "exit-v1", "u-turn-v1", "intersection-v2")
"""The environments with continuous steering and acceleration, by gymnasium's ids."""
ACTIONS = ActionSpec.continuous((-1.0, -1.0), (1.0, 1.0), ("acceleration", "steering"))
"""Acceleration, -1 to 1, is -5 to 5 m/s^2. Steering, -1 to 1, is -45 to 45 degrees, positive to the right."""

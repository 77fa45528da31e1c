"""Doom's campaign maps (Freedoom) and ViZDoom's scenarios, and how they are played. Without the package vizdoom."""

from collections.abc import Mapping

RENDERED = (180, 320)
"""Height and width of the engine's pictures."""
FRAME_SKIP = 2
"""Tics per step. The engine has 35 tics per second, so a step is 1 / 17.5 s."""
CAMPAIGN_STEPS = 5250
"""Steps after which an episode of a campaign map is truncated: 5 minutes."""
SCENARIOS = (
    "basic",
    "deadly_corridor",
    "deathmatch",
    "defend_the_center",
    "defend_the_line",
    "health_gathering",
    "health_gathering_supreme",
    "my_way_home",
    "predict_position",
    "rocket_basic",
    "simpler_basic",
    "take_cover",
)
"""The single-player scenarios of ViZDoom, by the names of their configuration files."""
MAPS: Mapping[str, str] = {f"E{episode}M{number}": "freedoom1.wad" for episode in range(1, 5) for number in range(1, 10)} | {
    f"MAP{number:02}": "freedoom2.wad" for number in range(1, 33)
}
"""The campaign maps, and the file of each."""

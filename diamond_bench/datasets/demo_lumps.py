"""Reads recordings of Doom 1.9: the inputs of every player at every tic (1/35 s)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diamond_bench.errors import UserError

TICS_PER_SECOND = 35
_VERSION = 109
_HEADER_BYTES, _COMMAND_BYTES, _PLAYERS, _END = 13, 4, 4, 0x80


@dataclass(frozen=True)
class Demo:
    """A recording."""

    skill: int
    """0 to 4, the easiest first."""
    episode: int
    map: int
    """Number of the map in its episode. In Doom II, the number of the map alone."""
    players: tuple[int, ...]
    """Numbers of the players in the game, from 0."""
    view: int
    """Number of the player whose view is shown."""
    commands: NDArray[np.uint8]
    """(tics, players, 4): forward (signed), side (signed, + is right), turn (signed, + is left, 256 is a full circle), buttons."""

    @property
    def viewer(self) -> NDArray[np.uint8]:
        """(tics, 4): the commands of the player whose view is shown."""
        return self.commands[:, self.players.index(self.view)]


def parse_demo(lump: bytes, name: str) -> Demo:
    """Reads a recording. `name` is for messages.

    The layout: 13 bytes of header (version, skill, episode, map, deathmatch, respawn, fast, no monsters, view, four flags of players), then
    4 bytes per tic and player. A tic that begins with the byte 0x80 is the end. Some programs write a footer after it.

    Raises UserError if the lump is truncated, of another version, or contradicts itself.
    """
    if len(lump) < _HEADER_BYTES:
        raise UserError(f"{name}: truncated: {len(lump)} bytes, and the header of a demo has {_HEADER_BYTES}")
    version, skill, episode, number, *_, view = lump[:9]
    flags = lump[9:_HEADER_BYTES]
    if version != _VERSION:
        raise UserError(f"{name}: a demo of version {version}; expected {_VERSION} (Doom 1.9)")
    players = tuple(player for player in range(_PLAYERS) if flags[player])
    if max(flags) > 1 or view not in players:
        raise UserError(f"{name}: the view is that of player {view}, and the players in the game are {list(flags)}")
    width = _COMMAND_BYTES * len(players)
    ends = range(_HEADER_BYTES, len(lump), width)
    end = next((place for place in ends if lump[place] == _END), None)
    if end is None:
        tics = (len(lump) - _HEADER_BYTES) // width
        raise UserError(f"{name}: truncated: no end after {tics:,} tics of {len(players)} players")
    commands = np.frombuffer(lump[_HEADER_BYTES:end], np.uint8).reshape(-1, len(players), _COMMAND_BYTES)
    return Demo(skill, episode, number, players, view, commands)

"""The WADs of Freedoom, the free game data in the wheel of ViZDoom: where they are, their checksums, and the lumps in them.

ViZDoom itself is never imported. Freedoom has a BSD-like licence of three clauses.
"""

import hashlib
import importlib.util
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from diamond_bench.errors import UserError, nearest
from diamond_bench.reading import read_file

_HEADER, _ENTRY = struct.Struct("<4sii"), struct.Struct("<ii8s")


@dataclass(frozen=True)
class Wad:
    """The size and checksum of a WAD file."""

    size: int
    """Bytes."""
    sha256: str


WADS = {
    "freedoom1": Wad(28_795_076, "7323bcc168c5a45ff10749b339960e98314740a734c30d4b9f3337001f9e703d"),
    "freedoom2": Wad(28_787_748, "a8772e088847032510d97ba2312406a6998f21cbab44d4ff10696faa9c0ecd4b"),
}
"""The files of vizdoom 1.3.2. Other versions of Freedoom have other maps, with which the demos do not play."""


def find_wads() -> dict[str, Path]:
    """The checked files of `WADS` in the installed package vizdoom. Raises UserError if it or a file is missing, or is another one."""
    found = importlib.util.find_spec("vizdoom")
    if found is None or not found.submodule_search_locations:
        raise UserError("the WADs of Freedoom are in the package vizdoom, which is not installed: pip install '.[envs3d]' in the checkout")
    folder = Path(found.submodule_search_locations[0])
    files = {name: folder / f"{name}.wad" for name in WADS}
    for name, file in files.items():
        _check(file, WADS[name])
    return files


def _check(file: Path, wad: Wad) -> None:
    remedy = "install the version that has it: pip install vizdoom==1.3.2"
    try:
        content = read_file(file, wad.size)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}; {remedy}") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != wad.sha256:
        found, expected = f"{len(content):,} bytes, SHA-256 {digest}", f"{wad.size:,} bytes, {wad.sha256}"
        raise UserError(f"{file}: another WAD ({found}), expected {expected}; {remedy}")


def read_lumps(file: Path, names: Iterable[str], most: int = 2**28) -> dict[str, bytes]:
    """The content of lumps by their names. Raises UserError if the file is no WAD of at most `most` bytes, or lacks a lump."""
    try:
        content = read_file(file, most)
        magic, count, directory = _HEADER.unpack_from(content)
        if magic not in (b"IWAD", b"PWAD") or count < 0 or directory < 0:
            raise ValueError(f"its first bytes are {magic!r}")
        entries = [_ENTRY.unpack_from(content, directory + number * _ENTRY.size) for number in range(min(count, len(content)))]
    except (OSError, ValueError, struct.error) as error:
        raise UserError(f"{file}: not a readable WAD ({getattr(error, 'strerror', None) or error})") from None
    lumps = {name.rstrip(b"\0").decode("latin1"): (start, size) for start, size, name in entries}
    found = {}
    for wanted in names:
        if wanted not in lumps:
            raise UserError(f"{file}: it has no lump {wanted} ({nearest(wanted, lumps)})")
        start, size = lumps[wanted]
        if min(start, size) < 0 or start + size > len(content):
            raise UserError(f"{file}: the lump {wanted} lies outside of the file")
        found[wanted] = content[start : start + size]
    return found

"""The protocol between the page and the server: what may be sent, its limits, and how pictures are packed. No network, no torch.

The server has `/` (page/index.html), the other files of page/, and `/ws`. The printed address ends in `?token=...`. It sets a cookie,
which all further requests carry, so the page may remove the token from its address.

The page opens one WebSocket at `/ws`, sends `hello` first, and gets `welcome`, `state`, `tree` and one `frame`. Then both sides send
whenever they like. Numbers are JSON numbers, and times called `at` are the page's `performance.now()`, which the server only hands back.

**From the page**, JSON text of at most MAX_TEXT bytes. `do` names the message, and the dataclasses of this file (`Hello` to `Ack`) are
the exact keys: those with a default may be left out, others are malformed. An example of each:

    {"do": "hello", "session": null}                  first message. A session's id continues it, null begins a new one
    {"do": "keys", "held": ["KeyW", "Space"], "motion": [0, 0], "at": 1234.5}
                                                      all keys of the game that are held, in the order in which they were pressed
    {"do": "act", "action": 3}                        one action for the next step, before any key. A list for several columns
    {"do": "run"}  {"do": "pause"}                    a session begins paused
    {"do": "step"}                                    pauses, then plays one step
    {"do": "player", "who": "policy", "lane": 0}      human, policy or recording. `lane`: whose policy
    {"do": "rewind", "steps": 15}                     back on the path
    {"do": "go", "moment": 12}                        to any moment that was played. Both stop a run. A step after them begins a branch
    {"do": "change", "lane": 0, "setting": {"sampler": {"name": "euler", "num_steps": 1}, "milestone": null}}
                                                      holds from the next step. Keys of the sampler that are left out are neutral
    {"do": "seed", "seed": 7}                         of the next steps
    {"do": "fps", "fps": 15}                          steps per second, above 0 and at most MAX_FPS
    {"do": "horizon", "steps": 50}                    play stops at this step. 0 is no limit
    {"do": "pictures", "format": "png"}               png, webp (lossless both) or jpeg
    {"do": "compare", "lane": 0}                      the lane whose difference from the real game is shown. null is none
    {"do": "reset", "start": 3, "seed": 0}            saves and begins again. `start`: an index of `welcome.starts`. Both may be null:
                                                      as before. Whether it runs and who plays stay
    {"do": "starts", "first": 0}                      asks for `thumbnails`, at most THUMBNAILS from this index on
    {"do": "strip", "lane": 0}                        pauses, and asks for the `strip` of the present frame
    {"do": "save"}                                    writes the recordings. The answer is `saved`
    {"do": "ack", "number": 17, "shown": 1250.2}      after the frame with this number was drawn. At most UNSEEN frames are sent without

A key that is pressed and released between two steps counts for one step. Motion is summed until a step takes it. When play is over (the
horizon, the end of the recording, or the end of the game in all lanes), it stops and `state.over` says why. After the end of the game,
`run` still continues. The other two need a rewind, a reset or another horizon.

**To the page, JSON text.** `kind` names the message.

welcome: answers `hello`. Keys:
    session (its id), version, game, notes [text], recording (its number of steps, or null), reference (the real game's lane, or null),
    lanes [as `LaneFacts`, and setting: the first one], starts [[recording, step]], form (see `form.settings_form`),
    actions {kind, sizes, names, low, high}, keys [[name of the action, [keys joined with +]]], game_keys [code], mouse (whether its motion
    plays), limits {max_fps, unseen, thumbnails, keys, horizon, seed}
state: on every change. Keys:
    player, lane (whose policy), running, fps, horizon, pictures, seed, start (index, or null), settings [one per lane], compare, over (a
    sentence, or null)
tree: before a frame that begins a branch, and after a reset, which counts moments from 0 again. Keys:
    runs [[number of the first moment, the moment before it or null, its step, number of moments]], now. Moments of a run have consecutive
    numbers and steps. A frame whose moment has a higher number than any before continues the last run
saved: answers `save`, and comes after a reset that saved. Keys: files [path on the server]
notice: a mistake, or something to know. Keys: text

**To the page, binary.** 4 bytes: the length of the JSON, unsigned, little-endian. Then the JSON, with `kind`. Then pictures, one after the
other, in the order in which the JSON gives their `bytes`. A picture's format shows in its first bytes.

frame. Keys:
    number (counts frames), moment, before (the moment before it, or null), step, action (null at the start), keys_at (`at` of the keys that
    this frame is the first to answer, or null), fps (true steps per second, or null), model_ms, encode_ms, latency_ms ([p50, p95] from key
    to picture of the last 300, or null), dropped (frames that were not sent until now), lanes (below), difference ({lane, bytes} or null;
    its picture comes last)
each of frame.lanes. Keys:
    bytes, low_bytes (of the frame at low resolution, or null; these pictures come after those of all lanes), reward, return (the sum of
    rewards since the start), ended and cut (here or before), p_reward (of -1, 0 and 1), p_end, lives, policy (the probability of each
    action), value, entropy (bits), mse (from the real game, pixels in [0, 1]), psnr (dB). From p_reward on, null where there is none. An
    infinite psnr is null too, and its mse is 0
thumbnails. Keys:
    first, of (the number of all starts), starts [{place, bytes}]
strip. Keys:
    lane, moment, of (the number of calls, of which at most STRIP are sent), calls [{call, sigma, bytes: [noisy, clean]}]

**Closing codes of the WebSocket.** 1001: the server stops. 1008: too many malformed messages, or no `hello`. 1009: a message is too long.
1013: too many tabs. TAKEN: another connection continues this session; do not reconnect. After any other code, reconnect with `hello` and
the session's id. A session without a page is paused, and saved and closed after LEFT seconds.
"""

import dataclasses
import json
import struct
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diamond_bench.errors import nearest
from diamond_bench.play.options import MAX_FPS, MAX_HORIZON, MAX_SEED, Pictures, Player
from diamond_bench.reading import load_json
from diamond_bench.shapes import Mismatch, Shape, anything, bounded, count, listing, mapping, nullable, number, record, row, text, whole

MAX_TEXT = 2048
"""Bytes of a message from the page."""
MAX_KEYS = 16
"""Keys that are held at once."""
UNSEEN = 2
"""Frames that are sent before the page has acknowledged one of them. The newest waits, and older ones are dropped."""
THUMBNAILS = 48
"""Start pictures in one message."""
STRIP = 32
"""Network calls in one film strip. Of more, as many are chosen at equal distances, the first and the last among them."""
TAKEN = 4001
LEFT = 60.0
RATE, BURST = 120.0, 240
"""Messages per second, and at once. Beyond them only `keys` and `ack` count, since the newest of them replaces the others."""
MALFORMED, WITHIN = 10, 10.0
"""So many malformed messages within so many seconds close the connection."""


class Malformed(ValueError):
    """A message that the page may not send. Its text says why."""


def _between(low: float, high: float, of: Shape = number) -> Shape:
    def check(value: Any) -> None:
        of(value)
        if not low <= value <= high:
            raise Mismatch(f"{low:g} to {high:g}", value)

    return check


def _word(*words: str) -> Shape:
    def check(value: Any) -> None:
        if value not in words:
            raise Mismatch(f"one of {', '.join(words)}", value)

    return check


def _action(value: Any) -> None:
    bounded(listing(number, 1), 64)(value) if isinstance(value, list) else whole(value)


def _of(shape: Shape, default: Any = dataclasses.MISSING) -> Any:
    """A field of a message. Without a default it must be sent."""
    return dataclasses.field(default=default, metadata={"shape": shape})


_TIME = _between(0, 1e12)
_LANE = _between(0, 63, count)
_SEED = _between(0, MAX_SEED, count)


@dataclass(frozen=True)
class Hello:
    """The first message of a connection."""

    session: str | None = _of(nullable(bounded(text, 64)), None)


@dataclass(frozen=True)
class Keys:
    """The whole state of the keys, so that a lost message harms nothing."""

    held: list[str] = _of(bounded(listing(bounded(text, 20)), MAX_KEYS))
    at: float = _of(_TIME)
    motion: list[float] = _of(row(_between(-1e5, 1e5), _between(-1e5, 1e5)), (0.0, 0.0))
    """Motion of the mouse since the last message."""


@dataclass(frozen=True)
class Act:
    """One action for the next step."""

    action: Any = _of(_action)


@dataclass(frozen=True)
class Run:
    """Starts or resumes play."""


@dataclass(frozen=True)
class Pause:
    """Stops."""


@dataclass(frozen=True)
class Step:
    """Plays one step."""


@dataclass(frozen=True)
class Play:
    """Changes who plays. `lane`: whose policy."""

    who: Player = _of(_word(*typing.get_args(Player)))
    lane: int = _of(_LANE, 0)


@dataclass(frozen=True)
class Rewind:
    """Goes back on the path."""

    steps: int = _of(_between(1, 1e9, count))


@dataclass(frozen=True)
class Go:
    """Goes to a moment."""

    moment: int = _of(count)


@dataclass(frozen=True)
class Change:
    """Changes the setting of a lane."""

    lane: int = _of(_LANE)
    setting: dict[str, Any] = _of(mapping(anything))
    """As a config. The driver builds it with `typed.build`."""


@dataclass(frozen=True)
class Seed:
    """Changes the seed."""

    seed: int = _of(_SEED)


@dataclass(frozen=True)
class Fps:
    """Changes the speed."""

    fps: float = _of(_between(0.1, MAX_FPS))


@dataclass(frozen=True)
class Horizon:
    """Changes the horizon."""

    steps: int = _of(_between(0, MAX_HORIZON, count))


@dataclass(frozen=True)
class Format:
    """Changes the format of pictures."""

    format: Pictures = _of(_word(*typing.get_args(Pictures)))


@dataclass(frozen=True)
class Compare:
    """Changes the lane whose difference from the real game is shown."""

    lane: int | None = _of(nullable(_LANE))


@dataclass(frozen=True)
class Reset:
    """Begins again."""

    start: int | None = _of(nullable(count), None)
    seed: int | None = _of(nullable(_SEED), None)


@dataclass(frozen=True)
class Starts:
    """Asks for start pictures."""

    first: int = _of(count, 0)


@dataclass(frozen=True)
class Strip:
    """Asks for the steps of denoising."""

    lane: int = _of(_LANE)


@dataclass(frozen=True)
class Save:
    """Writes the recordings."""


@dataclass(frozen=True)
class Ack:
    """A frame is on the screen."""

    number: int = _of(count)
    shown: float = _of(_TIME)


Message = (
    Hello
    | Keys
    | Act
    | Run
    | Pause
    | Step
    | Play
    | Rewind
    | Go
    | Change
    | Seed
    | Fps
    | Horizon
    | Format
    | Compare
    | Reset
    | Starts
    | Strip
    | Save
    | Ack
)
MESSAGES: dict[str, type[Any]] = {
    "hello": Hello, "keys": Keys, "act": Act, "run": Run, "pause": Pause, "step": Step, "player": Play, "rewind": Rewind, "go": Go,
    "change": Change, "seed": Seed, "fps": Fps, "horizon": Horizon, "pictures": Format, "compare": Compare, "reset": Reset,
    "starts": Starts, "strip": Strip, "save": Save, "ack": Ack,
}  # fmt: skip
"""The messages of the page by their `do`."""


def _shape(cls: type[Any]) -> Shape:
    fields = dataclasses.fields(cls)
    needed = {f.name: f.metadata["shape"] for f in fields if f.default is dataclasses.MISSING}
    return record(needed, {f.name: f.metadata["shape"] for f in fields if f.name not in needed})


_SHAPES = {do: _shape(cls) for do, cls in MESSAGES.items()}


def parse(data: str) -> Message:
    """A message of the page. Raises `Malformed` for anything else, of any kind."""
    try:
        if len(data) > MAX_TEXT:
            raise ValueError(f"{len(data):,} characters: expected at most {MAX_TEXT:,}")
        content = load_json(data)
        do = content.pop("do", None)
        if not isinstance(do, str) or do not in MESSAGES:
            raise ValueError(f"do={do!r}: {nearest(str(do), MESSAGES)}")
        cls = MESSAGES[do]
        for key in content:
            if key not in cls.__dataclass_fields__:
                raise ValueError(f"{do}: unknown key {key!r}: {nearest(key, cls.__dataclass_fields__)}")
        _SHAPES[do](content)
    except ValueError as error:
        raise Malformed(str(error)) from None
    found: Message = cls(**content)
    return found


def packed(header: dict[str, Any], pictures: Sequence[bytes] = ()) -> bytes:
    """A binary message: the length of the header's JSON, the JSON, and the pictures."""
    content = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    return b"".join((struct.pack("<I", len(content)), content, *pictures))


def unpacked(message: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a binary message, and its pictures one after the other."""
    (length,) = struct.unpack_from("<I", message)
    return json.loads(message[4 : 4 + length]), message[4 + length :]

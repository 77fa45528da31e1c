"""What the page has to know before play: the lanes, the keys, and the form of the settings. A new sampler appears in it without further
code."""

import dataclasses
import typing
from collections.abc import Callable, Sequence
from typing import Any

from diamond_bench import __version__
from diamond_bench.config import SAMPLERS, SCHEDULES
from diamond_bench.play import messages as m
from diamond_bench.play.keys import KeyMap
from diamond_bench.play.lanes import Lane
from diamond_bench.play.opened import Opened
from diamond_bench.play.options import MAX_FPS, MAX_HORIZON, MAX_SEED
from diamond_bench.play.recording import Recording
from diamond_bench.typed import to_plain


def welcome(session: str, opened: Opened, lanes: Sequence[Lane], keys: KeyMap, recording: Recording | None) -> dict[str, Any]:
    """The message `welcome`."""
    spec = opened.actions
    limits = {"max_fps": MAX_FPS, "unseen": m.UNSEEN, "thumbnails": m.THUMBNAILS, "keys": m.MAX_KEYS}
    facts = zip(opened.facts, lanes, strict=True)
    return {
        "kind": "welcome",
        "session": session,
        "version": __version__,
        "game": opened.game,
        "notes": opened.notes,
        "lanes": [{**dataclasses.asdict(known), "setting": to_plain(lane.dynamics.first)} for known, lane in facts],
        "actions": {"kind": spec.kind, "sizes": spec.sizes, "names": spec.names, "low": spec.low, "high": spec.high},
        "keys": keys.table(),
        "game_keys": list(keys.buttons),
        "mouse": keys.mouse,
        "starts": opened.starts,
        "recording": None if recording is None else len(recording.steps),
        "reference": opened.reference,
        "form": settings_form(),
        "limits": {**limits, "horizon": MAX_HORIZON, "seed": MAX_SEED},
    }


def settings_form() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The fields of each sampler and each schedule, from which the page builds its form.

    {"samplers": {name: [field]}, "schedules": {name: [field]}}. A field has: name, kind (whole, number, flag, choice or schedule), default,
    minimum and maximum (null without a bound), and choices (of a choice).
    """
    return {
        "samplers": {name: _fields(name, option.settings_type()) for name, option in SAMPLERS.items()},
        "schedules": {name: _fields(name, option.settings_type()) for name, option in SCHEDULES.items()},
    }


def _fields(name: str, cls: Callable[..., Any]) -> list[dict[str, Any]]:
    hints, plain = typing.get_type_hints(cls), to_plain(cls(name=name))
    found = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name == "name":
            continue
        hint, bounds = hints[field.name], field.metadata
        choices = [str(word) for word in typing.get_args(hint)] if typing.get_origin(hint) is typing.Literal else None
        kind = "choice" if choices else _KINDS.get(hint, "schedule")
        limits = {bound: bounds.get(bound) for bound in ("minimum", "maximum")}
        found.append({"name": field.name, "kind": kind, "default": plain[field.name], **limits, "choices": choices})
    return found


_KINDS: dict[Any, str] = {int: "whole", float: "number", bool: "flag"}

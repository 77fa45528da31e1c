"""The form of the settings that can be changed in play, as plain data. A new sampler appears in it without further code."""

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

from diamond_bench.config import SAMPLERS, SCHEDULES
from diamond_bench.typed import to_plain


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

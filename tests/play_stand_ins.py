"""What drivers and servers of play are tested with: lanes that cost nothing, places to begin, and a clock that is set by hand."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from stand_ins import CountingReward, CountingWorld, counting_frames

from diamond_bench.play.driver import Driver
from diamond_bench.play.lanes import Imagined, Lane, Start
from diamond_bench.play.messages import parse, unpacked
from diamond_bench.play.opened import LaneFacts, Opened
from diamond_bench.play.options import PlayOptions
from diamond_bench.play.outbox import Outbox
from diamond_bench.play.recording import recorded, write_recording
from diamond_bench.play.saver import Played

PLACES = ((0, 3), (0, 5), (1, 3))


def counter(name: str = "counter", **options: Any) -> Lane:
    """Its picture shows the sum of all actions, its game ends at 13, and Digit1 and Digit2 play the actions 1 and 2."""
    world = CountingWorld()
    return Lane(name, Imagined(lambda _: world, world.spec.actions, reward_end=CountingReward()), **options)


def counting_start(place: tuple[int, int]) -> Start:
    """The sum begins with 2 at the places of step 3."""
    counts = torch.full((4,), place[1] - 1)
    return Start(counting_frames(counts), torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.bool), place)


def opened_of(*lanes: Callable[[], Lane], start: Callable[[tuple[int, int]], Start] = counting_start, **options: Any) -> Opened:
    all_lanes = tuple(make() for make in lanes or (counter,))
    facts = tuple(LaneFacts(lane.name, lane.source, policy=lane.policy is not None) for lane in all_lanes)
    options = {"facts": facts, "starts": PLACES, **options}
    return Opened("counting", all_lanes[0].dynamics.actions, lanes=lambda: all_lanes, start=start, **options)


def save_into(folder: Path) -> Callable[[Played], list[Path]]:
    """Saves the actions as 0.json, 1.json and so on."""

    def save(played: Played) -> list[Path]:
        file = folder / f"{len(list(folder.iterdir()))}.json"
        write_recording(file, recorded(played.session, played.moment))
        return [file]

    return save


@dataclass
class HandClock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Page:
    """A page without a browser: it takes what is sent, and keeps the newest of each kind."""

    driver: Driver
    box: Outbox = field(default_factory=lambda: Outbox(lambda: None))
    got: list[dict[str, Any]] = field(default_factory=list)
    pictures: bytes = b""

    def say(self, do: str, **values: Any) -> None:
        self.driver.receive(parse(json.dumps({"do": do, **values})))

    def read(self, ack: bool = True) -> list[dict[str, Any]]:
        """What came since the last time."""
        new = []
        for message in self.box.take():
            if isinstance(message, bytes):
                header, self.pictures = unpacked(message)
                if header["kind"] == "frame" and ack:
                    self.box.seen(header["number"])
            else:
                header = json.loads(message)
            new.append(header)
        self.got += new
        return new

    def last(self, kind: str) -> dict[str, Any]:
        self.read()
        return next(message for message in reversed(self.got) if message["kind"] == kind)

    @property
    def count(self) -> int:
        """The number that the first picture of the last frame shows."""
        first = self.pictures[: self.last("frame")["lanes"][0]["bytes"]]
        return int(decoded(first)[0, 0, 0])


def decoded(picture: bytes) -> np.ndarray:
    """(3, h, w)"""
    pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    return pixels[:, :, ::-1].transpose(2, 0, 1)


def driven(folder: Path, opened: Opened | None = None, **options: Any) -> tuple[Driver, Page, HandClock]:
    """A driver whose turns are called by hand, with a page that has read its first messages."""
    clock = HandClock()
    recording = options.pop("recording", None)
    driver = Driver(opened or opened_of(), replace(PlayOptions(fps=10.0), **options), save_into(folder), recording, "name", clock=clock)
    page = Page(driver)
    driver.attach(page.box)
    assert driver.turn() is None
    page.read()
    return driver, page, clock

"""What the page is shown: pictures as PNG, WebP or JPEG, packed with the numbers of their moment (see `messages`)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from diamond_bench.play.lanes import Frame, Shown
from diamond_bench.play.messages import STRIP, packed
from diamond_bench.play.options import Pictures, Place
from diamond_bench.play.session import Drift, Moment, Session
from diamond_bench.play.tree import Tally

_ENCODERS: dict[Pictures, tuple[str, list[int]]] = {
    "png": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]),
    "webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),  # above 100 it is lossless
    "jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 90]),
}


def encoded(frame: Frame, form: Pictures) -> bytes:
    """A picture, (3, h, w), as a file. PNG and WebP are lossless."""
    extension, settings = _ENCODERS[form]
    done, data = cv2.imencode(extension, np.ascontiguousarray(frame.transpose(1, 2, 0)[:, :, ::-1]), settings)
    assert done, f"{form} of a picture of shape {frame.shape}"
    return data.tobytes()


@dataclass(frozen=True)
class Numbers:
    """The numbers of a frame that do not come from its moment. The names are those of the message."""

    number: int
    keys_at: float | None
    fps: float | None
    latency_ms: tuple[float, float] | None
    dropped: int


def frame_message(
    session: Session, tallies: Sequence[Tally], numbers: Numbers, reference: int | None, compared: int | None, form: Pictures
) -> bytes:
    """The message of the present moment.

    Args:
        tallies: one per lane.
        reference: the lane from which the drift of the others is measured.
        compared: the lane whose difference from `reference` is shown.
    """
    began = time.perf_counter()
    now = session.now
    pictures = [encoded(shown.frame, form) for shown in now.shown]
    drifts = {} if reference is None else {lane: session.drift(lane, reference) for lane in range(len(pictures)) if lane != reference}
    insets = [None if shown.low is None else encoded(shown.low, form) for shown in now.shown]
    lanes = [
        {"bytes": len(picture), "low_bytes": None if inset is None else len(inset), **_numbers(shown, tally), **_apart(drifts.get(lane))}
        for lane, (picture, inset, shown, tally) in enumerate(zip(pictures, insets, now.shown, tallies, strict=True))
    ]
    pictures += [inset for inset in insets if inset is not None]
    difference = None
    if compared is not None:
        pictures.append(encoded(drifts[compared].difference, form))
        difference = {"lane": compared, "bytes": len(pictures[-1])}
    header = {"kind": "frame", **vars(numbers), **_place(now), "model_ms": _ms(now.seconds), "lanes": lanes, "difference": difference}
    return packed({**header, "encode_ms": _ms(time.perf_counter() - began)}, pictures)


def thumbnails_message(first: int, of: int, starts: Sequence[tuple[Place, Frame]], form: Pictures) -> bytes:
    """The pictures of some starts, of all `of`."""
    pictures = [encoded(frame, form) for _, frame in starts]
    places = [{"place": list(place), "bytes": len(picture)} for (place, _), picture in zip(starts, pictures, strict=True)]
    return packed({"kind": "thumbnails", "first": first, "of": of, "starts": places}, pictures)


def strip_message(session: Session, lane: int, form: Pictures) -> bytes:
    """The steps of denoising of the present frame of a lane. Raises UserError, see `Session.denoising`."""
    steps = session.denoising(lane)
    calls, pictures = [], list[bytes]()
    for call in np.unique(np.linspace(0, len(steps) - 1, STRIP).round().astype(int)).tolist():
        both = [encoded(frame, form) for frame in (steps[call].noisy, steps[call].clean)]
        calls.append({"call": call, "sigma": steps[call].sigma, "bytes": [len(picture) for picture in both]})
        pictures += both
    return packed({"kind": "strip", "lane": lane, "moment": session.now.number, "of": len(steps), "calls": calls}, pictures)


def _place(now: Moment) -> dict[str, Any]:
    before = None if now.before is None else now.before.number
    return {"moment": now.number, "before": before, "step": now.step, "action": None if now.action is None else now.action.tolist()}


def _numbers(shown: Shown, tally: Tally) -> dict[str, Any]:
    policy = shown.policy
    return {
        "reward": shown.reward,
        "return": tally.reward,
        "ended": tally.ended,
        "cut": tally.cut,
        "p_reward": shown.reward_probabilities,
        "p_end": shown.end_probability,
        "lives": shown.lives,
        "policy": None if policy is None else policy.probabilities,
        "value": None if policy is None else policy.value,
        "entropy": None if policy is None else policy.entropy,
    }


def _apart(drift: Drift | None) -> dict[str, float | None]:
    if drift is None:
        return {"mse": None, "psnr": None}
    return {"mse": drift.squared_error, "psnr": drift.psnr if drift.difference.any() else None}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)

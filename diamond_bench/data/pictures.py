"""Frames of any size as RGB frames of one size."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from diamond_bench.errors import UserError
from diamond_bench.spaces import FrameSpec

MAX_EPISODE_BYTES = 8 * 2**30
"""Maximum size of one episode in memory, in bytes. 27,000 steps of 210 x 160 RGB take 2.7 GB."""


@dataclass(frozen=True)
class Picture:
    """Resizes frames by area and turns grey ones into RGB."""

    frames: FrameSpec

    def __call__(self, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Converts a frame (h, w, 1 or 3) to (H, W, 3)."""
        image, sides = np.ascontiguousarray(frame), self.frames.sides
        if image.shape[:2] != sides:
            image = np.asarray(cv2.resize(image, sides[::-1], interpolation=cv2.INTER_AREA), np.uint8).reshape(*sides, -1)
        return np.broadcast_to(image, (*sides, 3))

    def check(self, where: object, count: int) -> None:
        """Raises UserError if an episode of `count` such frames is too large for the memory."""
        if count * self.frames.pixels * 3 > MAX_EPISODE_BYTES:
            raise UserError(
                f"{where}: {count:,} frames of {self.frames} are more than {MAX_EPISODE_BYTES:,} bytes; split it into several files, or "
                "lower env.frame_size"
            )

# SPDX-License-Identifier: MIT OR GPL-2.0-or-later
#
# This file alone imports cydoomgeneric, which is under the GNU General Public License, version 2 or later. So this file may be used under
# that licence, too: the program that it forms together with cydoomgeneric is under the GPL. It runs in a process and a Python environment
# of its own, started by doom_tool.py, and shares nothing with diamond_bench but a pipe of pixels. diamond_bench never imports it.
"""Writes every frame that Doom draws of a demo to standard output: 320 x 200 pixels of 3 bytes (blue, green, red).

Usage: python -I render_demo.py WAD DEMO. Without arguments it only prints the version of cydoomgeneric.

Doom's own text goes to standard error. After the demo's last tic Doom reports "timed N gametics" and may wait for ever.
"""

import importlib.metadata
import itertools
import os
import sys


def main(wad: str, demo: str) -> None:
    import cydoomgeneric

    frames = os.dup(1)
    os.dup2(2, 1)
    milliseconds = itertools.count()

    def draw(pixels) -> None:  # type: ignore[no-untyped-def]
        data = memoryview(pixels[..., :3].tobytes())
        while data:
            data = data[os.write(frames, data) :]

    cydoomgeneric.init(
        320,
        200,
        draw,
        get_key=lambda: None,
        sleep_ms=lambda ms: None,
        get_ticks_ms=lambda: next(milliseconds),  # a clock that counts its readings: the true one would vary the length of the opening
    )
    cydoomgeneric.main(["doom", "-iwad", wad, "-timedemo", demo, "-nosound"])


if __name__ == "__main__":
    if len(sys.argv) == 1:
        import cydoomgeneric  # noqa: F401

        print(importlib.metadata.version("cydoomgeneric"))
    else:
        main(*sys.argv[1:])

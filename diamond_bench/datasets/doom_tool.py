"""Runs cydoomgeneric, which draws Doom's demos, as a separate program in a Python environment of its own.

It is under the GPL-2, so diamond_bench never imports it, depends on it or ships it. `install_tool` installs it at the user's request. The
only connection is a pipe of pixels from render_demo.py.
"""

import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from diamond_bench.errors import UserError
from diamond_bench.store.files import temporary_name

HEIGHT, WIDTH = 200, 320
VERSION = "0.1.0"
_REQUIREMENT = f"cydoomgeneric=={VERSION} --hash=sha256:b6d59939d06354f8afb61dcb760bf856423b308c7ae0c0f9781fbd174b2b0d72"
"""Its sdist, 0.4 MB."""
_BUILDS_WITH = ("setuptools>=77", "cython", "numpy>=1.25")
_NO_REASON = ("note:", "hint:", "×", "╰─>", "WARNING", "error: subprocess-exited", "error: metadata-generation")
"""How lines of pip begin that do not say what went wrong."""
SCRIPT = Path(__file__).with_name("render_demo.py")
_FRAME_BYTES = HEIGHT * WIDTH * 3
_OVER = " gametics in "
"""Part of Doom's report after the last tic."""
_LOOK, _PATIENCE = 0.2, 60.0
"""Seconds without a frame after which its report is looked up, and after which it is stopped."""
Say = Callable[[str], None]


def tool_folder() -> Path:
    """The virtual environment that `install_tool` creates: in $XDG_CACHE_HOME, or ~/.cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "diamond_bench" / f"cydoomgeneric-{VERSION}"


def find_tool(python: Path | None = None) -> Path:
    """The Python in whose environment the tool is installed: `python`, or that of `tool_folder`. Raises UserError if it is not there."""
    chosen = _python_of(tool_folder()) if python is None else python
    if python is None and not chosen.is_file():
        raise UserError(
            f"the demos are drawn by cydoomgeneric {VERSION}, a separate program under the GPL-2, which is not installed. --install-tool "
            f"installs it into {tool_folder()} (it needs a C compiler). --tool-python PYTHON takes an environment that has it"
        )
    try:
        done = subprocess.run([chosen, "-I", SCRIPT], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{chosen}: not a Python that can be started ({getattr(error, 'strerror', None) or error})") from None
    version = done.stdout.strip()
    if done.returncode != 0 or version != VERSION:
        found = f"it has version {version[:40]}" if done.returncode == 0 else _last_line(done.stderr)
        remedy = f"{chosen} -m pip install cydoomgeneric=={VERSION}" if python else f"delete {tool_folder()} and use --install-tool"
        raise UserError(f"{chosen}: it does not have cydoomgeneric {VERSION} ({found}): {remedy}")
    return chosen


def install_tool(say: Say) -> Path:
    """Installs the tool from pip's configured package index into `tool_folder`, unless it is there, and returns its Python.

    pip checks the SHA-256 of the sdist before it builds it. The folder appears whole or not at all. Raises UserError if the compiler, the
    module venv or the package index is missing, or the build fails.
    """
    folder = tool_folder()
    if _python_of(folder).is_file():
        return find_tool()
    compiler = os.environ.get("CC", "cc").split(maxsplit=1)[0]
    if shutil.which(compiler) is None:
        raise UserError(f"cydoomgeneric is built from C, and there is no compiler {compiler}: install one, such as gcc, or set CC")
    temporary = temporary_name(folder)
    python = _python_of(temporary)
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        say(f"installing cydoomgeneric {VERSION} (GPL-2, a separate program) into {folder}")
        _run("no virtual environment for it", [sys.executable, "-m", "venv", str(temporary)])
        requirements = temporary / "requirements.txt"
        requirements.write_text(_REQUIREMENT + "\n")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run("its build tools are not installed", [*pip, *_BUILDS_WITH])
        exact = ["--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--require-hashes", "--requirement", str(requirements)]
        _run("it is not installed", [*pip, *exact])
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except OSError as error:
        raise UserError(f"{folder}: cydoomgeneric cannot be installed there ({error.strerror or error})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return find_tool()


def _run(failure: str, command: Sequence[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason, words = _last_line(done.stderr or done.stdout), " ".join(map(str, command))
        raise UserError(f"cydoomgeneric {VERSION}: {failure}: {reason} (command: {words})")


def _python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and line != "[end of output]" and not line.startswith(_NO_REASON)]
    return lines[-1][:300] if lines else "without a message"


def drawn_frames(python: Path, wad: Path, lump: str, tics: int) -> Iterator[NDArray[np.uint8]]:
    """The frames (200, 320, 3), RGB, that Doom draws of a demo, in order, with the opening that melts the screen.

    Doom runs in an empty temporary folder, where it leaves its settings. After the last tic it reports their number and may not end by
    itself, so it is stopped. Raises UserError if it fails or does not play `tics` tics.
    """
    with tempfile.TemporaryDirectory() as scratch, (Path(scratch) / "said.txt").open("w+") as said:
        command = [str(python), "-I", str(SCRIPT), str(wad), lump.lower()]
        environment = {**os.environ, "HOME": scratch}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, cwd=scratch, env=environment)
        try:
            assert process.stdout is not None
            yield from map(_picture, _parts(process.stdout, said))
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        text = _text(said)
    if f"timed {tics} gametics" not in text:
        raise UserError(f"{wad.name} {lump}: cydoomgeneric did not play its {tics:,} tics: {_last_line(text)}")


def agreed(renderings: Sequence[Iterator[NDArray[np.uint8]]]) -> Iterator[NDArray[np.uint8]]:
    """The frames of several renderings of one demo, with equal pixels on every machine.

    Doom sometimes reads beyond the end of a texture, and draws a few pixels from memory addresses, which differ from process to process.
    A pixel on which the renderings differ gets the value of the pixel above.
    """
    with ExitStack() as stack:
        for rendering in renderings:
            stack.callback(getattr(rendering, "close", lambda: None))
        for first, *others in zip(*renderings, strict=False):
            differing = np.zeros(first.shape[:2], np.bool_)
            for other in others:
                differing |= (other != first).any(axis=2)
            frame = first.copy() if differing.any() else first
            for row, column in np.argwhere(differing):
                frame[row, column] = frame[row - 1, column] if row else 0
            yield frame


def _picture(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8).reshape(HEIGHT, WIDTH, 3)[..., ::-1]


def _parts(pixels: IO[bytes], said: IO[str]) -> Iterator[bytes]:
    """The bytes of each frame, until the process ends, reports that the demo is over, or draws nothing for _PATIENCE seconds."""
    data, silent = bytearray(), 0.0
    while silent < _PATIENCE:
        if not select.select([pixels], [], [], _LOOK)[0]:
            silent += _LOOK
            if _OVER in _text(said):
                return
            continue
        silent = 0.0
        if not (more := os.read(pixels.fileno(), _FRAME_BYTES - len(data))):
            return
        data += more
        if len(data) == _FRAME_BYTES:
            yield bytes(data)
            data.clear()


def _text(said: IO[str]) -> str:
    return os.pread(said.fileno(), 2**20, 0).decode(errors="replace")

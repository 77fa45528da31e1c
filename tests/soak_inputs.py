"""What the soak damages files with: values, bytes and kinds of files, all drawn from a seeded generator."""

import json
import os
import random
import shutil
import socket
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from soak_run import replace_file

LONG = "x" * 5000
TEXTS = [
    "", " ", LONG, "a" * 300, "\x1b[2J\x1b[31mred", "\x9b31m", "ab\u202egnp.exe", "a\u2066b", "\x00", "a\x00b", "\ud800", "line\nline",
    "\r",
    "../../outside", "/etc/passwd", "outside/file.txt", "~root", "~nobody-such/x", "..", ".", "/", "//", "$\\frac{1}{0$",
    "=cmd|'/C calc'!A0",
    "<script>alert(1)</script>", "${oc.env:HOME}", "!!python/object:os.system", "%s%n{0}", "nan", "inf", "-inf", "1e400", "NaN", "0x10",
    "1_0",
    "\ufeff", "\u2028", "\uffff", "ı", "𝟙", "१", "true", "null", "*", "?", "[a]", "{a}", "-", "--help", "-1", "'", '"', "\\", "`id`", ";",
    "|",
]  # fmt: skip
NUMBERS: list[Any] = [0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**70), 10**310, 0.5, -0.0, 1e-320, 1e308, 1.7976931348623157e308]
OTHERS: list[Any] = [None, True, False, [], {}, [[]], {"": ""}, [None], {"a": {"b": {"c": 1}}}, [1, "a", None], [[[[[[1]]]]]]]

YAML_BOMBS = [
    "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n" for a,
    b in pairwise("abcdefghijk")),
    "a: &a [*a]\n", "? [1,2]\n: 3\n", "a: 1\na: 2\n", "- " * 3000 + "1", "{" * 5000, "a: !!python/object/apply:os.system ['touch owned']\n",
    "--- 1\n--- 2\n", "a: *b\n", "%YAML 9.9\n---\na: 1", "a: !!binary x", "<<: {<<: {a: 1}}\n<<: {b: 1}", "\t\ta", "a: 2020-13-45",
    "a: !!set {x, y}", "&a", "? ",
    "a: 0o99", "a: " + "1" * 4000, "a: 190:20:30.15", "'", "a: |\n", "x" * 999_990, "a: &x\nb: *x", "!!int abc", "!!float {}",
    "!<tag:yaml.org,2002:int> 0b",
]  # fmt: skip


def value(dice: random.Random) -> Any:
    """Any JSON value that a file should not hold."""
    return dice.choice([dice.choice(TEXTS), dice.choice(NUMBERS), dice.choice(OTHERS), dice.choice(TEXTS), nested(dice)])


def nested(dice: random.Random) -> Any:
    """Lists or objects in each other."""
    content: Any = 1
    for _ in range(dice.choice([3, 40, 70, 200])):
        content = [content] if dice.random() < 0.5 else {"a": content}
    return content


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside a JSON value."""
    found: list[tuple[Any, ...]] = []
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, inner in items:
        found += [(*path, key), *places(inner, (*path, key))]
    return found


def mutate(content: Any, dice: random.Random) -> tuple[Any, str]:
    """A copy of a JSON value with one value replaced, removed, renamed or repeated; and which, in words."""
    content = json.loads(json.dumps(content))
    known = places(content)
    if not known or dice.random() < 0.04:
        built = value(dice)
        return built, f"all of it is {built!r}"
    shallow = [path for path in known if len(path) <= 2]
    path = dice.choice(shallow if dice.random() < 0.5 else known)
    outer = content
    for key in path[:-1]:
        outer = outer[key]
    how, key = dice.choice(["replace", "replace", "replace", "remove", "rename", "repeat"]), path[-1]
    where = ".".join(map(str, path))
    if how == "remove":
        del outer[key]
    elif how == "rename" and isinstance(outer, dict):
        outer[str(dice.choice(TEXTS))] = outer.pop(key)
    elif how == "repeat" and isinstance(outer, list):
        outer.insert(0, outer[key])
    else:
        outer[key] = value(dice)
        return content, f"{where} is {str(outer[key])[:80]!r}"
    return content, f"{how} {where}"


def edit_number(content: Any, dice: random.Random) -> tuple[Any, str] | None:
    """A copy of a JSON value in which one number or text is another of the same type: a lie that no shape can find."""
    content = json.loads(json.dumps(content))
    known = [path for path in places(content) if path[0] not in ("sha256", "command")]
    dice.shuffle(known)
    for path in known:
        outer = content
        for key in path[:-1]:
            outer = outer[key]
        old = outer[path[-1]]
        if isinstance(old, bool):
            outer[path[-1]] = not old
        elif isinstance(old, (int, float)):
            outer[path[-1]] = old + dice.choice([1, 2, 7]) if isinstance(old, int) else old * 1.25 + 0.125
        elif isinstance(old, str) and old and len(path) > 1:
            outer[path[-1]] = old[:-1] + ("a" if old[-1] != "a" else "b")
        else:
            continue
        return content, f"{'.'.join(map(str, path))}: {str(old)[:60]} -> {str(outer[path[-1]])[:60]}"
    return None


def dump(content: Any) -> bytes:
    """JSON with NaN, infinities and lone surrogates as they come."""
    return json.dumps(content, allow_nan=True).encode()


def damage_bytes(data: bytes, dice: random.Random) -> tuple[bytes, str]:
    """Data truncated, flipped, repeated, or other data altogether."""
    at = dice.randrange(max(1, len(data)))
    found: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        f"cut at {at}": lambda: data[:at],
        f"bit {at} flipped": lambda: data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :] if data else b"\xff",
        "twice": lambda: data + data,
        "a byte more": lambda: data + b"\n",
        f"zeros from {at}": lambda: data[:at] + bytes(len(data) - at),
        "UTF-16": lambda: data.decode(errors="replace").encode("utf-16"),
        "not UTF-8": lambda: b"\xff\xfe\xfd" + data,
        "a NUL first": lambda: b"\0" + data,
        "brackets": lambda: b"[" * 100_000,
        "noise": lambda: dice.randbytes(300),
        "a pickle": lambda: b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x0etouch ../owned\x94\x85\x94R\x94.",
        "a big number": lambda: b'{"a": ' + b"9" * 6000 + b"}",
        "a zip": lambda: b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0, 0, 2**31, 2**31, 5, 0) + b"a.npy",
    }
    how = dice.choice(list(found))
    return found[how](), how


def other_kind(path: Path, outside: Path, dice: random.Random) -> str:
    """Puts something else in the place of a file or folder; says what."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    how = dice.choice(["link to a file", "link to a folder", "dangling link", "link to itself", "FIFO", "folder", "full folder", "socket",
    "sparse",
                       "link to a device", "link to /proc", "nothing"])  # fmt: skip
    if how == "link to a file":
        path.symlink_to(outside / "result.json")
    elif how == "link to a folder":
        path.symlink_to(outside)
    elif how == "dangling link":
        path.symlink_to(outside / "made by nobody")
    elif how == "link to itself":
        path.symlink_to(path.name)
    elif how == "link to a device":
        path.symlink_to("/dev/zero")
    elif how == "link to /proc":
        path.symlink_to("/proc/self/root")
    elif how == "FIFO":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "full folder":
        (path / "inner").mkdir(parents=True)
        (path / "inner" / "file").write_text("x")
        (path / "away").symlink_to(outside)
    elif how == "socket":
        with socket.socket(socket.AF_UNIX) as built:
            there = os.open(path.parent, os.O_RDONLY)  # a socket's address has at most 108 bytes
            built.bind(f"/proc/self/fd/{there}/{path.name}")
            os.close(there)
    elif how == "sparse":
        with path.open("wb") as file:
            file.truncate(2**33)
    return how


def store_files(store: Path) -> list[str]:
    """Every file of a store, by its path in it."""
    return sorted(path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file())


def job_of(name: str) -> str:
    """The job (kind/id) that a file of a store belongs to, or the folder of a study."""
    return "/".join(name.split("/")[:2])


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    """A JSON file, changed."""
    replace_file(path, dump(change(json.loads(path.read_text()))))

"""Completion of commands, studies, scales, config keys and job ids in bash, zsh and fish: what to offer, and how a shell asks for it.

A shell's script calls `diamond-bench __complete SHELL LINE` with the line up to the cursor. Nothing here imports torch.
"""

import contextlib
import dataclasses
import os
import shlex
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from diamond_bench.errors import UserError, nearest

ASK = "__complete"
"""First word of the command line with which a shell asks."""
SHELLS = ("bash", "zsh", "fish")
_STORE_ALONE = ("show", "diff", "logs", "du", "gc", "merge", "export", "export-dataset", "doctor")
"""Commands that take output_dir= alone. The overrides of all others are config keys."""
_OF_ONE_RUN = ("train", "evaluate", "profile", "score")
"""Commands that take game= and seed= in place of games= and seeds=."""


@dataclasses.dataclass(frozen=True)
class Offer:
    """One word that may stand at the cursor."""

    word: str
    about: str = ""


def answer(command: Any, shell: str, line: str) -> list[str]:
    """The lines that a shell's script expects for a command line up to the cursor. Never raises for what the user typed."""
    if (parts := split(line)) is None:
        return []
    words, current = parts
    offers = [offer for offer in offered(command, words, current) if offer.word.startswith(current)]
    offers = list({offer.word: offer for offer in offers}.values())
    if shell == "bash":  # readline takes the characters = and : for the ends of words
        kept = 0 if _open_quote(line) else max(current.rfind("="), current.rfind(":")) + 1
        return [offer.word[kept:] for offer in offers]
    return [f"{offer.word}\t{offer.about}" if offer.about else offer.word for offer in offers]


def split(line: str) -> tuple[list[str], str] | None:
    """(the words before the one at the cursor without the program's name, the beginning of that word); None for a half-typed escape."""
    for ending in ("", "'", '"'):
        with contextlib.suppress(ValueError):
            words = shlex.split(line + ending)
            at_new_word = not line or (line[-1].isspace() and not ending)
            return (words[1:], "") if at_new_word else (words[1:-1], words[-1])
    return None


def _open_quote(line: str) -> bool:
    try:
        shlex.split(line)
    except ValueError:
        return True
    return False


def offered(command: Any, words: Sequence[str], current: str) -> Iterator[Offer]:
    """What may stand at the cursor after these words; `command` is the application as a tree of commands."""
    words, path = list(words), []
    while hasattr(command, "commands"):
        while words and words[0].startswith("-"):
            words.pop(0)
        if not words:
            yield from (Offer(name, inner.get_short_help_str(60)) for name, inner in command.commands.items())
            if current.startswith("-"):
                yield from _options(command)
            return
        path.append(words.pop(0))
        command = command.commands.get(path[-1])
        if command is None:
            return
    valued = {opt: param for param in command.params if param.param_type_name == "option" and not param.is_flag for opt in param.opts}
    if words and words[-1] in valued:
        yield from _values_of(valued[words[-1]].name)
        return
    if current.startswith("-"):
        yield from _options(command)
        return
    placed = [word for i, word in enumerate(words) if not word.startswith("-") and (i == 0 or words[i - 1] not in valued)]
    free = [word for word in placed if "=" not in word]
    arguments = [param.name for param in command.params if param.param_type_name == "argument"]
    name = arguments[min(len(free), len(arguments) - 1)] if arguments else ""
    root = next((Path(word.partition("=")[2]) for word in placed if word.startswith("output_dir=")), _default_root())
    found = list(_arguments(path, name, root, current))
    yield from found
    if name != "overrides" and "overrides" in arguments and current and not any(offer.word.startswith(current) for offer in found):
        yield from _overrides(path[0], current)


def _options(command: Any) -> Iterator[Offer]:
    for param in command.params:
        if param.param_type_name == "option":
            yield from (Offer(opt, getattr(param, "help", "") or "") for opt in param.opts if opt.startswith("--"))
    yield Offer("--help", "Show the help.")


def _arguments(path: Sequence[str], name: str, root: Path, current: str) -> Iterator[Offer]:
    """What an argument of a command takes, by its name."""
    if name == "study":
        swept = path[0] not in ("sweep", "register")
        yield from map(Offer, dict.fromkeys([*(_swept(root) if swept else ()), *_studies()]))
    elif name in ("job", "other") and path[0] != "merge":
        yield from _jobs(root, current)
    elif name == "checkpoint":
        yield from _jobs(root, current, ("train_agent", "import_agent"))
    elif name == "sources":
        yield from _playable(root, current)
    elif name in ("overrides", "more"):
        yield from _overrides(path[0], current)
        if name == "more":  # `report` takes further studies
            yield from map(Offer, _swept(root))
    elif name == "words" and current:
        yield from _overrides(path[0], current)
    elif name == "options":
        yield from _among(current, {"game=": None, "frame_size=": None, "sigma_data=": None, "sigma_offset_noise=": None})
    elif name in ("artifacts", "dataset", "weights", "shell"):
        yield from _values_of(name)


def _playable(root: Path, current: str) -> Iterator[Offer]:
    """What `play` opens, and its settings."""
    from diamond_bench.config.worlds import untrained_families
    from diamond_bench.envs.games import games
    from diamond_bench.play.naming import OWN_KEYS, PLAYABLE

    if "." in current or "=" in current:
        known = {key: hint for key, hint in keys("play").items() if key.startswith("sampler")}
        yield from _among(current, {**dict.fromkeys([f"{key}=" for key in (*OWN_KEYS, "scale")]), **known})
        return
    yield from map(Offer, _swept(root))
    yield from _jobs(root, current, PLAYABLE)
    yield from map(Offer, (*untrained_families(), *games()))
    yield from map(Offer, (*(f"{key}=" for key in OWN_KEYS), "scale=", "sampler=", "sampler."))


def _values_of(name: str) -> Iterator[Offer]:
    """What an option or a small argument takes; nothing where it is a file, which the shell completes itself."""
    if name == "results":
        yield from map(Offer, _swept(_default_root()))
    elif name == "compare":
        yield from map(Offer, ("plain", "authors"))
    elif name in ("player", "pictures"):
        from diamond_bench.play import options

        yield from map(Offer, typing.get_args(getattr(options, name.capitalize())))
    elif name == "precision":
        yield from map(Offer, ("fp32", "tf32", "bf16"))
    elif name == "shell":
        yield from map(Offer, SHELLS)
    elif name == "weights":
        from diamond_bench.metrics.weights import WEIGHTS

        yield from (Offer(found.metric.replace("_", "-")) for found in WEIGHTS.values())
    elif name == "dataset":
        from diamond_bench.datasets.freedoom_demos import NAME

        yield Offer(NAME)
    elif name == "artifacts":
        from paper_figures.registry import ARTIFACTS

        yield from map(Offer, [*ARTIFACTS, "all"])


def _default_root() -> Path:
    return Path(os.environ.get("DIAMOND_BENCH_OUTPUTS") or "outputs").expanduser()


def _studies() -> list[str]:
    from diamond_bench.studies.shipped import study_files

    return list(study_files())


def _swept(root: Path) -> list[str]:
    return _names(root / "studies")


def _jobs(root: Path, current: str, kinds: Iterable[str] = ()) -> Iterator[Offer]:
    """Jobs that have a folder in the store, by id, or by kind and id where the word at the cursor names a kind."""
    from diamond_bench.store.kinds import KINDS

    for kind in kinds or KINDS:
        full = bool(current) and f"{kind}/".startswith(current[: len(kind) + 1])
        yield from (Offer(f"{kind}/{job}" if full else job, kind) for job in _names(root / kind))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    except OSError:
        return []


# Overrides


def _overrides(command: str, current: str) -> Iterator[Offer]:
    """Keys of the config, one part at a time, and the values of a key after its `=`."""
    if command in _STORE_ALONE:
        yield Offer("output_dir=", "the store's folder")
        return
    yield from _among(current, keys(command))


def _among(current: str, known: "dict[str, Any]") -> Iterator[Offer]:
    key, equals, value = current.partition("=")
    if equals:
        done = value[: max(value.rfind(","), value.rfind("[")) + 1]
        yield from (Offer(f"{key}={done}{one}") for one in values(key, known.get(f"{key}=")))
        return
    begun = current[: current.rfind(".") + 1]
    for name in known:
        if name.startswith(begun):
            part, dot, _ = name[len(begun) :].partition(".")
            yield Offer(f"{begun}{part}{dot}")


def keys(command: str) -> dict[str, Any]:
    """Every key that a run's command takes, with `=` after it, and the type of its values where that is one of the config's."""
    from diamond_bench.compose import STUDY_KEYS, groups
    from diamond_bench.config import RunConfig

    own = ("game", "seed", "output_dir") if command in _OF_ONE_RUN else STUDY_KEYS
    return dict.fromkeys([f"{name}=" for name in (*own, *groups())]) | dict(_fields(RunConfig, ""))


def _fields(settings: type, prefix: str) -> Iterator[tuple[str, Any]]:
    """(key, type) of every plain value in a dataclass of settings, and in those that its fields may hold."""
    from diamond_bench.config import REGISTRIES

    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        hint = hints[field.name]
        if field.name in REGISTRIES:
            inner = [REGISTRIES[field.name][option].settings_type() for option in REGISTRIES[field.name]]
        else:
            inner = [cls for cls in (typing.get_args(hint) or (hint,)) if isinstance(cls, type) and dataclasses.is_dataclass(cls)]
        for cls in dict.fromkeys(inner):
            yield from _fields(cls, f"{prefix}{field.name}.")
        if not inner and field.name != "name" and (prefix or field.name not in ("game", "seed")):
            yield f"{prefix}{field.name}=", hint


def values(key: str, hint: Any) -> list[str]:
    """The values that a key takes, where they can be listed."""
    from diamond_bench.compose import groups

    if key in ("game", "games"):
        from diamond_bench.envs.games import games

        return games()
    if key in ("metrics", "evaluation.metrics"):
        from diamond_bench.metrics import selectable

        return list(selectable())
    if key in groups():
        return list(groups()[key])
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union else (hint,)
    found: list[str] = []
    for option in options:
        if typing.get_origin(option) is Literal:
            found += map(str, typing.get_args(option))
        elif option is bool:
            found += ["true", "false"]
        elif option is type(None):
            found.append("null")
    return found


# Installation


def script(shell: str) -> str:
    """The script that makes a shell ask. Raises UserError for another shell."""
    if shell not in SHELLS:
        raise UserError(f"completion {shell}: unknown shell: {nearest(shell, SHELLS)}")
    return Path(__file__).with_name(f"completion.{shell}").read_text()


def users_shell() -> str:
    """The shell of the user, from $SHELL. Raises UserError if it is none that can complete."""
    name = Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise UserError(f"completion: $SHELL names {name or 'no shell'}; name one of {', '.join(SHELLS)}, as in `completion bash`")
    return name


def install(shell: str) -> tuple[Path, Path | None]:
    """Writes the script into the user's home, and where the shell needs it, a line that reads it at the end of the shell's startup file.

    Returns the script's path and the changed startup file; None for the latter if nothing had to be added.
    """
    text = script(shell)
    if shell == "fish":
        file = _home("XDG_CONFIG_HOME", ".config") / "fish" / "completions" / "diamond-bench.fish"
    else:
        file = _home("XDG_DATA_HOME", ".local/share") / "diamond-bench" / f"completion.{shell}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    if shell == "fish":
        return file, None
    startup = (Path(os.environ.get("ZDOTDIR") or Path.home()) / ".zshrc") if shell == "zsh" else Path.home() / ".bashrc"
    line = f"source {shlex.quote(str(file))}"
    before = startup.read_text() if startup.exists() else ""
    if line in before.splitlines():
        return file, None
    with startup.open("a") as end:
        end.write(f"{'' if not before or before.endswith(chr(10)) else chr(10)}{line}\n")
    return file, startup


def _home(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / default)

"""Plans of `diamond-bench score`: the dataset whose held-out play is published as starts, and the scores of frames imagined from them.

Starts and frames are folders. Each holds manifest.json: the settings of the dataset and of the evaluation, the shapes of the frames, and a
checksum over all of it. Without torch.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diamond_bench.compose import known_keys, output_root, parse, scale_keys
from diamond_bench.config import RunConfig
from diamond_bench.errors import UserError, joined
from diamond_bench.metrics import all_metrics, selectable
from diamond_bench.metrics.header import Play
from diamond_bench.metrics.planning import check_metrics, check_names, input_jobs, lacking, refusal
from diamond_bench.metrics.weights import status_of
from diamond_bench.reading import read_json
from diamond_bench.shapes import Mismatch, anything, count, listing, mapping, record, text
from diamond_bench.spaces import ActionSpec
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import DamagedFile, has_seal, sealed
from diamond_bench.store.jobspec import JobSpec
from diamond_bench.store.kinds import EvaluateWorldModel, GivenFrames
from diamond_bench.studies.agents import with_agents
from diamond_bench.studies.cells import dataset_job
from diamond_bench.studies.check import check_run
from diamond_bench.studies.execution import of_no_compilation
from diamond_bench.studies.job_plan import Plan, Point, plain_primary
from diamond_bench.studies.margin import Margin
from diamond_bench.studies.plan import dataset_label, run_config, scale_of
from diamond_bench.studies.spec import Primary, games_of
from diamond_bench.studies.unread import check_read, in_effect
from diamond_bench.typed import build, to_plain

MANIFEST = "manifest.json"
_MAX_BYTES = 2**20
_FORMAT = 1
_GROUPS = ("env", "data", "evaluation", "probe", "inverse_dynamics")
"""The groups of settings that a manifest holds."""
_NOT_PREPARED = ("metrics", "batch_size", "milestone", "weights", "world_model", "keep_frames", "fixed_actions")
"""Settings of an evaluation that do not affect the starts."""
_SCORED = ("metrics", "evaluation.batch_size", "output_dir", "cluster")
"""The keys that a score takes, besides execution.*."""
_GIVEN: tuple[Play, ...] = ("rollouts", "one_step", "samples", "altered")
"""The kinds of play that a folder of frames can hold."""
_NOT_GIVEN: Mapping[Play, str] = {
    "forks": "samples of next frames whose distribution is known",
    "estimates": "a model's estimates of frames under noise",
    "held": "long play under held actions",
    "outcomes": "predicted rewards and ends",
}
"""The kinds of play that no folder of frames can hold."""
_SHAPE = record(
    {
        "format": count,
        "scale": text,
        "dataset": text,
        "starts": text,
        "actions": anything,
        "config": record({"game": text, **dict.fromkeys(_GROUPS, mapping(anything))}),
        "plays": mapping(listing(count, 4)),
    }
)


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest.json."""

    config: RunConfig
    """The game, the dataset, and the evaluation without its metrics."""
    scale: str
    dataset: str
    """The job of the dataset, as kind/id."""
    starts: str
    """SHA-256 over contexts, actions and true frames."""
    plays: Mapping[str, tuple[int, ...]]
    """The shape of the frames of each kind of play."""
    sha256: str
    """The checksum of the manifest."""


@dataclass(frozen=True)
class ScorePlan(Plan):
    """The plan that scores folders of frames, one variant each."""

    unmeasured: tuple[str, ...]
    """A sentence for each metric that the frames do not allow."""

    def comparison(self) -> dict[str, Any]:
        """See `Plan.comparison`. The variants are compared to the first folder."""
        primary = Primary("drift", {"arm": self.points[0].arm}, Margin(0.0))
        names = ", ".join(sentence.partition(" ")[0] for sentence in self.unmeasured)
        note = f"Not measured: {names}. The command that follows prints the reasons: {self.command} --dry-run" if names else ""
        return {"note": note, "protocol": "world_model", "axes": {}, "primary": plain_primary(primary)}


def plan_prepare(folder: Path, tokens: Sequence[str]) -> tuple[Plan, RunConfig]:
    """The plan of `diamond-bench score --prepare FOLDER game=Freeway [overrides]`: the dataset's job. The config has the settings of the
    starts. Raises UserError."""
    for token in tokens:
        _check_key(token.partition("=")[0])
    overrides = parse(["games" + token.removeprefix("game") if token.startswith("game=") else token for token in tokens])
    if any(override.key == "games" and len(override.values) > 1 for override in overrides):
        raise UserError(_ONE_GAME)
    values: dict[str, Any] = {override.key: override.value for override in overrides}
    scale = scale_of(overrides)
    settings = {key: value for key, value in values.items() if key not in ("games", "scale", "output_dir")}
    config = run_config({"scale": scale}, settings)
    games = games_of(values["games"]) if "games" in values else (config.game,)
    if len(games) > 1:
        raise UserError(_ONE_GAME)
    config = replace(config, game=games[0], evaluation=replace(config.evaluation, metrics=("drift",)))
    config = with_agents(config, Store(output_root(overrides)))
    check_read([key for key in settings if not key.startswith(("probe.", "inverse_dynamics."))], config)
    check_run(config)
    config = in_effect(config)
    dataset = dataset_job(config)
    scale = f"{scale}*" if settings.keys() & scale_keys(scale) else scale
    label = config.game if config.data.dataset is None else dataset_label(config.data.dataset)
    point = Point("starts", "", {}, label, 0, "", {"dataset": dataset.ref, "evaluation": dataset.ref})
    command = " ".join(["diamond-bench score --prepare", shlex.quote(str(folder)), *map(shlex.quote, tokens)])
    jobs = {dataset.ref: dataset}
    return Plan(f"score-starts-{dataset.id}", "", scale, command, jobs, (point,), config.execution, config.cluster), config


_ONE_GAME = "score --prepare writes the starts of one game; run it once for each"


def _check_key(key: str) -> None:
    """Raises UserError for a key that `score --prepare` does not take."""
    if _is_refused(key):
        raise UserError(f"{key}: it does not affect the starts; leave it out")
    if key in ("game", "games", "scale", "output_dir") or key.partition(".")[0] in (*_GROUPS, "execution"):
        return
    rule = f"score --prepare takes game=, scale=, output_dir= and keys of {', '.join(_GROUPS)} and execution alone"
    taken = [known for known in known_keys() if known.partition(".")[0] in (*_GROUPS, "execution") and not _is_refused(known)]
    near = [known for known in taken if known.endswith(f".{key}")]
    raise UserError(f"{key}: {rule}{f' (did you mean {joined(near)}?)' if near else ''}")


def _is_refused(key: str) -> bool:
    return key in [f"evaluation.{name}" for name in _NOT_PREPARED]


def manifest_of(config: RunConfig, scale: str, starts: str, actions: ActionSpec, plays: Mapping[Play, tuple[int, ...]]) -> dict[str, Any]:
    """The content of the manifest of such starts. `starts`: their checksum. `actions`: those of the dataset."""
    content = {
        "format": _FORMAT,
        "scale": scale,
        "dataset": str(dataset_job(config).ref),
        "starts": starts,
        "actions": actions.to_plain(),
        "config": {"game": config.game, **{group: to_plain(getattr(config, group)) for group in _GROUPS}},
        "plays": {kind: list(shape) for kind, shape in plays.items()},
    }
    return sealed(content)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of starts or of frames. Raises UserError if it is missing, was edited, or is of another version."""
    file = folder / MANIFEST
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder of imagined frames, with {MANIFEST}")
    if file.is_symlink():
        raise UserError(f"{file}: it is a link; copy the manifest of the starts into the folder")
    try:
        content = read_json(file, _MAX_BYTES)
        _SHAPE(content)
        if not has_seal(content, file):
            raise ValueError("it has no checksum")
    except FileNotFoundError:
        raise UserError(f"{folder}: it has no {MANIFEST}; copy that of the starts, for which the frames were imagined, into it") from None
    except (OSError, ValueError, Mismatch, DamagedFile) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UserError(f"{file}: no manifest of `score --prepare` ({reason}); copy that of the starts again") from None
    if content["format"] != _FORMAT:
        raise UserError(f"{file}: its format is {content['format']}; this version of diamond-bench reads {_FORMAT}")
    config = replace(build(RunConfig, {key: content["config"][key] for key in ("game", *_GROUPS)}), seed=0)
    try:
        here = str(dataset_job(config).ref)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    if here != content["dataset"]:
        raise UserError(
            f"{file}: its dataset is {content['dataset']}, and this version of diamond-bench makes {here} from the same settings; prepare "
            "the starts again, or score the folder with the version that prepared them"
        )
    plays = {kind: tuple(shape) for kind, shape in content["plays"].items()}
    return Manifest(config, content["scale"], content["dataset"], content["starts"], plays, content["sha256"])


def plan_score(folders: Sequence[Path], tokens: Sequence[str], starts: Path | None = None) -> ScorePlan:
    """The plan of `diamond-bench score FOLDER... [overrides]`: one evaluation for each folder, and what its metrics need. Reads all frames
    once. `starts`: the folder of starts for which the frames must have been imagined.

    Raises UserError for the first thing that is wrong with a folder.
    """
    from diamond_bench.data.given_frames import digest_of, find_given, open_given, read_through, unread

    names = [folder.absolute().name for folder in folders]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two folders are named {twice}; results are shown by name, so rename one of them")
    manifest = read_manifest(folders[0])
    for folder in (*([starts] if starts is not None else []), *folders[1:]):
        _require_same(folders[0], manifest, folder, read_manifest(folder))
    config = _scoring_config(manifest.config, tokens)
    given = []
    for folder in folders:
        found = find_given(folder, manifest.plays)
        if "rollouts" not in found:
            others = "".join(f"; {name} is in none of the formats of docs/score.md" for name in unread(folder, manifest.plays)[:1])
            lack = f"it has {' and '.join(found)} but no rollouts, which every score needs" if found else "it has no frames"
            shape = manifest.plays["rollouts"]
            raise UserError(f"{folder}: {lack}: expected rollouts.npy of shape {shape}, as the README.md of the starts says{others}")
        for kind, path in found.items():
            shape = manifest.plays[kind]
            for _ in read_through(open_given(path, shape), shape[0]):
                pass
        given.append(GivenFrames(digest_of(found), manifest.starts, tuple(sorted(found)), str(folder.absolute())))
    plays = set.intersection(*(set(frames.plays) for frames in given))
    config, notes = _with_metrics(config, plays)
    command = ["diamond-bench score", *(shlex.quote(str(folder)) for folder in folders), *map(shlex.quote, tokens)]
    dataset, execution = dataset_job(config), replace(of_no_compilation(config.execution), precision="fp32")
    jobs = {dataset.ref: dataset}
    inputs = {"dataset": dataset.ref}
    for role, kind, making in input_jobs(config, execution):
        spec = JobSpec(kind, making, {"dataset": dataset.ref})
        jobs[spec.ref], inputs[role] = spec, spec.ref
    label = config.game if config.data.dataset is None else dataset_label(config.data.dataset)
    points = []
    for name, frames in zip(names, given, strict=True):
        spec = JobSpec("evaluate_world_model", EvaluateWorldModel(evaluation=config.evaluation, execution=execution, given=frames), inputs)
        jobs[spec.ref] = spec
        points.append(Point(name, name, {}, label, 0, "fp32", {**inputs, "evaluation": spec.ref}))
    question = "How close are these imagined frames to the true ones?"
    name, how = f"score-{manifest.sha256[:12]}", (jobs, tuple(points), config.execution, config.cluster)
    return ScorePlan(name, question, manifest.scale, " ".join(command), *how, unmeasured=tuple(notes))


def _require_same(first: Path, one: Manifest, second: Path, other: Manifest) -> None:
    """Raises UserError if two folders belong to different starts, with the first setting in which these differ."""
    if one.sha256 == other.sha256:
        return
    a, b = (flat_settings(manifest.config) for manifest in (one, other))
    key = next((key for key in a if a[key] != b.get(key)), None)
    how = f"{key} is {a[key]} in the one and {b.get(key)} in the other" if key else "their true frames differ"
    raise UserError(f"{second}: it was prepared for other starts than {first} ({how}); use frames and starts with the same {MANIFEST}")


def flat_settings(config: RunConfig) -> dict[str, Any]:
    """The settings of a manifest by dotted key."""
    groups_ = {group: to_plain(getattr(config, group)) for group in _GROUPS}
    return {"game": config.game, **{f"{group}.{key}": value for group, values in groups_.items() for key, value in values.items()}}


def _scoring_config(prepared: RunConfig, tokens: Sequence[str]) -> RunConfig:
    """The config of the starts with the settings that may differ between scores. It has no metrics if the user names none."""
    for key in (token.partition("=")[0] for token in tokens):
        if key not in _SCORED and not key.startswith("execution."):
            raise UserError(
                f"{key}: a score takes metrics=, evaluation.batch_size=, execution.*, cluster= and output_dir= alone; all else is part of "
                f"{MANIFEST}"
            )
    overrides = {override.key: override for override in parse(tokens)}
    metrics = overrides.pop("metrics", None)
    values = {key: override.value for key, override in overrides.items()}
    chosen = {"scale": "paper", **({"cluster": str(values["cluster"])} if "cluster" in values else {})}
    settings = {key: value for key, value in values.items() if key.startswith("execution.")}
    if metrics is not None:
        asked = metrics.values if len(metrics.values) > 1 else metrics.value
        settings["evaluation.metrics"] = list(asked) if isinstance(asked, (list, tuple)) else [asked]
    composed = run_config(chosen, {**settings, "evaluation.batch_size": values.get("evaluation.batch_size", 100)})
    named = composed.evaluation.metrics if metrics is not None else ()
    check_names(named)
    evaluation = replace(prepared.evaluation, batch_size=composed.evaluation.batch_size, metrics=named)
    return replace(prepared, evaluation=evaluation, execution=composed.execution, cluster=composed.cluster)


def _with_metrics(config: RunConfig, plays: set[str]) -> tuple[RunConfig, list[str]]:
    """The config with its metrics: those that the user asked for, or all that can be measured. Also a sentence for each other metric."""
    if metrics := config.evaluation.metrics:
        reasons = {name: reason for name in metrics if (reason := _reason(name, config, plays))}
        if reasons:
            refused = {name: UserError(f"metrics: {name} cannot be measured: {reason}") for name, reason in reasons.items()}
            raise refusal(refused, metrics)
        check_metrics(config)
        return config, []
    reasons = {name: _reason(name, config, plays) for name in all_metrics()}
    metrics = tuple(name for name, reason in reasons.items() if not reason and name in selectable())
    notes = [f"{name} is not measured: {reason}." for name, reason in reasons.items() if reason]
    return replace(config, evaluation=replace(config.evaluation, metrics=metrics)), notes


def _of_starts(error: UserError) -> str:
    """Why a metric is refused, without the advice of `Metric.check`, which is for sweeps."""
    reason = str(error).removeprefix("metrics: ").partition("; ")[0]
    value, colon, why = reason.partition(": ")
    if not colon or not error.keys or error.keys[0].partition(".")[0] not in _GROUPS:
        return reason
    return f"the starts have {value}, and {why}"


def _reason(name: str, config: RunConfig, plays: set[str]) -> str:
    """Why a metric cannot be measured from these kinds of play. Empty if it can."""
    metric = all_metrics()[name]
    if absent := lacking(metric, [kind for kind in _GIVEN if kind in plays]):
        files = [f"{kind}.npy" for kind in absent if kind in _GIVEN]
        if files:
            return f"the folder holds no {' or '.join(files)}"
        return f"it needs {' and '.join(_NOT_GIVEN[kind] for kind in absent)}, which a folder of frames cannot hold"
    try:
        metric.check(replace(config, evaluation=replace(config.evaluation, metrics=(name,))))
    except UserError as error:
        return re.sub(rf"^{name} ", "it ", _of_starts(error))
    if metric.weights and (status := status_of(metric.weights)).state != "found":
        return f"the weights {status.name} are not on this machine (`{status.command}` gets them)"
    return ""

"""From a study to the jobs it needs: variants x games x seeds, each artifact once. Without torch. Nothing is written."""

import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diamond_bench.compose import Override, base, groups, output_root, parse, scale_keys, with_values
from diamond_bench.config import DataConfig, RunConfig
from diamond_bench.errors import UserError, nearest
from diamond_bench.metrics.planning import roles
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import DamagedFile, has_seal, read_json, refusal, require_folders, sealed, write_json
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.shapes import PLAN, fit
from diamond_bench.studies import agents
from diamond_bench.studies.baselines import differing_settings
from diamond_bench.studies.bounds import is_study_name
from diamond_bench.studies.cells import Cells
from diamond_bench.studies.check import check_run
from diamond_bench.studies.families import UnreadSettings, of_family
from diamond_bench.studies.job_plan import RANDOM_PLAY, Plan, plain_primary
from diamond_bench.studies.job_plan import Point as Point
from diamond_bench.studies.job_plan import SavedPlan as SavedPlan
from diamond_bench.studies.overrides import with_families, with_overrides
from diamond_bench.studies.spec import Study, load_study, points, study_files, unknown_study
from diamond_bench.studies.unread import check_read, in_effect
from diamond_bench.typed import build, to_plain

PER_GAME = ("dataset", RANDOM_PLAY, *roles())
"""Roles whose job serves all seeds of a game."""


@dataclass(frozen=True)
class StudyPlan(Plan):
    """The plan of a study at a scale: its jobs, and its comparison."""

    study: Study

    def comparison(self) -> dict[str, Any]:
        """See `Plan.comparison`."""
        return {
            "note": self.study.note,
            "protocol": self.study.protocol,
            "axes": {axis.name: {"key": axis.key, "title": axis.title} for axis in self.study.axes},
            "primary": plain_primary(self.study.primary),
        }


def plan_study(name: str, tokens: Sequence[str] = ()) -> StudyPlan:
    """The plan of a study with overrides from the command line. Raises UserError. Creates nothing."""
    overrides = parse(tokens)
    study = load_study(name, scale_of(overrides))
    return make_plan(study, overrides, " ".join(["diamond-bench sweep", name, *(shlex.quote(token) for token in tokens)]))


def scale_of(overrides: Sequence[Override]) -> str:
    """The scale that overrides choose, or paper."""
    return str(next((o.value for o in overrides if o.key == "scale"), "paper"))


def make_plan(study: Study, overrides: Sequence[Override], command: str) -> StudyPlan:
    """The plan of an overridden study. `command` makes it again. Raises UserError. Creates nothing."""
    chosen = {o.key: o.value for o in overrides if o.key in ("scale", "cluster")}
    scale = scale_of(overrides)
    study = with_overrides(study, overrides)
    store = Store(output_root(overrides))
    starred = (study.overridden & scale_keys(scale)) - {"evaluation.metrics"}
    cells = Cells()
    found: list[Point] = []
    config = RunConfig()
    unread = UnreadSettings(study.protocol)
    for variant, arm, axes, settings in points(study):
        config = run_config({"scale": scale, **chosen}, settings)
        if study.protocol == "agent":
            agents.check_model_free(settings)
        for game in _games(study, config):
            special = agents.per_game(game) if study.protocol == "agent" else {}
            on_game = run_config({"scale": scale, **chosen}, {**special, **settings}) if special else config
            named = on_game.evaluation.world_model
            on_game = agents.with_agents(replace(on_game, game=game, seed=max(study.seeds)), store)
            replaced = "evaluation.world_model" if named and on_game.evaluation.world_model is None else ""
            on_game = of_family(on_game, study.protocol)
            check_read(unread.of_variant([key for key in settings if key != replaced], on_game), on_game)
            try:
                check_run(on_game, study.protocol)
            except UserError as error:
                raise with_families(error, study) from None
            _check_dataset(on_game.data)
            on_game = in_effect(on_game)
            for seed in study.seeds:
                roles = cells.of(replace(on_game, seed=seed), study.protocol)
                found.append(Point(variant, arm, dict(axes), game, seed, on_game.execution.precision, roles))
    unread.check()
    scale = f"{scale}*" if starred else scale
    return StudyPlan(study.name, study.question, scale, command, cells.jobs, tuple(found), config.execution, config.cluster, study)


def _check_dataset(data: DataConfig) -> None:
    """Raises UserError if a user's own dataset is too short for the references, or of a format for which a setting has no effect."""
    if data.dataset is not None:
        from diamond_bench.data.foreign import find_dataset, format_of, heldout_set
        from diamond_bench.data.foreign_lengths import check_length

        folder, window = find_dataset(data.dataset), data.reference_context + data.reference_horizon
        kind = format_of(folder)
        if data.link_frames and kind != "frame_files":
            raise UserError(f"data.link_frames: only HDF5 files of frames can be linked, and {folder} holds {kind}; leave it out")
        if data.stacked_frames != "refuse" and kind != "minari":
            raise UserError(f"data.stacked_frames: only Minari datasets hold stacked frames, and {folder} holds {kind}; leave it out")
        check_length(folder, data.num_references, window, data.windows_per_episode, heldout_set(folder, data.heldout))


def _games(study: Study, config: RunConfig) -> tuple[str, ...]:
    """The study's games. With a user's own dataset, its label takes their place."""
    if config.data.dataset is None:
        return study.games
    if "games" in study.overridden:
        raise UserError("games: a dataset of your own (data.dataset) takes the games' place; give only one of them")
    return (dataset_label(config.data.dataset),)


def dataset_label(dataset: str) -> str:
    """The label of a user's own dataset in tables and figures: its Minari id, or its folder's name."""
    from diamond_bench.data.foreign import find_dataset, minari_root

    data, root = find_dataset(dataset), minari_root().resolve()
    folder = data.parent if data.name == "data" and data.parent.name else data
    return folder.relative_to(root).as_posix() if folder != root and folder.is_relative_to(root) else folder.name


def run_config(chosen: Mapping[str, str], settings: Mapping[str, Any]) -> RunConfig:
    """The typed config of a variant: groups composed by Hydra (once per set of choices), then dotted keys."""
    groups_chosen = {**chosen, **{key: value for key, value in settings.items() if key in groups()}}
    values = {key: value for key, value in settings.items() if key not in groups()}
    for key, value in values.items():
        if value == -math.inf:
            raise UserError(f"{key}={value}: expected a finite number")
    for key, value in groups_chosen.items():
        if key != "cluster" and value not in groups()[key]:
            raise UserError(f"{key}={value}: unknown {key}: {nearest(str(value), groups()[key])}")
    return build(RunConfig, with_values(base(tuple(sorted(groups_chosen.items()))), values))


def study_folder(root: Path, study: str, scale: str) -> Path:
    """The folder of a study's plan, results and report at a scale."""
    return root / "studies" / study / scale.replace("*", "-changed")


def save_plan(plan: Plan, root: Path) -> SavedPlan:
    """Writes plan.json: the points and their jobs, so that status and results need not plan again."""
    folder = study_folder(root, plan.name, plan.scale)
    require_folders(root, folder)
    write_json(folder / "plan.json", sealed(_content(plan)))
    return as_saved(plan, root)


def as_saved(plan: Plan, root: Path) -> SavedPlan:
    """The plan as `save_plan` would store it, without writing it."""
    return _from_content(_content(plan), study_folder(root, plan.name, plan.scale))


def find_plan(root: Path, study: str, tokens: Sequence[str]) -> SavedPlan:
    """The plan for `status`, `results` and `report`: the last one swept (at the requested scale, if there are several) or, with other
    overrides, the plan that they make. Raises UserError if there is none, or several."""
    overrides = [override for override in parse(tokens) if override.key != "output_dir"]
    name = Path(study).stem if study.endswith((".yaml", ".yml")) else study
    swept = saved = load_plans(root, name) if is_study_name(name) else []
    scales = ", ".join(plan.scale for plan in swept)
    has_file = name != study or study in study_files()
    if [override.key for override in overrides] == ["scale"]:
        saved = [plan for plan in saved if plan.scale.rstrip("*") == overrides[0].value]
        if not has_file:  # nothing can be planned, so an exact match decides
            saved = [plan for plan in saved if plan.scale == overrides[0].value] or saved
    if len(saved) == 1 and all(override.key == "scale" for override in overrides):
        return saved[0]
    if swept and not has_file:
        file = f" (other overrides need the path of its YAML file, in place of {study})" if overrides else ""
        raise UserError(f"{study} was swept at scale{'s' * (len(swept) > 1)} {scales}: name one with scale={file}")
    if not has_file:
        raise unknown_study(study, root, {folder.parent.name for folder in study_folders(root, lambda reason: None)})
    if overrides:
        return as_saved(plan_study(study, tokens), root)
    if not swept:
        load_study(study, "paper")  # more likely, the file has a mistake
        command = shlex.join(["diamond-bench", "sweep", study, "scale=smoke", *tokens])
        raise UserError(f"{study} has not been swept into {root}; run: {command}")
    commands = "; ".join(plan.command.removeprefix("diamond-bench sweep ") for plan in swept)
    raise UserError(f"{study} was swept several times, at scales {scales}; repeat the overrides of one: {commands}")


def place_of(plan: SavedPlan) -> str:
    """The words by which `status`, `open` and other commands find a plan: its name, its scale, and its store's folder.

    The name of a changed scale may mean another sweep, so the overrides that changed it take its place.
    """
    command, words = plan.command.split()[1], shlex.split(plan.command)[2:]
    if command == "sweep" and plan.scale.endswith("*"):
        return shlex.join(words)
    name = words[0] if command == "sweep" else plan.study
    return shlex.join([name, f"scale={plan.scale.rstrip('*')}", *(word for word in words if word.startswith("output_dir="))])


def command_of(plan: SavedPlan) -> str:
    """The command that runs what is missing of a plan. If a study was never swept and the user named no scale, it uses scale smoke, since
    the default takes months."""
    chosen = plan.command.startswith("diamond-bench sweep ") and not any(word.startswith("scale=") for word in shlex.split(plan.command))
    return f"{plan.command} scale=smoke" if chosen and not (plan.folder / "plan.json").exists() else plan.command


def load_plans(root: Path, study: str | None = None, refuse: Callable[[str], None] | None = None) -> list[SavedPlan]:
    """The plans swept into a store, of one study or of all.

    Raises UserError for a damaged file. If a plan may not be read, raises PermissionError, or calls `refuse` with the reason.
    """
    plans = []
    for folder in study_folders(root, refuse, study):
        try:
            plans.append(load_plan(folder))
        except FileNotFoundError:
            continue
        except PermissionError as error:
            if refuse is None:
                raise
            refuse(refusal(error))
    return plans


def load_plan(folder: Path) -> SavedPlan:
    """The plan in a study's folder. Raises FileNotFoundError, and DamagedFile if it is not as a sweep wrote it."""
    file = folder / "plan.json"
    content, advice = read_json(file), "; run the study's sweep again to rewrite it"
    fit(content, PLAN, file, advice)
    if any(len(point[2]) != len(content["axes"]) for point in content["points"]):
        raise DamagedFile(file, f"a point has not one value for each axis{advice}")
    try:
        verified = has_seal(content, file)
    except DamagedFile as error:
        raise DamagedFile(file, f"{error.reason}{advice}") from None
    return replace(_from_content(content, folder), verified=verified)


def study_folders(root: Path, refuse: Callable[[str], None] | None = None, study: str | None = None) -> list[Path]:
    """The folders `studies/<study>/<scale>` of a store, or of one study, sorted.

    Raises UserError if one is a link. If one may not be read, raises PermissionError, or calls `refuse` with the reason.
    """
    level = _real([root / "studies"], root, refuse)
    for wanted in (study, None):
        inside = [path for folder in level for path in _inside(folder, refuse) if wanted in (None, path.name)]
        level = _real(inside, root, refuse)
    return level


def _inside(folder: Path, refuse: Callable[[str], None] | None) -> list[Path]:
    try:
        return [path for path in sorted(folder.iterdir()) if path.is_symlink() or path.is_dir()]
    except FileNotFoundError:
        return []
    except PermissionError as error:
        if refuse is None:
            raise
        refuse(refusal(error))
        return []


def _real(folders: Iterable[Path], root: Path, refuse: Callable[[str], None] | None) -> list[Path]:
    kept = []
    for folder in folders:
        try:
            require_folders(root, folder)
            kept.append(folder)
        except UserError as error:
            if refuse is None:
                raise
            refuse(str(error))
    return kept


def _content(plan: Plan) -> dict[str, Any]:
    return {
        "study": plan.name,
        "question": plan.question,
        "scale": plan.scale,
        "command": plan.command,
        **plan.comparison(),
        "baseline_settings": differing_settings(plan.jobs, plan.points),
        "jobs": [list(ref) for ref in plan.jobs],
        "points": [
            [
                p.variant,
                p.arm,
                to_plain(list(p.axes.values())),
                p.game,
                p.seed,
                p.precision,
                {role: list(ref) for role, ref in p.jobs.items()},
            ]
            for p in plan.points
        ],
    }


def _from_content(content: Mapping[str, Any], folder: Path) -> SavedPlan:
    axes = content["axes"]
    points = tuple(
        Point(variant, arm, dict(zip(axes, values, strict=True)), game, seed, precision, {role: JobRef(*r) for role, r in jobs.items()})
        for variant, arm, values, game, seed, precision, jobs in content["points"]
    )
    return SavedPlan(
        **{key: content[key] for key in ("study", "question", "note", "protocol", "scale", "command")},
        axes=axes,
        primary=content["primary"],
        jobs=tuple(JobRef(*ref) for ref in content["jobs"]),
        points=points,
        folder=folder,
        baseline_settings=content.get("baseline_settings", {}),
    )

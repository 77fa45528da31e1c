"""Finds and checks everything that the command line names before anything is drawn: studies in the store, and a user's scores."""

from collections.abc import Sequence
from pathlib import Path

from diamond_bench.errors import UserError, nearest
from diamond_bench.results.table import collect, finished_results, mixtures, unverified_plan
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import sha256
from diamond_bench.studies.plan import SavedPlan, load_plans
from diamond_bench.studies.spec import SCALES, study_files
from paper_figures.methods import asked_for
from paper_figures.parts import Inputs, StudyResults, UserScores


def load_inputs(results: Sequence[str], scores: Path | None, store: Store, methods: Sequence[str] = ()) -> Inputs:
    """The studies named in `results` (STUDY or STUDY:SCALE), the scores file, read whole, and the published methods named in `methods`.

    Raises UserError; writes nothing.
    """
    plans = [find(text, store) for text in dict.fromkeys(results)]
    studies = tuple(load(plan, store) for plan in {plan.folder: plan for plan in plans}.values())
    own = None if scores is None else read(scores)
    swept = tuple((plan.study, plan.scale) for plan in _sound_plans(store))
    return Inputs(store, studies, own, *asked_for(methods), swept=swept)


def _sound_plans(store: Store) -> list[SavedPlan]:
    """Plans that were not asked for. A damaged one does not matter to this call."""
    found = []
    for file in sorted((store.root / "studies").glob("*/*/plan.json")):
        try:
            found += [plan for plan in load_plans(store.root, file.parent.parent.name) if plan.folder == file.parent]
        except UserError:
            continue
    return found


def find(text: str, store: Store) -> SavedPlan:
    """The swept plan that STUDY, STUDY:SCALE or the path of a study's file names. Raises UserError if there is none, or several."""
    name, colon, scale = text.rpartition(":")
    if not colon or scale.rstrip("*") not in SCALES:
        if name in study_files():
            raise UserError(f"--results {text}: unknown scale {scale!r}: {nearest(scale, SCALES)}")
        name, scale = text, ""
    study = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    plans = load_plans(store.root, study) if study and "/" not in study else []
    known = sorted({path.name for path in (store.root / "studies").glob("*") if any(path.glob("*/plan.json"))})
    if not plans:
        if study not in study_files():
            raise UserError(f"--results {text}: unknown study {study!r}: {nearest(study, {*known, *study_files()})}")
        raise UserError(f"--results {text}: {study} has not been swept into {store.root}; run: diamond-bench sweep {study}")
    chosen = [plan for plan in plans if not scale or plan.scale == scale]
    names = ", ".join(f"{study}:{plan.scale}" for plan in plans)
    if not chosen:
        raise UserError(f"--results {text}: {study} was not swept at scale {scale}: there are {names}")
    if len(chosen) > 1:
        raise UserError(f"--results {text}: {study} was swept at several scales; name one: {names}")
    return chosen[0]


def load(plan: SavedPlan, store: Store) -> StudyResults:
    """A study's finished jobs. Raises UserError for a damaged one: figures without it would show a different study."""
    for ref in plan.jobs:
        damage = store.damage(ref)
        if damage:
            raise UserError(f"{damage}; repeat it with: {plan.command}")
    results = finished_results(plan, store)
    table = collect(plan, store, results)
    return StudyResults(plan, table, {ref.id: result for ref, result in results.items()}, (*unverified_plan(plan), *mixtures(table)))


def read(file: Path) -> UserScores:
    """A user's scores. Raises UserError for what analysis.scores refuses."""
    from analysis.scores import ScoreError, read_scores

    try:
        found = read_scores(file)
    except ScoreError as error:
        raise UserError(f"--scores {error}") from None
    return UserScores(found.frame, tuple(found.flags), str(file), sha256(file))

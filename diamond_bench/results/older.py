"""Results of an earlier revision of a kind's code: how many of a plan's jobs have one, what a sweep reuses, and what the rest costs."""

from collections import Counter
from collections.abc import Collection, Mapping
from itertools import product

from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import KINDS, family_revision, job_id
from diamond_bench.store.states import JobState
from diamond_bench.studies.estimate import estimate, time_range

_WORDS = {
    "collect_dataset": ("dataset", "datasets"),
    "import_dataset": ("imported dataset", "imported datasets"),
    "train_world_model": ("training", "trainings"),
    "train_state_probe": ("state probe", "state probes"),
    "train_inverse_dynamics": ("inverse-dynamics network", "inverse-dynamics networks"),
    "extract_features": ("set of true frames' features", "sets of true frames' features"),
    "extract_clip_features": ("set of true clips' features", "sets of true clips' features"),
    "evaluate_world_model": ("evaluation", "evaluations"),
    "train_agent": ("agent's training", "agents' trainings"),
    "import_agent": ("imported agent", "imported agents"),
    "import_world_model": ("imported world model", "imported world models"),
    "evaluate_agent": ("agent's evaluation", "agents' evaluations"),
    "play_random": ("set of random games", "sets of random games"),
    "profile": ("profile", "profiles"),
}
_ADDED = {"evaluate_world_model": {"true_features": 2}}
"""Inputs that entered a kind's identity at a revision. Earlier identities lack them."""


def older_results(specs: Collection[JobSpec], states: Mapping[JobRef, JobState]) -> Counter[str]:
    """For each kind, the jobs that are not done but have a finished result of an earlier revision in the store.

    An earlier result has the same config and the same inputs. `states`: of the store's jobs.
    """
    finished = {ref for ref, state in states.items() if state.status == "done"}
    kinds = {
        ref.kind for ref in finished - {spec.ref for spec in specs}
    }  # an identity costs tens of microseconds, so none is computed unnecessarily
    found: Counter[str] = Counter()
    for spec in specs:
        if spec.kind in kinds and spec.ref not in finished:
            found[spec.kind] += any(JobRef(spec.kind, old) in finished for old in _earlier_ids(spec))
    return +found


def _earlier_ids(spec: JobSpec) -> list[str]:
    added = _ADDED.get(spec.kind, {})
    ids = []
    present, of_family = KINDS[spec.kind].revision, family_revision(spec.config)
    of_families = [None] if of_family is None else [*range(of_family, 0, -1)]
    for revision, family in list(product(range(present, 0, -1), of_families))[1:]:  # the first ones are the present revisions
        inputs = {name: ref.id for name, ref in spec.inputs.items() if added.get(name, 0) <= revision}
        ids.append(job_id(spec.kind, spec.config, inputs, revision, family))
    return ids


def older_sentence(specs: Mapping[JobRef, JobSpec], store: Store, states: Mapping[JobRef, JobState]) -> str:
    """A note such as "7 evaluations of an earlier revision exist and are kept; 3 trainings are reused", with the cost of the rest. Empty if
    there are no results of an earlier revision."""
    older = older_results(list(specs.values()), states)
    if not older:
        return ""
    missing = [ref for ref in specs if ref not in states or states[ref].status != "done"]
    reused = Counter(ref.kind for ref in specs) - Counter(ref.kind for ref in missing)
    parts = [f"{_counted(older)} of an earlier revision {_verbs(older, 'exists and is', 'exist and are')} kept"]
    if reused:
        parts.append(f"{_counted(reused)} {_verbs(reused, 'is', 'are')} reused")
    cost = estimate(specs, missing, store, states)
    return f"{'; '.join(parts)}; the rest takes {time_range(cost.low_hours, cost.high_hours)} of one device"


def _counted(numbers: Counter[str]) -> str:
    words = [f"{number} {_WORDS.get(kind, (kind, kind))[number != 1]}" for kind, number in numbers.items()]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _verbs(numbers: Counter[str], one: str, several: str) -> str:
    return one if numbers.total() == 1 else several

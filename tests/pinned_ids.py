"""The job ids of every shipped study at every scale, as digests in pinned_ids.json: an id that moves loses what was computed under it.

python tests/pinned_ids.py  # writes the file: only where an issue says that ids may move
"""

import hashlib
import json
from pathlib import Path

from diamond_bench.studies.plan import Plan, plan_study
from diamond_bench.studies.spec import study_files

FILE = Path(__file__).with_suffix(".json")
SCALES = ("paper", "small", "laptop", "smoke", "tiny")


def plan_at(study: str, scale: str) -> Plan:
    """A shipped study at a scale; at scale paper with one seed, since five would be thousands of jobs."""
    return plan_study(study, [f"scale={scale}", *(["seeds=[0]"] if scale == "paper" else [])])


def digests(plan: Plan) -> dict[str, str]:
    """Per kind of job: how many there are, and the start of the SHA-256 of their sorted ids."""
    ids: dict[str, list[str]] = {}
    for ref in plan.jobs:
        ids.setdefault(ref.kind, []).append(ref.id)
    return {kind: f"{len(of)} {hashlib.sha256(' '.join(sorted(of)).encode()).hexdigest()[:16]}" for kind, of in sorted(ids.items())}


if __name__ == "__main__":
    found = {study: {scale: digests(plan_at(study, scale)) for scale in SCALES} for study in sorted(study_files())}
    FILE.write_text(json.dumps(found, indent=1) + "\n")

"""The resources that each kind of job requests from a cluster."""

from dataclasses import fields

from diamond_bench.config import Resources, SlurmCluster
from diamond_bench.store.kinds import KINDS


def resources(cluster: SlurmCluster, kind: str) -> Resources:
    """Each value from the first place that states it: the profile's group for the kind, the kind's row in KINDS, the profile."""
    row = KINDS[kind].resources if kind in KINDS else Resources()
    places = (getattr(cluster, kind, Resources()), row, cluster)
    asked = {f.name: [getattr(place, f.name, None) for place in places] for f in fields(Resources)}
    return Resources(**{name: next((value for value in values if value is not None), None) for name, values in asked.items()})

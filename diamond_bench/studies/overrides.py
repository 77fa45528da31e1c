"""A user's overrides of a study, from the command line. Without torch."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from diamond_bench.compose import Override, groups
from diamond_bench.errors import UserError
from diamond_bench.studies.bounds import check_variants, seeds_of
from diamond_bench.studies.looks import check_seeds
from diamond_bench.studies.spec import Axis, Study, check_axis, check_use, games_of

_COPY = "Copy the study's YAML under another name, {}and sweep the copy's path instead"
_METRICS = "evaluation.metrics"


def with_overrides(study: Study, overrides: Sequence[Override]) -> Study:
    """The study with a user's overrides. An axis' key replaces its values. Any other key is set for all variants or, with several values,
    becomes an axis. Raises UserError for a key that distinguishes the study's arms, and for more seeds than at the last look."""
    for override in overrides:
        if override.key == "games":
            games = games_of(override.values if len(override.values) > 1 else override.value)
            study = replace(study, games=games, overridden=study.overridden | {"games"})
        elif override.key == "seeds":
            study = replace(study, seeds=seeds_of(override.values if len(override.values) > 1 else override.value))
        elif override.key == "metrics":
            value = override.values if len(override.values) > 1 else override.value
            study = _with_key(study, _METRICS, (list(value) if isinstance(value, (list, tuple)) else [value],))
        elif override.key not in ("scale", "output_dir", "cluster"):
            study = _with_key(study, override.key, override.values)
    each = len(study.games) * len(study.seeds)
    check_variants(study.arms, {axis.key: axis.values for axis in study.axes}, f"study {study.name}", each)
    check_seeds(study.primary.looks, study.seeds)
    return study


def _with_key(study: Study, key: str, values: tuple[Any, ...]) -> Study:
    if key in study.overridden:
        raise UserError(f"{key}: given twice")
    check_use(key, study.protocol, key)
    taken = {axis.name for axis in study.axes}
    short = key.rsplit(".", 1)[-1]
    added = Axis(key if short in taken else short, key, values, key)
    check_axis(added, key)
    study = replace(study, overridden=study.overridden | {key})
    for axis in study.axes:
        if axis.key == key:
            return replace(study, axes=tuple(replace(a, values=values) if a is axis else a for a in study.axes))
    _check_arms(study, key)
    if len(values) == 1:
        return replace(study, settings={**study.settings, key: values[0]})
    return replace(study, axes=(*study.axes, added))


def _check_arms(study: Study, key: str) -> None:
    """Raises UserError if arms of the study set this key themselves, or if it is a key of their family."""
    if key.startswith("family.") and (names := _with_family(study)):
        advice = _COPY.format("set the key in its arms, ")
        raise UserError(f"{key}: family is set by the arms of {study.name} ({names}), and each family has its own keys. {advice}")
    names = _named([arm for arm, of in study.arms.items() if key in of or (key in groups() and any(k.startswith(f"{key}.") for k in of))])
    if names and key == _METRICS:
        advice = _COPY.format("change the metrics of its arms, ")
        raise UserError(f"metrics: set by the arms of {study.name} ({names}); metrics= would replace them. {advice}")
    if names:
        why = "overriding it would make their names untrue"
        raise UserError(f"{key}: set by the arms of {study.name} ({names}); {why}. {_COPY.format('')}")


def _with_family(study: Study) -> str:
    """The arms that choose a family."""
    return _named([arm for arm, of in study.arms.items() if "family" in of])


def _named(arms: Sequence[str]) -> str:
    """The first of these arms."""
    return f"{', '.join(arms[:3])}{', ...' if len(arms) > 3 else ''}"


def with_families(error: UserError, study: Study) -> UserError:
    """The refusal of one arm, with advice if it concerns a metric that arms of other families may have."""
    if "metrics" not in error.keys or not _with_family(study):
        return error
    advice = _COPY.format("set evaluation.metrics in the arms that can have it, ")
    return UserError(f"{error}. Other arms of {study.name} may have it. {advice}")

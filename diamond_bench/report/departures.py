"""Which variants of a study are the paper's model, DIAMOND as its authors released it, and in which settings the others differ."""

from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from diamond_bench.compose import groups, scale_keys
from diamond_bench.report.drawing import named
from diamond_bench.report.facts import StudyFacts, settings_of
from diamond_bench.studies import agents
from diamond_bench.studies.plan import SavedPlan, run_config
from diamond_bench.studies.unread import in_effect

_MODEL = ("family", "objective", "conditioning", "sampler")
"""What the model is. These settings count at every scale."""
_SIZE = ("network", "training", "reward_end", "actor_critic", "agent")
"""How large it is and how long it learns. These settings count only where the scale does not set them, which the page says apart."""
_FREE = ("sampler.num_steps", "training.milestones", *(f"agent.{name}" for name in ("test_every", "test_episodes", "test_max_steps")))
"""Settings that make no other model: the paper varies the number of denoising steps itself, and the others only choose what is measured."""
_MAX_NAMES, _MAX_SETTINGS = 4, 3


def departures(plan: SavedPlan, facts: StudyFacts) -> dict[str, dict[str, tuple[Any, Any]]]:
    """For each variant whose settings are known, the settings in which it differs from DIAMOND as released: its value and DIAMOND's.

    The network's size and the length of the training are left out where the scale sets them, and so is the number of denoising steps.
    """
    scale = plan.scale.rstrip("*")
    released, of_scale = _released(plan.protocol, plan.points[0].game), scale_keys(scale) if scale in groups()["scale"] else frozenset()

    def counts(key: str) -> bool:
        group = key.partition(".")[0]
        return key in released and key not in _FREE and (group in _MODEL or (group in _SIZE and key not in of_scale))

    return {
        variant: {key: (value, released[key]) for key, value in settings.items() if counts(key) and value != released[key]}
        for variant, settings in facts.configs.items()
        if settings
    }


@cache
def _released(protocol: str, game: str) -> Mapping[str, Any]:
    """DIAMOND's settings as released, with those that its authors changed for this game."""
    own = agents.per_game(game) if protocol == "agent" else {}
    return settings_of(in_effect(run_config({"scale": "paper"}, own)), protocol)


def sentences(plan: SavedPlan, facts: StudyFacts) -> list[str]:
    """What a reader must know before any number: that not every variant shown is the paper's model, and which one is.

    Empty where every variant is the paper's model, or no settings are known.
    """
    found = departures(plan, facts)
    others = {variant: differs for variant, differs in found.items() if differs}
    if not others:
        return []
    arms = {point.variant: point.arm for point in plan.points if point.variant in found}
    own = [variant for variant in found if variant not in others]
    if own:
        which = f"the settings of {_quoted(others, arms)} differ from DIAMOND as released"
        first = f"Not the paper's model: {which}. The paper's EDM is {_quoted(own, arms)}."
    else:
        first = "Not the paper's model: every variant differs from DIAMOND as released. The paper's EDM is not on this page."
    groups: dict[str, list[str]] = {}
    for variant, differs in others.items():
        groups.setdefault(_settings(differs), []).append(variant)
    lines = [f"{named(names, arms, _MAX_NAMES)}: {words}." for words, names in list(groups.items())[:_MAX_NAMES]]
    if len(groups) > _MAX_NAMES:
        lines.append(f"{len(groups) - _MAX_NAMES} more groups of variants differ; see Variants.")
    return [first, *lines]


def _quoted(variants: Collection[str], arms: Mapping[str, str]) -> str:
    return f"“{named(list(variants), arms, _MAX_NAMES)}”"


def _settings(differs: Mapping[str, tuple[Any, Any]]) -> str:
    """The differing settings in words. Where a family, objective or sampler is another one, its name stands for all of its settings."""
    if "family" in differs:
        keys = ["family"]
    else:
        named = {key.removesuffix(".name") for key in differs if key in ("objective.name", "sampler.name")}
        keys = [key for key in differs if key.endswith(".name") or key.partition(".")[0] not in named]
        keys.sort(key=lambda key: (key.startswith("sampler"), key not in ("objective.name", "objective.coordinate", "sampler.name")))
    parts = [f"{key} = {differs[key][0]} (released: {differs[key][1]})" for key in keys[:_MAX_SETTINGS]]
    more = len(keys) - _MAX_SETTINGS
    return f"{', '.join(parts)}{f' and {more} more setting' + 's' * (more > 1) if more > 0 else ''}"

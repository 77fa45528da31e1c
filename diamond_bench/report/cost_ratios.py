"""The cost of a variant relative to its baseline: network calls, FLOP and seconds to imagine a frame, and seconds of training."""

from typing import Any

from diamond_bench.report.facts import StudyFacts, calls_compare, device_name


class CostRatios:
    """Ratios of means over finished runs, for the games that both variants have, all games weighted equally."""

    def __init__(self, facts: StudyFacts) -> None:
        runs = facts.table[facts.table["seed"].notna()]
        devices = {ref.id: device_name(recorded) for ref, recorded in facts.recorded.items()}
        wanted = runs[runs["metric"].isin(["nfe_per_frame", "frames_per_second", "training_seconds"])]
        self._by_game: dict[tuple[str, str], dict[str, float]] = {}
        means: dict[Any, float] = wanted.groupby(["variant", "metric", "game"])["value"].mean().to_dict()
        for (variant, metric, game), mean in means.items():
            self._by_game.setdefault((variant, metric), {})[game] = mean
        for variant, costs in facts.costs.items():
            self._by_game[variant, "flops_per_frame"] = dict(costs.get("flops_per_frame", {}))
            calls = dict(costs.get("calls_per_frame", {}))
            self._by_game.setdefault((variant, "nfe_per_frame"), calls)  # of agents, whose evaluation imagines nothing
        self._family = facts.family_of
        self._devices: dict[tuple[str, str, str], set[str]] = {}
        for variant, metric, game, job in zip(wanted["variant"], wanted["metric"], wanted["game"], wanted["job"], strict=True):
            self._devices.setdefault((variant, metric, game), set()).add(devices.get(job, ""))

    def of(self, variant: str, base: str) -> dict[str, float]:
        """nfe_ratio, flops_ratio, seconds_ratio and training_ratio. NaN if a side has no value, or if seconds were measured on several
        kinds of device. nfe_ratio is also NaN unless both sides are known to have one family: calls of different ones do not compare."""
        frames = self._ratio("frames_per_second", variant, base, measured=True)
        alike = calls_compare([self._family(variant), self._family(base)])
        return {
            "nfe_ratio": self._ratio("nfe_per_frame", variant, base, measured=False) if alike else float("nan"),
            "flops_ratio": self._ratio("flops_per_frame", variant, base, measured=False),
            "seconds_ratio": 1 / frames if frames else float("nan"),
            "training_ratio": self._ratio("training_seconds", variant, base, measured=True),
        }

    def _ratio(self, metric: str, variant: str, base: str, measured: bool) -> float:
        one, other = self._by_game.get((variant, metric), {}), self._by_game.get((base, metric), {})
        games = [game for game in one if game in other]
        devices = {name for side in (variant, base) for game in games for name in self._devices.get((side, metric, game), ())}
        least = sum(other[game] for game in games)
        if not games or not least or (measured and len(devices) != 1):
            return float("nan")
        return sum(one[game] for game in games) / least

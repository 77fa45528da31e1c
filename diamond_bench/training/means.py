"""Means over an epoch, summed on the device and read once."""

import math

import torch
from torch import Tensor

from diamond_bench.training.log import NotFinite


class Means:
    """Sums of named scalars. `read` returns their means and resets the sums. Nothing else waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, prefix: str, **values: Tensor) -> None:
        """Adds one value of each, under prefix/name."""
        for name, value in values.items():
            key = f"{prefix}/{name}"
            self._sums[key] = self._sums.get(key, torch.zeros((), device=self._device, dtype=torch.float64)) + value.detach().double()
            self._counts[key] = self._counts.get(key, 0) + 1

    def read(self) -> dict[str, float]:
        """The means since the last call. Waits for the device. Raises NotFinite with the names of those that are not finite."""
        names = list(self._sums)
        values = torch.stack([self._sums[name] / self._counts[name] for name in names]).tolist() if names else []
        self._sums, self._counts = {}, {}
        return _finite(dict(zip(names, values, strict=True)))

    def state_dict(self) -> dict[str, tuple[Tensor, int]]:
        """The sums for a checkpoint. Raises NotFinite with the names of those that are not finite."""
        sums = {name: total.cpu() for name, total in self._sums.items()}
        _finite({name: float(total) for name, total in sums.items()})
        return {name: (total, self._counts[name]) for name, total in sums.items()}

    def load_state_dict(self, state: dict[str, tuple[Tensor, int]]) -> None:
        """Continues from `state_dict`."""
        self._sums = {name: total.to(self._device) for name, (total, _) in state.items()}
        self._counts = {name: count for name, (_, count) in state.items()}


def _finite(values: dict[str, float]) -> dict[str, float]:
    wrong = ", ".join(f"{name} {value:g}" for name, value in values.items() if not math.isfinite(value))
    if wrong:
        raise NotFinite(f"not finite ({wrong})")
    return values

"""AdamW as the authors use it: weight decay for weights only, and linear warm-up from zero (method section 5)."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

_DECAYED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM, nn.LSTMCell)


class OptimizerSettings(Protocol):
    """The settings of AdamW, as in `TrainingConfig`, `RewardEndConfig` and `ActorCriticConfig`."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def adam_epsilon(self) -> float: ...
    @property
    def adam_beta2(self) -> float: ...
    @property
    def warmup_steps(self) -> int: ...


@runtime_checkable
class Cooldown(Protocol):
    """Settings of a training of known length, whose learning rate may fall towards its end: `TrainingConfig`."""

    @property
    def cooldown(self) -> float: ...
    @property
    def num_steps(self) -> int: ...


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two AdamW groups. Weights of linear, convolution and LSTM layers decay; biases, norms and embeddings do not."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for layer in module.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            (decayed if isinstance(layer, _DECAYED) and name.startswith("weight") else plain).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def make_optimizer(module: nn.Module, training: OptimizerSettings, fused: bool = True, on_device: bool | None = None) -> torch.optim.AdamW:
    """AdamW over a module's parameters.

    `on_device`: keep everything that changes from step to step on the device, including the learning rate, so that a CUDA graph may contain
    a step. It is the default on CUDA, recorded or not: a rate on the device is rounded to float32, and both should give the same numbers.
    """
    groups = parameter_groups(module, training.weight_decay)
    device = next(module.parameters()).device
    on_device = device.type == "cuda" and fused if on_device is None else on_device
    optimizer = torch.optim.AdamW(
        groups,
        lr=torch.tensor(training.learning_rate, device=device) if on_device else training.learning_rate,
        betas=(0.9, training.adam_beta2),
        eps=training.adam_epsilon,
        fused=fused,
        foreach=None if fused else False,
        capturable=on_device and device.type == "cuda",
    )
    optimizer._warned_capturable_if_run_uncaptured = True  # otherwise torch warns in each log that an eager run could be recorded
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, training: OptimizerSettings, step: int) -> float:
    """Sets and returns the learning rate of update `step` (from 0): linear from exactly 0 over warmup_steps, then constant, then the
    cooldown if the settings have one."""
    share = min(1.0, step / training.warmup_steps) if training.warmup_steps else 1.0
    if isinstance(training, Cooldown) and training.cooldown:
        share = min(share, (training.num_steps - step) / (training.cooldown * training.num_steps))
    rate = training.learning_rate * share
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    return rate


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Continues from a `state_dict`, whether its learning rate was a number or lay on a device. The optimiser keeps its own kind of
    rate."""
    own = [{key: group[key] for key in ("lr", "capturable", "fused", "foreach")} for group in optimizer.param_groups]
    saved: list[dict[str, Any]] = state["param_groups"]
    optimizer.load_state_dict({**state, "param_groups": [{**theirs, **ours} for theirs, ours in zip(saved, own, strict=True)]})
    for group, ours, theirs in zip(optimizer.param_groups, own, saved, strict=True):
        rate = float(theirs["lr"])
        group["lr"] = ours["lr"].fill_(rate) if isinstance(ours["lr"], torch.Tensor) else rate

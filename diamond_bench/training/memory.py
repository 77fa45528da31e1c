"""The memory that a training needs on its device, counted without a device: networks on torch's meta device have shapes and no numbers."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from diamond_bench.config import TrainingConfig
from diamond_bench.data.segments import Segments
from diamond_bench.worlds.contract import Trainable, TrainedWorld


@dataclass(frozen=True)
class TrainingBytes:
    """Bytes of one network's training in fp32."""

    weights: int
    """Parameters and buffers."""
    gradients: int
    """One number per parameter."""
    moments: int
    """AdamW's two moments per parameter."""
    activations: int
    """Intermediate tensors that the backward pass of one segment needs, for all its loss terms."""
    batch_size: int
    """Segments whose activations are held at once. Accumulation adds none."""

    @property
    def state(self) -> int:
        """Everything except activations."""
        return self.weights + self.gradients + self.moments

    @property
    def total(self) -> int:
        """All of them. Temporary results and the library's own memory come on top."""
        return self.state + self.batch_size * self.activations


def training_bytes(world: TrainedWorld, training: TrainingConfig) -> dict[str, TrainingBytes]:
    """The memory of training each network of a world model, by its name. `world`: on the meta device."""
    return {trainable.name: _bytes(world, trainable, training) for trainable in world.trainables(training)}


def _bytes(world: TrainedWorld, trainable: Trainable, training: TrainingConfig) -> TrainingBytes:
    network, kept = trainable.network, dict[int, Tensor]()
    parameters = list(network.parameters())
    own = {_storage(tensor) for tensor in (*parameters, *network.buffers())}

    def saved(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            kept[_storage(tensor)] = tensor  # kept, so that no other storage takes its place
        return tensor

    steps, spec = trainable.segment_length, world.spec
    frames = torch.zeros(1, steps, 3, *spec.frames.sides, dtype=torch.uint8, device="meta")
    actions = torch.zeros(1, steps, *spec.actions.shape, dtype=getattr(torch, spec.actions.dtype), device="meta")
    mask = torch.ones(1, steps, dtype=torch.bool, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
        loss, _ = trainable.loss(Segments(frames, actions, mask), cast(torch.Generator, None))  # there is none for this device
    assert loss.requires_grad
    weights = sum(tensor.nbytes for tensor in (*parameters, *network.buffers()))
    trained = sum(tensor.nbytes for tensor in parameters)
    activations = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return TrainingBytes(weights, trained, 2 * trained, activations, trainable.batch_size or training.batch_size)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)

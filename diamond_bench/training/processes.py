"""Processes that compute the gradients of one training together: data parallelism.

Process 0 leads. It has the only optimiser, writes the checkpoints, and tells the others which network is updated next. In an update every
process computes the gradients of its share of the batches. Their sum goes to process 0, which takes the step and sends the new weights.
So each weight travels twice per update, as in an all-reduce, and the others hold no optimiser state: they need nothing from a checkpoint.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

REFUSED = 3
"""Exit code of a process whose device cannot take part in the training."""
_END = -1
_BUCKET_BYTES = 2**26
"""Tensors are sent in pieces of about this size."""
_PATIENCE = timedelta(minutes=30)
"""Time that a process waits for another, which may compile its networks first."""


def meeting_point(size: int, port: int = 0, host: str = "127.0.0.1") -> Any:
    """The torch.distributed store where `size` processes meet: a new one on this machine, or that of the process of `host` that opened this
    port."""
    return dist.TCPStore(host, port, size, is_master=port == 0, wait_for_workers=False)


def have_come(store: Any, size: int) -> bool:
    """Whether all processes but the first have come to their meeting point."""
    return bool(store.check([_here(rank) for rank in range(1, size)]))


def _here(rank: int) -> str:
    return f"process {rank}"


class Processes:
    """One process's view of the group. Only one group can be open in a process."""

    def __init__(self, rank: int, size: int, store: Any, device: torch.device) -> None:
        """Waits until all `size` processes have called it. `store`: their `meeting_point`. CUDA uses NCCL, and the CPU uses gloo."""
        store.set(_here(rank), "")
        self.rank, self.size, self._device = rank, size, device
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)

    def order(self, network: int | None = None) -> int | None:
        """In process 0, starts an update of a network, or ends the others if it is None. In the others, returns what process 0 started."""
        number = torch.tensor(_END if network is None else network, device=self._device)
        dist.broadcast(number, 0)
        found = int(number)
        return None if found == _END else found

    def sum_to_first(self, tensors: Iterable[Tensor]) -> None:
        """Adds up the tensors of all processes in process 0, in place. In the others they become meaningless."""
        for bucket in _buckets(tensors):
            flat = _flat(bucket)
            dist.reduce(flat, 0)
            if self.rank == 0:
                _unflatten(flat, bucket)

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites the tensors with those of process 0."""
        for bucket in _buckets(tensors):
            flat = _flat(bucket)
            dist.broadcast(flat, 0)
            if self.rank:
                _unflatten(flat, bucket)

    def close(self) -> None:
        """Leaves the group."""
        dist.destroy_process_group()


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, in lists of one dtype and of about `_BUCKET_BYTES`."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (bucket[0].dtype != tensor.dtype or size + tensor.nbytes > _BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket


def _flat(bucket: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in bucket])


def _unflatten(flat: Tensor, bucket: Sequence[Tensor]) -> None:
    for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
        tensor.detach().copy_(part.view(tensor.shape))

"""Sampling the frames of several groups of games at once: several batches in flight on one GPU."""

from contextlib import nullcontext

import torch
from torch import Tensor

from diamond_bench.config import Sampler
from diamond_bench.diffusion.samplers import Callback, Noise, SupportsDenoise, sample


def group_sizes(num_rows: int, num_groups: int) -> list[int]:
    """Rows of each group, as equal as possible. No group is empty."""
    least, more = divmod(num_rows, num_groups)
    return [size for size in (least + (group < more) for group in range(num_groups)) if size]


class SideBySide:
    """`sample` with its rows in groups, each on its own CUDA stream, so that small kernels of different groups overlap.

    Noise is drawn for all rows on the caller's stream, in the order of `sample`. The results differ from those of `sample` by the rounding
    of another batch size. On the CPU, groups are sampled one after the other.
    """

    def __init__(self, num_groups: int) -> None:
        self._num_groups = num_groups
        self._streams: dict[torch.device, list[torch.cuda.Stream]] = {}

    def __call__(
        self, denoiser: SupportsDenoise, past: Tensor, actions: Tensor, sampler: Sampler, noise: Noise, callback: Callback | None = None
    ) -> Tensor:
        """See `sample`. A call with a callback samples all rows together."""
        sizes = group_sizes(len(past), self._num_groups)
        if callback is not None or len(sizes) == 1:
            return sample(denoiser, past, actions, sampler, noise, callback)
        own, streams = self._streams_of(past.device)
        drawn: list[tuple[Tensor, ...]] = []
        frames = []
        groups = zip(past.split(sizes), actions.split(sizes), streams, strict=False)
        for group, (its_past, its_actions, stream) in enumerate(groups):
            used = 0

            def its_noise(group: int = group, stream: torch.cuda.Stream | None = stream) -> Tensor:
                nonlocal used
                if used == len(drawn):  # only the first group draws
                    with _on(own):
                        drawn.append(noise().split(sizes))
                    _wait(stream, own)
                used += 1
                return drawn[used - 1][group]

            _wait(stream, own)
            with _on(stream):
                frames.append(sample(denoiser, its_past, its_actions, sampler, its_noise))
        for stream in streams[: len(sizes)]:
            _wait(own, stream)
        return torch.cat(frames)

    def _streams_of(self, device: torch.device) -> tuple[torch.cuda.Stream | None, list[torch.cuda.Stream] | list[None]]:
        """The caller's stream and one per group, the same at every call. A group's memory is reused on its own stream, after a wait for the
        caller's stream, which has waited for all groups. So nothing is overwritten while another stream reads it, provided that callers on
        different streams wait for each other (as `Graphed` does)."""
        if device.type != "cuda":
            return None, [None] * self._num_groups
        if device not in self._streams:
            self._streams[device] = [torch.cuda.Stream(device) for _ in range(self._num_groups)]
        return torch.cuda.current_stream(device), self._streams[device]


def _on(stream: torch.cuda.Stream | None) -> torch.cuda.StreamContext | nullcontext[None]:
    return nullcontext() if stream is None else torch.cuda.stream(stream)


def _wait(stream: torch.cuda.Stream | None, other: torch.cuda.Stream | None) -> None:
    if stream is not None and other is not None:
        stream.wait_stream(other)

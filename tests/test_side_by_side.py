"""Frames sampled in groups at once: the same noise in the same order, and streams that wait for each other where they must."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from small_denoisers import ACTIONS, LIGHT, L, denoiser_of
from torch import Tensor

from diamond_bench.config import AncestralSampler, MultistepSampler, OdeSampler, Sampler
from diamond_bench.diffusion import side_by_side
from diamond_bench.diffusion.samplers import SupportsDenoise, sample
from diamond_bench.diffusion.side_by_side import SideBySide, group_sizes

ROWS = 5
SAMPLERS: tuple[Sampler, ...] = (
    OdeSampler(num_steps=3),
    OdeSampler(num_steps=2, s_churn=1.0),
    AncestralSampler(num_steps=3),
    MultistepSampler(num_steps=3),
)


class ByRow(SupportsDenoise):
    """A denoiser of which each row is a function of its own past, action and level, exactly, whatever the batch."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def denoise(self, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        self.batches.append(len(x))
        return (x / (1 + sigma[:, None, None, None]) + past[:, -1] * 0.5 + actions[:, -1, None, None, None] * 0.01).clamp(-1, 1)


def given() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(ROWS, 2, 3, 8, 8, generator=generator) * 2 - 1, torch.randint(4, (ROWS, 2), generator=generator)


def test_group_sizes() -> None:
    assert group_sizes(32, 2) == [16, 16]
    assert group_sizes(5, 3) == [2, 2, 1]
    assert group_sizes(2, 4) == [1, 1]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["euler", "churn", "ancestral", "multistep"])
@pytest.mark.parametrize("groups", [2, 3, 8])
def test_the_frames_and_the_noise_are_those_of_sampling_all_rows_at_once(sampler: Sampler, groups: int) -> None:
    past, actions = given()
    one, other = (torch.Generator().manual_seed(3) for _ in range(2))
    shape = (ROWS, 3, 8, 8)
    wanted = sample(ByRow(), past, actions, sampler, lambda: torch.randn(shape, generator=one))
    grouped = ByRow()
    found = SideBySide(groups)(grouped, past, actions, sampler, lambda: torch.randn(shape, generator=other))
    assert torch.equal(wanted, found)
    assert torch.equal(one.get_state(), other.get_state())
    assert max(grouped.batches) == group_sizes(ROWS, groups)[0]


def test_a_real_network_differs_by_rounding() -> None:
    denoiser, generator = denoiser_of(LIGHT), torch.Generator().manual_seed(2)
    past, actions = torch.rand(ROWS, L, 3, 8, 8, generator=generator) * 2 - 1, torch.randint(ACTIONS, (ROWS, L), generator=generator)
    noise = torch.randn(ROWS, 3, 8, 8, generator=generator)
    with torch.inference_mode():
        one, other = (way(denoiser, past, actions, SAMPLERS[0], lambda: noise) for way in (sample, SideBySide(2)))
    assert one.std() > 0.1
    assert (one - other).abs().mean() < 1e-4


class Streams:
    """Stands in for CUDA's streams: notes what happens on which, and who waits for whom."""

    def __init__(self) -> None:
        self.events: list[tuple[str, ...]] = []
        self.now = "own"

    def stream(self, name: str) -> Any:
        streams = self

        class Stream:
            def wait_stream(self, other: Any) -> None:
                streams.events.append((name, "waits for", other.name))

        built = Stream()
        built.name = name  # type: ignore[attr-defined]
        return built

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        before, self.now = self.now, stream.name
        yield
        self.now = before


def test_groups_wait_for_the_caller_and_for_noise_and_the_caller_for_all_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third stream has no rows: a capture that waited for it would fail, since nothing of the capture is on it."""
    streams = Streams()
    sides = [streams.stream(name) for name in ("first", "second", "third")]
    monkeypatch.setattr(SideBySide, "_streams_of", lambda self, device: (streams.stream("own"), sides))
    monkeypatch.setattr(side_by_side.torch.cuda, "stream", streams.on)
    past, actions = (tensor[:2] for tensor in given())

    class Noted(ByRow):
        def denoise(self, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
            streams.events.append((streams.now, "denoises"))
            return super().denoise(x, sigma, past, actions)

    def noise() -> Tensor:
        streams.events.append((streams.now, "draws"))
        return torch.zeros(2, 3, 8, 8)

    SideBySide(3)(Noted(), past, actions, OdeSampler(num_steps=1, s_churn=1.0), noise)
    draw = [("own", "draws"), ("first", "waits for", "own")]
    assert streams.events == [
        *[("first", "waits for", "own"), *draw, *draw, ("first", "denoises")],
        *[("second", "waits for", "own"), ("second", "denoises")],
        *[("own", "waits for", "first"), ("own", "waits for", "second")],
    ]
    assert streams.now == "own"


def test_a_device_s_streams_are_created_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory of a group is used again on the stream that it was used on."""
    monkeypatch.setattr(side_by_side.torch.cuda, "Stream", lambda device: object())
    monkeypatch.setattr(side_by_side.torch.cuda, "current_stream", lambda device: None)
    way, device = SideBySide(2), torch.device("cuda", 0)
    (_, first), (_, second) = way._streams_of(device), way._streams_of(device)
    assert len({id(stream) for stream in (*first, *second)}) == 2

"""A causal diffusion transformer as a world model (diffusion forcing, Chen et al. 2024), with a memory of past frames' keys and values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from diamond_bench.config import Sampler, TrainingConfig, chosen
from diamond_bench.data.segments import Segments, to_float
from diamond_bench.data.sources import SegmentSource
from diamond_bench.data.static import EpisodeSet
from diamond_bench.diffusion.objectives import Objective
from diamond_bench.diffusion.samplers import Sampling, sample
from diamond_bench.models.compilation import Compilable
from diamond_bench.models.frame_transformer import FrameTransformer, led_to
from diamond_bench.models.precision import Precision
from diamond_bench.spaces import WorldSpec
from diamond_bench.worlds.contract import Draw, Seen, State, Step, Trainable
from diamond_bench.worlds.files import save_world
from diamond_bench.worlds.padding import first_frames, moved_to_front
from diamond_bench.worlds.transformer import FAMILY, Transformer, check_fits, check_frames


@dataclass(frozen=True)
class _Remembering:
    """A denoiser of the next frame, given a memory (`SupportsDenoise`). Past frames come from the memory, not from the arguments."""

    network: FrameTransformer
    objective: Objective
    memory: Tensor
    position: Tensor
    guidance: float

    def denoise(self, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """The clean frame, (b, 3, h, w). actions: the one that leads to the frame, (b, 1, ...)."""
        shown = self._denoise(x, sigma, past, actions, self.position)
        if self.guidance == 1:
            return shown
        alone = self._denoise(x, sigma, past, actions, torch.zeros_like(self.position))
        return alone + self.guidance * (shown - alone)

    def centre(self, past: Tensor) -> Tensor | None:
        """None: first noise is added to a frame of zeros."""
        return None

    def _denoise(self, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor, position: Tensor) -> Tensor:
        def run(x: Tensor, c_noise: Tensor, past: Tensor, actions: Tensor) -> Tensor:
            return self.network.next_frame(x, c_noise, actions[:, 0], self.memory, position)[0]

        return self.objective.denoise(run, x, sigma, past, actions)


@dataclass(frozen=True)
class TransformerWorld:
    """A `TrainedWorld`. Its state is the memory of the network, and the number of frames that each row has seen, (b,)."""

    settings: Transformer
    spec: WorldSpec
    network: FrameTransformer
    objective: Objective
    sampler: Sampler | None = None
    """None before `bound`."""
    sampling: Sampling = sample

    pure = True
    compilable: ClassVar[Sequence[Compilable]] = ()
    measured: ClassVar[Mapping[str, float]] = {}

    @property
    def context(self) -> int:
        """See `WorldModel.context`."""
        return FAMILY.context(self.settings)

    @property
    def device(self) -> torch.device:
        """See `WorldModel.device`."""
        return self.network.places.device

    @property
    def calls_per_frame(self) -> int:
        """See `WorldModel.calls_per_frame`: those of the sampler, and one that writes the frame into the memory."""
        return FAMILY.cost(self.settings, self.spec, self._sampler).calls_per_frame

    @property
    def flops_per_frame(self) -> float:
        """See `WorldModel.flops_per_frame`."""
        return FAMILY.cost(self.settings, self.spec, self._sampler).flops_per_frame

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """See `WorldModel.networks`."""
        return {"network": self.network}

    @property
    def description(self) -> object:
        """See `TrainedWorld.description`."""
        return self.settings, self.spec

    @property
    def _sampler(self) -> Sampler:
        if self.sampler is None:
            raise ValueError("no sampler is bound to this world model; bind one with bound(sampler)")
        return self.sampler

    def bound(self, sampler: Sampler) -> "TransformerWorld":
        """See `TrainedWorld.bound`. Raises UserError for a sampler that does not fit its training."""
        check_fits(self.settings, sampler)
        return replace(self, sampler=sampler)

    def in_streams(self, count: int) -> "TransformerWorld":
        """The same model: its rows are always sampled together."""
        return self

    def watched(self, seen: Seen) -> "TransformerWorld":
        """See `Watchable.watched`."""
        return replace(self, sampling=partial(sample, callback=seen))

    @torch.no_grad()
    def start(self, frames: Tensor, actions: Tensor, mask: Tensor, draw: Draw, origin: Tensor | None = None) -> State:
        """See `WorldModel.start`. Only the last frames are used, as many as the settings say."""
        if frames.shape[1] < self.context:
            raise ValueError(f"expected at least {self.context} frames to start from, got {frames.shape[1]}")
        frames, actions, mask = (given[:, -self.context :] for given in (frames, actions, mask))
        first = first_frames(mask)
        frames, acted = moved_to_front(frames, first), led_to(moved_to_front(actions, first))
        state: State = self.network.memory(len(frames), frames), torch.zeros_like(first)
        for t in range(self.context):
            extended = self._remembered(state, frames[:, t], acted[:, t], draw)
            real = t < self.context - first
            state = tuple(torch.where(real.view(-1, *[1] * (new.dim() - 1)), new, old) for new, old in zip(extended, state, strict=True))
        return state

    @torch.no_grad()
    def step(self, state: State, action: Tensor, draw: Draw) -> tuple[State, Step]:
        """See `WorldModel.step`."""
        memory, position = state
        denoiser = _Remembering(self.network, self.objective, memory, position, self.settings.history_guidance)
        like = memory.new_zeros((len(memory), 1, 3, *self.spec.frames.sides))
        frame = self.sampling(denoiser, like, action[:, None], self._sampler, lambda: draw(like[:, 0]))
        return self._remembered(state, frame, action, draw), Step(frame)

    def _remembered(self, state: State, frame: Tensor, action: Tensor, draw: Draw) -> State:
        """The state after a frame, which is written at the level of the context noise."""
        memory, position = state
        sigma = torch.full((len(frame),), self.settings.context_noise, device=frame.device)
        kept: list[Tensor] = []

        def run(x: Tensor, c_noise: Tensor, past: Tensor, actions: Tensor) -> Tensor:
            out, own = self.network.next_frame(x, c_noise, actions[:, 0], memory, position)
            kept.append(own)
            return out

        noisy = frame + self.settings.context_noise * draw(frame)
        self.objective.denoise(run, noisy, sigma, frame[:, None], action[:, None])
        return self.network.remembered(memory, kept[0], position), position + 1

    def trainables(self, training: TrainingConfig) -> Sequence[Trainable]:
        """See `TrainedWorld.trainables`: every frame of a segment is denoised, given the noisy frames before it."""

        def loss(segments: Segments, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
            first = first_frames(segments.mask)
            frames, actions, mask = (moved_to_front(given, first) for given in (to_float(segments), segments.actions, segments.mask))
            b, t = mask.shape
            acted, clean = led_to(actions), frames.flatten(0, 1)
            draws = self.objective.draw(clean, generator)
            counts = mask
            if self.settings.noise == "last_frame":
                last = torch.arange(t, device=mask.device) == (mask.sum(1) - 1)[:, None]
                level = torch.where(last, draws.level.view(b, t), self.settings.context_noise)
                draws, counts = replace(draws, level=level.flatten()), last

            def run(x: Tensor, c_noise: Tensor, past: Tensor, actions: Tensor) -> Tensor:
                out: Tensor = self.network(x.unflatten(0, (b, t)), c_noise.view(b, t), acted)
                return out.flatten(0, 1)

            step = self.objective.step(run, clean, clean[:, None], acted.flatten(0, 1)[:, None], counts.flatten(), draws)
            return step.loss, {"loss": step.loss.detach()}

        return (Trainable("network", self.network, self.settings.network.num_frames, loss),)

    def measure(self, episodes: EpisodeSet | SegmentSource) -> None:
        """See `TrainedWorld.measure`: there is nothing to measure."""

    @torch.no_grad()
    def call(self, state: State) -> None:
        """See `TrainedWorld.call`: the network's pass over a frame."""
        memory, position = state
        frame = memory.new_zeros((len(memory), 3, *self.spec.frames.sides))
        action = torch.zeros((len(memory), *self.spec.actions.shape), dtype=getattr(torch, self.spec.actions.dtype), device=memory.device)
        self.network.next_frame(frame, frame.new_zeros(len(frame)), action, memory, position)

    def save(self, folder: Path) -> None:
        """See `TrainedWorld.save`."""
        save_world(folder, self.settings, self.spec, self.networks)


def build_world(
    settings: Transformer, spec: WorldSpec, precision: Precision = "fp32", device: torch.device | str = "cpu"
) -> TransformerWorld:
    """A world model with fresh weights. They are drawn from torch's global CPU generator on every device. The model
    predicts no rewards and no ends.

    Raises UserError if the frames cannot be cut into patches.
    """
    check_frames(settings, spec.frames)
    network = FrameTransformer(settings.shape(spec)).to(device)
    objective = chosen(settings.objective)(settings.objective)
    if isinstance(objective, nn.Module):
        objective.to(device)
    return TransformerWorld(settings, WorldSpec(spec.frames, spec.actions, rewards=False, ends=False), network, objective)

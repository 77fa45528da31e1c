"""A cascade: a world model at low resolution imagines the next frame, and an upsampler adds the details."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diamond_bench.config import CascadeSampler, Sampler, TrainingConfig, chosen
from diamond_bench.data.rms import change_rms, frame_rms
from diamond_bench.data.segments import Segments, to_float
from diamond_bench.data.sources import SegmentSource
from diamond_bench.data.static import EpisodeSet
from diamond_bench.diffusion.denoiser import Denoiser
from diamond_bench.diffusion.objectives import Factored
from diamond_bench.diffusion.quantization import from_bytes, quantize
from diamond_bench.diffusion.samplers import Sampling, sample
from diamond_bench.diffusion.schedules import nfe
from diamond_bench.models.compilation import Compilable
from diamond_bench.models.denoiser_network import DenoiserNetwork
from diamond_bench.models.precision import Precision
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.worlds.cascade import FAMILY, Cascade, check_frames, check_two_stages
from diamond_bench.worlds.contract import Draw, Seen, State, Step, Trainable, TrainedWorld
from diamond_bench.worlds.diamond.world import Description, DiamondWorld, build_diamond
from diamond_bench.worlds.files import load_world, save_world


@dataclass(frozen=True)
class CascadeWorld:
    """A `TrainedWorld`. Its state is that of the world model at low resolution, and the last frames at full resolution, (b, L, 3, h, w)."""

    settings: Cascade
    spec: WorldSpec
    inner: DiamondWorld
    """The world model at low resolution."""
    upsampler: Denoiser
    """Its past frames are followed by the enlarged new frame."""
    sampler: CascadeSampler | None = None
    """None before `bound`."""
    sampling: Sampling = sample
    """Samples the upsampler's frames."""

    pure = True
    compilable: ClassVar[Sequence[Compilable]] = ()

    @property
    def context(self) -> int:
        """See `WorldModel.context`."""
        return FAMILY.context(self.settings)

    @property
    def device(self) -> torch.device:
        """See `WorldModel.device`."""
        return self.inner.device

    @property
    def calls_per_frame(self) -> int:
        """See `WorldModel.calls_per_frame`: of both stages together."""
        return nfe(self._sampler.frame) + nfe(self._sampler.upsampling)

    @property
    def flops_per_frame(self) -> float:
        """See `WorldModel.flops_per_frame`."""
        return FAMILY.cost(self.settings, self.spec, self._sampler).flops_per_frame

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """See `WorldModel.networks`."""
        return {"denoiser": self.inner.denoiser.network, "upsampler": self.upsampler.network}

    @property
    def description(self) -> object:
        """See `TrainedWorld.description`."""
        return self.settings, self.spec

    @property
    def _sampler(self) -> CascadeSampler:
        if self.sampler is None:
            raise ValueError("no sampler is bound to this world model; bind one with bound(sampler)")
        return self.sampler

    def bound(self, sampler: Sampler) -> "CascadeWorld":
        """See `TrainedWorld.bound`. Raises UserError for a sampler of one stage, or one that does not fit the training of a stage."""
        both = check_two_stages(self.settings, sampler)
        return replace(self, sampler=both, inner=self.inner.bound(both.frame))

    def in_streams(self, count: int) -> "CascadeWorld":
        """The same model: its rows are always sampled together."""
        return self

    def watched(self, seen: Seen) -> "CascadeWorld":
        """See `Watchable.watched`: the calls of the upsampler."""
        return replace(self, sampling=partial(sample, callback=seen))

    def start(self, frames: Tensor, actions: Tensor, mask: Tensor, draw: Draw, origin: Tensor | None = None) -> State:
        """See `WorldModel.start`."""
        return self.start_from(frames, self.shrunk(frames, mask), actions, mask, draw, origin)

    def start_from(self, frames: Tensor, low: Tensor, actions: Tensor, mask: Tensor, draw: Draw, origin: Tensor | None = None) -> State:
        """See `TwoStages.start_from`."""
        return *self.inner.start(low, actions, mask, draw, origin), frames[:, -self.upsampler.num_frames :]

    def step(self, state: State, action: Tensor, draw: Draw) -> tuple[State, Step]:
        """See `WorldModel.step`."""
        *below, past = state
        inner, low = self.inner.step(tuple(below), action, draw)
        with torch.inference_mode():
            shown = torch.cat((past, self.enlarged(low.frame[:, None])), dim=1)
            frame = self.sampling(self.upsampler, shown, action[:, None], self._sampler.upsampling, lambda: draw(past[:, -1]))
        frame = frame.clone()  # an ordinary tensor again, so that it may enter a network in training
        return (*inner, torch.cat((past[:, 1:], frame[:, None]), dim=1)), Step(frame)

    @property
    def low_frames(self) -> FrameSpec:
        """See `TwoStages.low_frames`."""
        return self.settings.low_resolution(self.spec.frames)

    def low_frame(self, state: State) -> Tensor:
        """See `TwoStages.low_frame`. After `start` it is the last real frame at low resolution."""
        return state[0][:, -1]

    def shrunk(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Frames (b, t, 3, h, w) at low resolution, on the 8-bit grid, and exactly 0 where padded: bicubic, with antialiasing.

        The authors let values outside [-1, 1] wrap around in their bytes; here they are clamped.
        """
        sides = self.low_frames.sides
        low: Tensor = F.interpolate(frames.flatten(0, 1), sides, mode="bicubic", align_corners=False, antialias=True)
        return quantize(low, self.settings.low_resolution_rounding).reshape(*frames.shape[:3], *sides) * mask[:, :, None, None, None]

    def enlarged(self, low: Tensor) -> Tensor:
        """Frames (b, t, 3, h, w) at low resolution, enlarged to full resolution: bicubic, not quantised or clamped."""
        large: Tensor = F.interpolate(low.flatten(0, 1), scale_factor=float(self.settings.factor), mode="bicubic", align_corners=False)
        return large.reshape(*low.shape[:3], *self.spec.frames.sides)

    def trainables(self, training: TrainingConfig) -> Sequence[Trainable]:
        """See `TrainedWorld.trainables`: the denoiser at low resolution, and the upsampler, which learns from true frames at low
        resolution."""

        def denoise(segments: Segments, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
            low = self.shrunk(to_float(segments), segments.mask)
            return self.inner.denoiser.training_loss(low, segments.actions, segments.mask, generator)

        def upsample(segments: Segments, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
            frames = to_float(segments)
            guide = self.enlarged(self.shrunk(frames, segments.mask))
            return self.upsampler.training_loss(frames, segments.actions, segments.mask, generator, guide)

        up = self.settings.upsampler
        steps = training.num_autoregressive_steps, up.num_autoregressive_steps
        return (
            Trainable("denoiser", self.inner.denoiser, self.inner.context + 1 + steps[0], denoise),
            Trainable("upsampler", self.upsampler, up.num_frames + 1 + steps[1], upsample, up.batch_size or None),
        )

    def measure(self, episodes: EpisodeSet | SegmentSource) -> None:
        """See `TrainedWorld.measure`: sigma_data of each stage, if its objective leaves it open, of the pictures that the stage predicts.

        The change that the upsampler predicts is the difference between a frame and its enlarged version at low resolution.
        """

        def low(rows: Tensor) -> Tensor:
            return self.shrunk(from_bytes(rows)[None], torch.ones(1, len(rows), device=rows.device))

        def details(rows: Tensor) -> Tensor:
            return _integers(from_bytes(rows) - self.enlarged(low(rows))[0])

        measured = self.measured_objectives
        if "inner" in measured:
            of_stage = change_rms if measured["inner"].config.coordinate == "change" else frame_rms
            measured["inner"].set_sigma_data(of_stage(episodes, lambda rows: _integers(low(rows)[0])))
        if "upsampler" in measured:
            changes = measured["upsampler"].config.coordinate == "change"
            measured["upsampler"].set_sigma_data(frame_rms(episodes, details) if changes else frame_rms(episodes))

    @property
    def measured_objectives(self) -> Mapping[str, Factored]:
        """The objectives that measure their sigma_data, by stage."""
        stages = {"inner": self.inner.denoiser.objective, "upsampler": self.upsampler.objective}
        return {name: o for name, o in stages.items() if isinstance(o, Factored) and o.config.sigma_data == "measured"}

    @property
    def measured(self) -> Mapping[str, float]:
        """See `TrainedWorld.measured`: sigma_data of the stages that measure it."""
        return {f"sigma_data_{name}": float(objective.sigma_data) for name, objective in self.measured_objectives.items()}

    def call(self, state: State) -> None:
        """See `TrainedWorld.call`: one at low resolution."""
        self.inner.call(state[:-1])

    def save(self, folder: Path) -> None:
        """See `TrainedWorld.save`."""
        save_world(folder, self.settings, self.spec, _parts(self))


def load_cascade(
    folder: Path, frames: FrameSpec, precision: Precision, device: torch.device | str, actions: ActionSpec | None
) -> TrainedWorld:
    """See `load_world`. A measured sigma_data is loaded with the weights."""
    return load_world(folder, frames, precision, device, actions, _parts)


def _integers(frames: Tensor) -> Tensor:
    """Frames on a scale where 255 is 1, as integers, whose sums are exact (`data.rms`)."""
    return (255 * frames).round().int()


def _parts(world: CascadeWorld) -> Mapping[str, nn.Module]:
    """The modules whose tensors are saved."""
    return {**world.networks, **{f"{name}_objective": objective for name, objective in world.measured_objectives.items()}}


def build_world(settings: Cascade, spec: WorldSpec, precision: Precision = "fp32", device: torch.device | str = "cpu") -> CascadeWorld:
    """A cascade with fresh weights, drawn from torch's global CPU generator whatever the device. It predicts no rewards and no ends.

    Raises UserError if the parts do not fit together.
    """
    check_frames(settings, spec.frames)
    below, up = settings.inner, settings.upsampler
    described = Description(below.objective, below.conditioning, below.network, spec.actions.width)
    inner = build_diamond(described, settings.low_resolution(spec.frames), precision, device, spec.actions)
    network = DenoiserNetwork(up.network, up.conditioning, spec.actions)
    upsampler = Denoiser(network, chosen(up.objective)(up.objective), up.num_frames, precision, past_noise=up.past_noise).to(device)
    if torch.device(device).type == "cpu":
        upsampler.to(memory_format=torch.channels_last)
    return CascadeWorld(settings, WorldSpec(spec.frames, spec.actions, rewards=False, ends=False), inner, upsampler)

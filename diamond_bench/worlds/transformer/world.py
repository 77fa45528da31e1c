"""A causal diffusion transformer as a world model (diffusion forcing, Chen et al. 2024), with a memory of past frames' keys and values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from diamond_bench.config import OdeSampler, OpenLoopSampler, Sampler, TrainingConfig, chosen
from diamond_bench.data.segments import Segments, to_float
from diamond_bench.diffusion.objectives import Objective
from diamond_bench.diffusion.open_loop import sample_together
from diamond_bench.diffusion.samplers import Sampling, sample
from diamond_bench.diffusion.schedules import check_closed_loop
from diamond_bench.models.frame_transformer import FrameTransformer, led_to
from diamond_bench.models.precision import Precision
from diamond_bench.spaces import WorldSpec
from diamond_bench.worlds.contract import Draw, Seen, State, Step, Trainable
from diamond_bench.worlds.padding import first_frames, moved_to_front, seen_last
from diamond_bench.worlds.trained import BuiltWorld
from diamond_bench.worlds.transformer import Transformer, check_fits, check_frames, context_noise


@dataclass(frozen=True)
class _Remembering:
    """A denoiser of the next frame, given a memory (`SupportsDenoise`). Past frames come from the memory, not from the arguments. Each call
    writes into the free place of the memory."""

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

    def _denoise(self, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor, seen: Tensor) -> Tensor:
        def run(x: Tensor, c_noise: Tensor, past: Tensor, actions: Tensor) -> Tensor:
            return self.network.next_frame(x, c_noise, actions[:, 0], self.memory, self.position, seen)

        return self.objective.denoise(run, x, sigma, past, actions)


@dataclass(frozen=True)
class TransformerWorld(BuiltWorld):
    """A `TrainedWorld`. Its state is the memory of the network, and the number of frames that each row has seen, (b,). The last call of a
    step writes the frame into the memory."""

    settings: Transformer
    spec: WorldSpec
    network: FrameTransformer
    objective: Objective
    sampler: Sampler | None = None
    """None before `bound`."""
    sampling: Sampling = sample

    pure = True

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """See `WorldModel.networks`."""
        return {"network": self.network}

    @property
    def _sampler(self) -> Sampler:
        if self.sampler is None:
            raise ValueError("no sampler is bound to this world model; bind one with bound(sampler)")
        return self.sampler

    def bound(self, sampler: Sampler) -> "TransformerWorld":
        """See `TrainedWorld.bound`. With an `OpenLoopSampler`, the model is an `OpenLoop`. Raises UserError for a sampler that does not fit
        its training."""
        check_fits(self.settings, sampler)
        bound = OpenLoopTransformer if isinstance(sampler, OpenLoopSampler) else TransformerWorld
        return bound(self.settings, self.spec, self.network, self.objective, sampler, self.sampling)

    @property
    def _context_noise(self) -> float:
        return self.settings.context_noise if self.sampler is None else context_noise(self.settings, self.sampler)

    @property
    def _of_frame(self) -> Sampler:
        """The sampler without the noise of past frames, which lies in the memory."""
        return replace(self._sampler, s_cond=0.0) if isinstance(self._sampler, OdeSampler) else self._sampler

    def watched(self, seen: Seen) -> "TransformerWorld":
        """See `Watchable.watched`."""
        return replace(self, sampling=partial(sample, callback=seen))

    @torch.no_grad()
    def start(self, frames: Tensor, actions: Tensor, mask: Tensor, draw: Draw, origin: Tensor | None = None) -> State:
        """See `WorldModel.start`. Only the last frames are used, as many as the settings say."""
        frames, actions, first = seen_last(self.context, frames, actions, mask)
        acted = led_to(actions)
        memory, position = self.network.memory(len(frames), frames), torch.zeros_like(first)
        for t in range(self.context):
            self._remember(memory, position, frames[:, t], acted[:, t], draw)
            position = position + (t < self.context - first)  # the next frame replaces padding, which nothing attends to
        return memory, position

    def skip_start(self, frames: Tensor, draw: Draw) -> None:
        """See `CostlyStart.skip_start`."""
        for _ in range(self.context):
            draw(frames[:, 0])

    @torch.no_grad()
    def step(self, state: State, action: Tensor, draw: Draw) -> tuple[State, Step]:
        """See `WorldModel.step`."""
        memory, position = state[0].clone(), state[1]
        denoiser = _Remembering(self.network, self.objective, memory, position, self.settings.history_guidance)
        like = memory.new_zeros((len(memory), 1, 3, *self.spec.frames.sides))
        frame = self.sampling(denoiser, like, action[:, None], self._of_frame, lambda: draw(like[:, 0]))
        self._remember(memory, position, frame, action, draw)
        return (memory, position + 1), Step(frame)

    def _remember(self, memory: Tensor, position: Tensor, frame: Tensor, action: Tensor, draw: Draw) -> None:
        """Writes a frame into the memory, in place, at the level of the context noise."""
        sigma = torch.full((len(frame),), self._context_noise, device=frame.device)

        def run(x: Tensor, c_noise: Tensor, past: Tensor, actions: Tensor) -> Tensor:
            return self.network.next_frame(x, c_noise, actions[:, 0], memory, position)

        noisy = frame + self._context_noise * draw(frame)
        self.objective.denoise(run, noisy, sigma, frame[:, None], action[:, None])

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

    @torch.no_grad()
    def call(self, state: State) -> None:
        """See `TrainedWorld.call`: the network's pass over a frame."""
        memory, position = state
        frame = memory.new_zeros((len(memory), 3, *self.spec.frames.sides))
        action = torch.zeros((len(memory), *self.spec.actions.shape), dtype=getattr(torch, self.spec.actions.dtype), device=memory.device)
        self.network.next_frame(frame, frame.new_zeros(len(frame)), action, memory.clone(), position)


@dataclass(frozen=True)
class OpenLoopTransformer(TransformerWorld):
    """A `TransformerWorld` whose frames are denoised together (`OpenLoop`). Attention is causal, so a frame depends on no later action. But
    later frames are denoised before it is finished, and they need their actions then."""

    pure = False

    def step(self, state: State, action: Tensor, draw: Draw) -> tuple[State, Step]:
        """Raises UserError: a step has one action only."""
        check_closed_loop(self._sampler, "the caller of step")
        return super().step(state, action, draw)

    @torch.no_grad()
    def together(self, state: State, actions: Tensor, draw: Draw) -> Iterator[Tensor]:
        """See `OpenLoop.together`. A finished frame is written into the memory as in `step`, if others are unfinished then. The noise of a
        frame is that of a step: first noise and context noise, drawn in the order of the frames."""
        sampler = self._sampler
        assert isinstance(sampler, OpenLoopSampler)
        memory, position = state[0].clone(), state[1]
        like = memory.new_zeros((len(memory), 3, *self.spec.frames.sides))
        context: list[Tensor] = []

        def first_noise() -> Tensor:
            start = draw(like)
            context.append(draw(like))
            return start

        def denoise(x: Tensor, sigma: Tensor, first: int) -> Tensor:
            b, k = x.shape[:2]
            acted = actions[:, first : first + k]

            def estimate(seen: bool) -> Tensor:
                def run(x: Tensor, c_noise: Tensor, past: Tensor, actions: Tensor) -> Tensor:
                    given = x.unflatten(0, (b, k)), c_noise.view(b, k), acted
                    return self.network.frames_after(*given, memory, position, seen).flatten(0, 1)

                flat, each = x.flatten(0, 1), sigma.expand(b, k).flatten()
                clean = self.objective.denoise(run, flat, each, flat[:, None], acted.flatten(0, 1)[:, None])
                return clean.view_as(x)

            shown, weight = estimate(True), self.settings.history_guidance
            if weight == 1:
                return shown
            alone = estimate(False)
            return alone + weight * (shown - alone)

        for t, frame in enumerate(sample_together(denoise, sampler, actions.shape[1], first_noise)):
            yield frame
            if sampler.steps_behind:
                self._remember(memory, position, frame, actions[:, t], lambda like, t=t: context[t])  # type: ignore[misc]
                position = position + 1


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

"""DIAMOND's world model: a denoiser, how to imagine with it, and how to save and load it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from diamond_bench.config import (
    CascadeSampler,
    ConditioningConfig,
    NetworkConfig,
    Objective,
    OpenLoopSampler,
    Sampler,
    SamplerSettings,
    TrainingConfig,
    chosen,
)
from diamond_bench.data.rms import change_rms, frame_rms
from diamond_bench.data.segments import Segments, to_float
from diamond_bench.data.sources import SegmentSource
from diamond_bench.data.static import EpisodeSet
from diamond_bench.diffusion.denoiser import Denoiser
from diamond_bench.diffusion.objectives import Factored
from diamond_bench.diffusion.samplers import Sampling, SupportsDenoise, sample
from diamond_bench.diffusion.schedules import check_sampler, sigmas
from diamond_bench.diffusion.side_by_side import SideBySide
from diamond_bench.errors import UserError
from diamond_bench.models.cost import level_pixels
from diamond_bench.models.denoiser_network import DenoiserNetwork
from diamond_bench.models.outcome_heads import OutcomeHeads
from diamond_bench.models.precision import Precision
from diamond_bench.models.reward_end_model import RewardEndModel
from diamond_bench.models.shape import check_guidance, check_past_noise, check_separate, check_streams
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.typed import build, to_plain
from diamond_bench.worlds.contract import Draw, Seen, State, Step, Trainable
from diamond_bench.worlds.diamond import FAMILY, Settings
from diamond_bench.worlds.diamond.joint import Keeping, burnt_in, joint_loss, separate_loss
from diamond_bench.worlds.files import load_weights, read_description, write_files
from diamond_bench.worlds.stacked import StackedWorld, advanced, with_action


@dataclass(frozen=True)
class Description:
    """All that is needed to build a world model again, except its weights."""

    objective: Objective
    conditioning: ConditioningConfig
    network: NetworkConfig
    num_actions: int
    """Number of Discrete actions. For other action spaces, the width of the one-hot encodings."""
    rewards: bool = False
    """Whether its heads (`NetworkConfig.heads`) predict rewards."""
    ends: bool = False
    """Whether its heads predict ends."""
    sigma_data: float | None = field(default=None, compare=False)
    """The measured value, for people. The value in use is stored with the weights. None if objective.sigma_data is a number."""


@dataclass(frozen=True)
class DiamondWorld(StackedWorld):
    """Predicts a game frame by frame from the previous frames and actions (paper section 3). A `TrainedWorld`."""

    denoiser: Denoiser
    description: Description
    frames: FrameSpec
    actions: ActionSpec | None = None
    """None is Discrete(description.num_actions)."""
    sampler: Sampler | None = None
    """None before `bound`. Imagination needs a sampler."""
    sampling: Sampling = sample
    """Samples a batch: `sample`, or in groups (`SideBySide`)."""
    separate: RewardEndModel | None = None
    """The network that predicts rewards and ends from frames, with network.heads.reads=frames."""

    pure = True

    @property
    def spec(self) -> WorldSpec:
        """See `WorldModel.spec`. Without heads, another model predicts rewards and ends."""
        actions = self.actions or ActionSpec.discrete(self.description.num_actions)
        return WorldSpec(self.frames, actions, self.description.rewards, self.description.ends)

    @property
    def context(self) -> int:
        """L, the number of past frames (and actions) that a prediction uses."""
        return self.description.conditioning.num_frames

    @property
    def device(self) -> torch.device:
        """See `WorldModel.device`."""
        return next(self.denoiser.parameters()).device

    @property
    def calls_per_frame(self) -> int:
        """See `WorldModel.calls_per_frame`."""
        return FAMILY.cost(self.description, self.spec, self._sampler).calls_per_frame

    @property
    def flops_per_frame(self) -> float:
        """See `WorldModel.flops_per_frame`."""
        return FAMILY.cost(self.description, self.spec, self._sampler).flops_per_frame

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """See `WorldModel.networks`."""
        parts = {"denoiser": self.denoiser.network, "heads": self._heads, "reward_end": self.separate}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def compilable(self) -> Sequence[Denoiser]:
        """See `TrainedWorld.compilable`."""
        return (self.denoiser,)

    @property
    def _heads(self) -> OutcomeHeads | None:
        return self.denoiser.heads if self.description.network.heads.on_trunk else None

    @property
    def _sampler(self) -> Sampler:
        if self.sampler is None:
            raise ValueError("no sampler is bound to this world model; bind one with bound(sampler)")
        return self.sampler

    def bound(self, sampler: Sampler) -> "DiamondWorld":
        """See `TrainedWorld.bound`. Raises UserError if the sampler leaves the levels of the objective's training, or uses guidance with a
        model trained without action dropout."""
        if not isinstance(sampler, SamplerSettings):
            raise UserError(f"sampler={sampler!r}: expected the name of a sampler, or settings from `api.sampler`")
        if isinstance(sampler, CascadeSampler):
            raise UserError(f"sampler={sampler.name}: it has two stages, for models of family=cascade")
        if isinstance(sampler, OpenLoopSampler):
            raise UserError(f"sampler={sampler.name}: it denoises the frames of a horizon together, for models of family=transformer")
        check_sampler(sampler, self.description.objective)
        check_guidance(sampler, self.description.conditioning)
        check_past_noise(sampler, self.description.conditioning)
        return replace(self, sampler=sampler)

    def in_streams(self, count: int) -> "DiamondWorld":
        """See `TrainedWorld.in_streams`. Raises UserError if heads read the calls of sampling."""
        check_streams(self.description.network.heads, count)
        return replace(self, sampling=sample if count == 1 else SideBySide(count))

    def watched(self, seen: Seen) -> "DiamondWorld":
        """See `Watchable.watched`. Guidance makes two calls in place of one."""
        return replace(self, sampling=partial(sample, callback=seen))

    def start(self, frames: Tensor, actions: Tensor, mask: Tensor, draw: Draw, origin: Tensor | None = None) -> State:
        """See `WorldModel.start`. The memory of heads is empty, and that of a separate network comes from all frames, padding included."""
        state, heads = super().start(frames, actions, mask, draw, origin), self._heads
        if self.separate is not None:
            with torch.no_grad():
                return (*state, *burnt_in(self.separate, frames, actions))
        return state if heads is None else (*state, *heads.start(len(frames), frames))

    def step(self, state: State, action: Tensor, draw: Draw) -> tuple[State, Step]:
        """See `WorldModel.step`."""
        heads = self._heads
        frames, actions, *memory = state
        if self.separate is not None:
            following, step = super().step((frames, actions), action, draw)
            with torch.no_grad():
                pair = frames[:, -1:], action[:, None], step.frame[:, None]
                out = self.separate(*pair, (memory[0][None], memory[1][None]))
            remembered = tuple(values[0] for values in out.state)
            return (*following, *remembered), self._step_of(step.frame, out.reward_logits[:, 0], out.end_logits[:, 0])
        if heads is None:
            return super().step(state, action, draw)
        acted, kept = with_action(actions, action), list[Tensor]()
        frame = self._sampled(Keeping(self.denoiser, acted, kept), frames, acted, draw)
        with torch.no_grad():
            if heads.config.reads == "extra":
                sigma = heads.config.sigma
                noisy, level = frame + sigma * draw(frame), torch.full((len(frame),), sigma, device=frame.device)
                self.denoiser.denoise(noisy, level, frames, acted, kept=kept)
            rewards, ends, remembered = heads(kept[-1], tuple(memory))
        return (*advanced(frames, acted, frame), *remembered), self._step_of(frame, rewards, ends)

    def _step_of(self, frame: Tensor, rewards: Tensor, ends: Tensor) -> Step:
        return Step(frame, rewards if self.spec.rewards else None, ends if self.spec.ends else None)

    def predict(self, past: Tensor, actions: Tensor, draw: Draw) -> Tensor:
        """See `StackedWorld.predict`."""
        return self._sampled(self.denoiser.for_one_frame(), past, actions, draw)

    def _sampled(self, denoiser: SupportsDenoise, past: Tensor, actions: Tensor, draw: Draw) -> Tensor:
        if past.shape[1] != self.context or actions.shape[1] != self.context:
            raise ValueError(f"expected {self.context} past frames and actions, got {past.shape[1]} and {actions.shape[1]}")
        with torch.inference_mode():
            frame = self.sampling(denoiser, past, actions, self._sampler, lambda: draw(past[:, -1]))
        return frame.clone()  # an ordinary tensor again, so that it may enter a network in training

    @torch.inference_mode()
    def estimate(self, past: Tensor, actions: Tensor, noisy: Tensor, sigma: float) -> Tensor:
        """See `Estimating.estimate`. Guidance and noise on past frames are left out: they belong to the sampler."""
        return self.denoiser.denoise(noisy, torch.full((len(noisy),), sigma, device=noisy.device), past, actions)

    def trainables(self, training: TrainingConfig) -> Sequence[Trainable]:
        """See `TrainedWorld.trainables`: the separate network of rewards and ends, if there is one, and then the denoiser with its
        heads."""
        heads = self._heads

        def loss(segments: Segments, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
            features: list[Tensor] = []
            given = to_float(segments), segments.actions, segments.mask, generator
            denoising, metrics = self.denoiser.training_loss(*given, features=features)
            return (denoising, metrics) if heads is None else joint_loss(heads, denoising, features, segments)

        length, apart = self.context + 1 + training.num_autoregressive_steps, None
        if heads is not None and not heads.config.gradient:
            apart = heads
        logged = () if heads is None else ("loss_denoising", "loss_reward", "loss_end")
        denoiser = Trainable("denoiser", self.denoiser, length, loss, logged=logged, apart=apart, final_frames=heads is not None)
        model, settings = self.separate, self.description.network.heads.lstm
        if model is None:
            return (denoiser,)

        def of_separate(segments: Segments, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
            return separate_loss(model, segments)

        own = Trainable("reward_end", model, settings.segment_length, of_separate, settings.batch_size, optimizer=settings)
        return own, denoiser  # milestones belong to the last network

    def measure(self, episodes: EpisodeSet | SegmentSource) -> None:
        """See `TrainedWorld.measure`: sigma_data, if the objective leaves it open."""
        objective = self.denoiser.objective
        if isinstance(objective, Factored) and objective.config.sigma_data == "measured":
            objective.set_sigma_data((change_rms if objective.config.coordinate == "change" else frame_rms)(episodes))

    @property
    def measured(self) -> Mapping[str, float]:
        """See `TrainedWorld.measured`."""
        objective = self.denoiser.objective
        found = objective.sigma_data if isinstance(objective, Factored) else None
        return {"sigma_data": found.item()} if isinstance(found, Tensor) else {}

    @torch.inference_mode()
    def call(self, state: State) -> None:
        """See `TrainedWorld.call`: the first denoiser call of a step."""
        past, actions = state[:2]
        level = torch.full((len(past),), float(sigmas(self._sampler)[0]), device=past.device)
        self.denoiser.denoise(past[:, -1], level, past, actions)

    def save(self, folder: Path) -> None:
        """See `TrainedWorld.save`: model.safetensors and model.json. Each file appears whole or not at all."""
        description = replace(self.description, sigma_data=self.measured.get("sigma_data"))
        write_files(folder, self.stored.state_dict(), to_plain(description))

    @property
    def stored(self) -> nn.Module:
        """All that is saved, under its names in the file."""
        parts = nn.Module()
        for name, part in (*self.denoiser.named_children(), ("reward_end", self.separate)):
            if part is not None:
                parts.add_module(name, part)
        return parts


def build_world(settings: Settings, spec: WorldSpec, precision: Precision = "fp32", device: torch.device | str = "cpu") -> DiamondWorld:
    """See `build_diamond`, for the game's frames and actions. Raises UserError if there are heads, but the game has no rewards and no
    ends."""
    heads = settings.network.heads
    if heads.used and not (spec.rewards or spec.ends):
        raise UserError(f"network.heads.reads={heads.reads}: the game has no rewards and no ends; use network.heads.reads=none")
    predicted = (heads.used and spec.rewards, heads.used and spec.ends)
    described = Description(settings.objective, settings.conditioning, settings.network, spec.actions.width, *predicted)
    return build_diamond(described, spec.frames, precision, device, spec.actions)


def build_diamond(
    description: Description,
    frames: FrameSpec,
    precision: Precision = "fp32",
    device: torch.device | str = "cpu",
    actions: ActionSpec | None = None,
) -> DiamondWorld:
    """A world model with fresh weights, drawn from torch's global CPU generator whatever the device.

    `actions`: None is Discrete(description.num_actions). Raises UserError if they, or the network's widths, do not fit together.
    """
    d, c = description, description.conditioning
    if actions is not None and actions.width != d.num_actions:
        raise UserError(f"a world model of {d.num_actions} actions, but the game's are {actions}")
    parts, heads = DenoiserNetwork(d.network, c, actions or d.num_actions), None
    if d.network.heads.on_trunk:
        heads = OutcomeHeads(d.network.heads, d.network.channels[-1], level_pixels(d.network, frames)[-1])
    noise = c.action_dropout, c.frame_noise, c.past_noise
    denoiser = Denoiser(parts, chosen(d.objective)(d.objective), c.num_frames, precision, *noise, heads)
    denoiser.to(device)
    if torch.device(device).type == "cpu":
        denoiser.to(memory_format=torch.channels_last)  # a narrow network then trains in two thirds of the time
    world = DiamondWorld(denoiser, description, frames, actions)
    if d.network.heads.reads != "frames":
        return world
    check_separate(d.network.heads, world.spec)
    separate = RewardEndModel(d.network.heads.lstm, d.num_actions, frames.height, precision=precision)
    return replace(world, separate=separate.to(device))


def load_diamond(
    folder: Path,
    frames: FrameSpec,
    precision: Precision = "fp32",
    device: torch.device | str = "cpu",
    actions: ActionSpec | None = None,
) -> DiamondWorld:
    """Loads the world model saved in `folder`. `actions`: see `build_diamond`. The folder itself states the number of Discrete actions.

    Raises UserError with the name of a file that is missing, damaged or does not fit.
    """
    description = read_description(folder, lambda plain: build(Description, plain))
    columns = actions if actions is not None and actions.trailing else None
    world = build_diamond(description, frames, precision, device, columns)
    load_weights(folder, world.stored)
    return world

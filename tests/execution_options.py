"""Ways to execute the small networks that tests compare with plain fp32: contiguous weights, eager, AdamW not fused."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from tape import record_tape
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diamond_bench.config import ActorCriticConfig, ConditioningConfig, EnvConfig, FactoredObjective, NetworkConfig, RewardEndConfig
from diamond_bench.config import TrainingConfig as Training
from diamond_bench.diffusion.denoiser import Denoiser
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.envs.synthetic import SyntheticEnv
from diamond_bench.models.actor_critic import ActorCritic
from diamond_bench.models.compilation import Compilable
from diamond_bench.models.precision import Precision
from diamond_bench.models.reward_end_model import RewardEndModel
from diamond_bench.spaces import FrameSpec
from diamond_bench.training.learner import Learner
from diamond_bench.worlds.contract import WorldModel
from diamond_bench.worlds.diamond.world import Description, DiamondWorld, build_diamond
from diamond_bench.worlds.recorded import recorded

L, ACTIONS, SIZE, BATCH = 2, 3, 16, 4
ONE_LEVEL = NetworkConfig(depths=(1,), channels=(8,), attention=(False,), cond_channels=8)  # has attention in the middle all the same
TWO_LEVELS = NetworkConfig(depths=(1, 1), channels=(8, 16), attention=(False, True), cond_channels=8)
REWARD_END = RewardEndConfig(depths=(1, 1), channels=(8, 8), attention=(False, False), cond_channels=8, lstm_dim=16)
POLICY = ActorCriticConfig(channels=(8, 8), down=(True, True), lstm_dim=16)
RATES = Training(learning_rate=2.0**-9, warmup_steps=16, adam_epsilon=1e-4)
"""On a device a rate is a float32: these are. Epsilon is so large that it matters."""


@dataclass(frozen=True)
class Option:
    """One way to execute; without any argument, plain fp32."""

    precision: Precision = "fp32"
    channels_last: bool = False
    fused: bool = False
    compile: bool = False
    recorded: bool = False
    streams: int = 1
    device: str = "cpu"


PLAIN = Option()


def _ready(network: Any, option: Option, sizes: set[int]) -> Any:
    """The network executed so; the zeros that some of its layers start with are woken, so that all of it counts."""
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.detach().any():
            nn.init.kaiming_uniform_(parameter, a=5**0.5)
    network.to(option.device, memory_format=torch.channels_last if option.channels_last else torch.contiguous_format)
    assert isinstance(network, Compilable)
    if option.compile:
        network.compile_core(sizes)
    return network


def world_model(option: Option, seed: int = 0, network: NetworkConfig = ONE_LEVEL) -> DiamondWorld:
    """A world model of weights that the seed decides alone."""
    torch.manual_seed(seed)
    description = Description(FactoredObjective(), ConditioningConfig(num_frames=L), network, ACTIONS)
    world = build_diamond(description, FrameSpec.square(SIZE), option.precision)
    _ready(world.denoiser, option, {BATCH})
    return world.in_streams(option.streams)


def executed(option: Option, world: DiamondWorld) -> WorldModel:
    """The same, recorded where the option says so."""
    return recorded(world, record_tape) if option.recorded else world


def denoiser(option: Option, seed: int = 0, network: NetworkConfig = ONE_LEVEL) -> Denoiser:
    """Its denoiser."""
    return world_model(option, seed, network).denoiser


def reward_end_model(option: Option, seed: int = 0) -> RewardEndModel:
    """A reward/end model; it is compiled for BATCH pairs of frames."""
    torch.manual_seed(seed)
    return _ready(RewardEndModel(REWARD_END, ACTIONS, SIZE, precision=option.precision), option, {BATCH})  # type: ignore[no-any-return]


def policy(option: Option, seed: int = 0) -> ActorCritic:
    """An actor-critic."""
    torch.manual_seed(seed)
    return _ready(ActorCritic(POLICY, ACTIONS, SIZE, precision=option.precision), option, {BATCH})  # type: ignore[no-any-return]


@cache
def played() -> tuple[Tensor, Tensor]:
    """400 frames of synthetic/turn in [-1, 1], (t, 3, h, w), and the random actions taken after them."""
    env, rng = SyntheticEnv("synthetic/turn", EnvConfig(frame_size=SIZE)), np.random.default_rng(0)
    frames, actions = [env.reset(seed=0)[0]], rng.integers(ACTIONS, size=400)
    for action in actions[:-1]:
        frames.append(env.step(int(action))[0])
    return from_bytes(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)).contiguous(), torch.from_numpy(actions)


def segments(seed: int, device: str = "cpu", batch: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of L past frames and the one after."""
    frames, actions = played()
    starts = torch.randint(len(frames) - L, (batch, 1), generator=torch.Generator().manual_seed(seed))
    places = starts + torch.arange(L + 1)
    return frames[places].to(device), actions[places].to(device), torch.ones(batch, L + 1, dtype=torch.bool, device=device)


@cache
def train(option: Option, updates: int, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """The losses of a training of the denoiser, and its weights in the end."""
    model = denoiser(option, seed)
    generator = torch.Generator(option.device).manual_seed(seed)
    learner = Learner(model, RATES, option.fused, option.recorded, **({"record": record_tape} if option.recorded else {}))  # type: ignore[arg-type]

    def loss_of(*batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, _ = model.training_loss(*batch, generator)
        return loss, {"loss": loss.detach()}

    losses = [learner.learn(loss_of, segments(1000 * seed + i, option.device), [generator])["loss"] for i in range(updates)]
    return torch.stack(losses).double().cpu(), {name: tensor.cpu() for name, tensor in model.state_dict().items()}


def gradients(network: nn.Module, loss: Tensor) -> Tensor:
    """Of all parameters, one after the other."""
    network.zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None]).cpu()


@dataclass(frozen=True)
class Distance:
    """How far b is from a."""

    relative: float
    """Norm of the difference in units of a's norm."""
    scale: float
    """By what share b is larger than a, along a: what rounding, which has no direction, leaves alone."""
    cosine: float

    @classmethod
    def of(cls, a: Tensor, b: Tensor) -> "Distance":
        a, b = a.detach().cpu().double().flatten(), b.detach().cpu().double().flatten()
        product = float(a @ b)
        return cls(float((b - a).norm() / a.norm()), product / float(a @ a) - 1, product / float(a.norm() * b.norm()))


class Islands:
    """Notes, while it is entered, what is done outside of the networks' cores: calls under autocast, and calls that give bf16."""

    def __init__(self, *networks: Compilable) -> None:
        self.calls = 0
        self.under_autocast: set[str] = set()
        self.low: set[str] = set()
        self.low_inside: set[str] = set()
        self._inside = False
        self._modes = ExitStack()
        for network in networks:
            network.compiled = self._entered(network.core)  # type: ignore[assignment]

    def __enter__(self) -> "Islands":
        self._modes.enter_context(_Asked(self))
        self._modes.enter_context(_Done(self))
        return self

    def __exit__(self, *raised: object) -> None:
        self._modes.close()

    def asked(self, name: str) -> None:
        """Of a call, as it was made."""
        if not self._inside:
            self.calls += 1
            if torch.is_autocast_enabled("cpu"):
                self.under_autocast.add(name)

    def done(self, name: str, result: Any) -> None:
        """Of a call, as it was carried out: autocast has made its casts."""
        if any(isinstance(leaf, Tensor) and leaf.dtype == torch.bfloat16 for leaf in tree_leaves(result)):
            (self.low_inside if self._inside else self.low).add(name)

    def _entered(self, core: nn.Module) -> Any:
        def run(*args: Any, **kwargs: Any) -> Tensor:
            self._inside = True
            try:
                return core(*args, **kwargs)  # type: ignore[no-any-return]
            finally:
                self._inside = False

        return run


class _Asked(TorchFunctionMode):
    def __init__(self, noted: Islands) -> None:
        super().__init__()
        self._noted = noted

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._noted.asked(func.__name__)
        return func(*args, **(kwargs or {}))


class _Done(TorchDispatchMode):
    def __init__(self, noted: Islands) -> None:
        super().__init__()
        self._noted = noted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._noted.done(str(func.overloadpacket), result)
        return result

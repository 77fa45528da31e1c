"""The world model: a denoiser and what is needed to imagine with it, keep it and read it back."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diamond_bench.config import ConditioningConfig, NetworkConfig, Objective, Sampler, chosen
from diamond_bench.diffusion.denoiser import Denoiser, Precision
from diamond_bench.diffusion.samplers import Noise, Sampling, SupportsDenoise, sample
from diamond_bench.diffusion.schedules import check_sampler
from diamond_bench.errors import UserError
from diamond_bench.models.denoiser_network import DenoiserNetwork
from diamond_bench.models.shape import check_guidance
from diamond_bench.reading import read_json
from diamond_bench.typed import build, to_plain

WEIGHTS_FILE = "model.safetensors"
DESCRIPTION_FILE = "model.json"
_MOST_DESCRIPTION = 1_000_000
"""Bytes of model.json; it has about 2,000."""


@dataclass(frozen=True)
class Description:
    """What is needed to build a world model again, its weights apart."""

    objective: Objective
    conditioning: ConditioningConfig
    network: NetworkConfig
    num_actions: int


@dataclass(frozen=True)
class WorldModel:
    """Predicts frame after frame of a game from the frames and actions before (paper section 3)."""

    denoiser: SupportsDenoise
    """A `Denoiser`, or an oracle in its place."""
    description: Description
    sampling: Sampling = sample
    """What samples a frame: `sample`, or the same as a CUDA graph."""

    @property
    def num_frames(self) -> int:
        """L, past frames (and actions) a prediction is made from."""
        return self.description.conditioning.num_frames

    def predict(self, past: Tensor, actions: Tensor, sampler: Sampler, noise: Noise) -> Tensor:
        """The next frame of every row, (b, 3, h, w) float32 on the 8-bit grid of [-1, 1], without gradient.

        Args:
            past: true or imagined frames in [-1, 1], oldest first, (b, L, 3, h, w).
            actions: actions[:, i] taken after frame i of `past`, (b, L) int64.
            sampler: how to sample; refused (UserError) where it leaves the levels the objective was trained on, or guides a model
                that was trained without action dropout.
            noise: fresh N(0, 1) of shape (b, 3, h, w), on past's device (`trajectory_noise`).
        """
        if past.shape[1] != self.num_frames or actions.shape[1] != self.num_frames:
            raise ValueError(f"expected {self.num_frames} past frames and actions, got {past.shape[1]} and {actions.shape[1]}")
        check_sampler(sampler, self.description.objective)
        check_guidance(sampler, self.description.conditioning)
        with torch.inference_mode():
            frame = self.sampling(self.denoiser, past, actions, sampler, noise)
        return frame.clone()  # an ordinary tensor again, which a network that is being trained may be fed

    def imagine(self, past: Tensor, actions: Tensor, sampler: Sampler, noise: Noise) -> Iterator[Tensor]:
        """Imagines T frames one after the other, each (b, 3, h, w) as in `predict`; T = actions.shape[1] - L + 1.

        Frames are numbered through: 0..L-1 are `past`, L is the first imagined one. actions[:, i] is taken after frame i was seen,
        so frame t + 1 is made from frames t-L+1..t and actions[:, t-L+1..t], and the last action leads to the last frame.

        Args:
            past: true frames in [-1, 1], oldest first, (b, L, 3, h, w).
            actions: (b, L - 1 + T) int64.
            sampler: as in `predict`.
            noise: as in `predict`.
        """
        for t in range(actions.shape[1] - self.num_frames + 1):
            frame = self.predict(past, actions[:, t : t + self.num_frames], sampler, noise)
            past = torch.cat((past[:, 1:], frame[:, None]), dim=1)
            yield frame


def build_world_model(
    objective: Objective,
    conditioning: ConditioningConfig,
    network: NetworkConfig,
    num_actions: int,
    precision: Precision = "fp32",
    device: torch.device | str = "cpu",
) -> WorldModel:
    """A world model with fresh weights, drawn from torch's global CPU generator whatever the device.

    Raises UserError when the network's widths do not fit together.
    """
    parts, c = DenoiserNetwork(network, conditioning, num_actions), conditioning
    denoiser = Denoiser(parts, chosen(objective)(objective), c.num_frames, precision, c.action_dropout, c.frame_noise).to(device)
    if torch.device(device).type == "cpu":
        denoiser.to(memory_format=torch.channels_last)  # a narrow network trains in two thirds of the time
    return WorldModel(denoiser, Description(objective, conditioning, network, num_actions))


def save_world_model(model: WorldModel, folder: Path) -> None:
    """Writes model.safetensors and model.json into an existing folder, each in one piece (a reader never sees half a file)."""
    assert isinstance(model.denoiser, Denoiser), f"only a Denoiser has weights to save, not {model.denoiser!r}"
    state = {name: tensor.contiguous() for name, tensor in model.denoiser.state_dict().items()}
    weights, description = folder / WEIGHTS_FILE, folder / DESCRIPTION_FILE
    save_file(state, weights.with_suffix(".tmp"))
    weights.with_suffix(".tmp").replace(weights)
    description.with_suffix(".tmp").write_text(json.dumps(to_plain(model.description), indent=1) + "\n")
    description.with_suffix(".tmp").replace(description)


def load_world_model(folder: Path, precision: Precision = "fp32", device: torch.device | str = "cpu") -> WorldModel:
    """The world model saved in `folder`. Raises UserError naming the file that is missing, damaged or does not fit."""
    d = _read(folder / DESCRIPTION_FILE, lambda file: build(Description, read_json(file, _MOST_DESCRIPTION)))
    state = _read(folder / WEIGHTS_FILE, load_file)
    model = build_world_model(d.objective, d.conditioning, d.network, d.num_actions, precision, device)
    assert isinstance(model.denoiser, Denoiser)
    expected = model.denoiser.state_dict()
    if {name: tensor.shape for name, tensor in state.items()} != {name: tensor.shape for name, tensor in expected.items()}:
        raise UserError(f"{folder / WEIGHTS_FILE}: its tensors are not those of the network that {DESCRIPTION_FILE} describes")
    model.denoiser.load_state_dict(state)
    return model


T = TypeVar("T")


def _read(file: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(file)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; a world model is {DESCRIPTION_FILE} and {WEIGHTS_FILE} in one folder") from None
    except (OSError, UserError, ValueError, TypeError, SafetensorError) as error:
        raise UserError(f"{file}: damaged, or not what it should be: {error}") from error

"""The reference trajectories of an evaluation, and the frames that a model imagines after them or after frames of a user's own."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from diamond_bench.config import Sampler
from diamond_bench.data.references import reference_windows
from diamond_bench.data.static import load_info, load_split
from diamond_bench.diffusion.quantization import from_bytes, to_bytes
from diamond_bench.errors import UserError
from diamond_bench.evaluation.rollouts import seeded_draw
from diamond_bench.metrics.play import window_batch
from diamond_bench.models.threads import torch_threads
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.stored.models import require_whole
from diamond_bench.worlds.contract import TrainedWorld, imagined_frames

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class HeldOut:
    """One reference trajectory of an evaluation: the model's context, the actions, and the true frames that followed."""

    past: "NDArray[np.uint8]"
    """(context, h, w, 3): true frames before the first one to imagine, oldest first."""
    actions: "NDArray[np.int64]"
    """(context - 1 + T,): action i is taken after frame i of `past` and what follows it."""
    true: "NDArray[np.uint8]"
    """(T, h, w, 3)."""
    seed: tuple[int, ...]
    """The noise seed under which the evaluation imagined it."""


def held_out(store: Store, ref: JobRef, number: int) -> HeldOut:
    """As `api.held_out`."""
    if ref.kind != "evaluate_world_model":
        raise UserError(f"{ref}: only a job of evaluate_world_model has reference trajectories")
    spec = store.spec(ref)
    settings = spec.config.evaluation
    if not 0 <= number < settings.num_trajectories:
        raise UserError(f"number={number}: {ref} has the trajectories 0 to {settings.num_trajectories - 1}")
    require_whole(store, spec.inputs["dataset"])
    dataset = store.folder(spec.inputs["dataset"])
    layout = load_info(dataset).content["heldout"]
    shape, starts = (layout["reference_context"], layout["reference_horizon"]), layout["reference_starts"]
    num = max(settings.num_trajectories, settings.num_sample_starts)
    references = reference_windows(load_split(dataset, "heldout"), num, *shape, seed=settings.seed, starts=starts)
    play = window_batch(references, [number], settings.horizon)
    frames = play.frames[0].permute(0, 2, 3, 1).contiguous().numpy()
    return HeldOut(frames[: play.context], play.actions[0, :-1].numpy(), frames[play.context :], (settings.seed, 0, number))


def imagined(
    model: TrainedWorld, past: "ArrayLike", actions: "ArrayLike", sampler: Sampler, seed: tuple[int, ...], threads: int
) -> "NDArray[np.uint8]":
    """As `api.imagine`."""
    frames, taken = np.asarray(past), np.asarray(actions)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) < model.context:
        raise ValueError(f"past: expected uint8 frames (at least {model.context}, h, w, 3), got {frames.dtype} {frames.shape}")
    spec = model.spec.actions
    if taken.shape[1:] != spec.shape or not taken.ndim or taken.dtype.kind not in spec.dtype_kinds or len(taken) < len(frames):
        what = "numbers" if spec.low else "whole numbers"
        each = f"{what}, one" if not spec.trailing else f"rows of {spec.shape[0]} {what}, one row"
        raise ValueError(f"actions: expected at least {len(frames)} {each} after each past frame, got {taken.dtype} {taken.shape}")
    low, high = spec.bounds
    if not ((taken >= low) & (taken <= high)).all():
        bounds = ", ".join(f"{a}..{b}" for a, b in zip(low, high, strict=True))
        raise ValueError(f"actions: must lie in {bounds}, got {taken.min()}..{taken.max()}")
    seen = from_bytes(torch.from_numpy(frames.copy()).permute(0, 3, 1, 2)[None].to(model.device))
    steps = torch.from_numpy(taken.astype(spec.dtype))[None].to(model.device)
    draw = seeded_draw([seed], model.device)
    bound = model.bound(sampler)
    with torch_threads(threads):
        found = [to_bytes(frame)[0] for frame in imagined_frames(bound, seen, steps, draw)]
    return torch.stack(found).permute(0, 2, 3, 1).contiguous().cpu().numpy()

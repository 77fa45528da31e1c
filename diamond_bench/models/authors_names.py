"""Names of an agent's tensors in the checkpoints DIAMOND's authors publish, and their own here (golden README 3.7).

Names are without their component's prefix: what `DenoiserNetwork`, `RewardEndModel` and `ActorCritic` call their tensors.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from torch import Tensor

Component = Literal["denoiser", "rew_end_model", "actor_critic"]

PREFIXES: dict[Component, str] = {
    "denoiser": "denoiser.inner_model.",
    "rew_end_model": "rew_end_model.",
    "actor_critic": "actor_critic.",
}
"""What a component's names begin with, in the order of the authors' files."""

Renamings = Sequence[tuple[str, str]]
"""(theirs, ours): parts of names, where `#` is any number, the same in both. What begins with a dot may stand anywhere, all else first."""

_BLOCKS: Renamings = (
    (".proj.", ".skip."),
    (".linear.", ".scale_shift."),
    (".attn.norm.norm.", ".attention.norm."),
    (".attn.qkv_proj.", ".attention.qkv."),
    (".attn.out_proj.", ".attention.out."),
)
_RENAMED: dict[Component, Renamings] = {
    "denoiser": (
        ("noise_emb.weight", "noise_features.frequencies"),
        ("act_emb.0.", "action_embedding."),
        ("cond_proj.", "condition."),
        ("norm_out.norm.", "norm_out."),
        ("unet.d_blocks.#.resblocks.", "unet.down.#.blocks."),
        ("unet.u_blocks.#.resblocks.", "unet.up.#.blocks."),
        ("unet.mid_blocks.resblocks.", "unet.middle."),
        ("unet.downsamples.#.", "unet.down.#.resample."),
        ("unet.upsamples.#.", "unet.up.#.resample."),
        *_BLOCKS,
    ),
    "rew_end_model": (
        ("act_emb.", "action_embedding."),
        ("encoder.blocks.#.resblocks.", "encoder.stages.#.blocks."),
        ("encoder.downsamples.#.", "encoder.stages.#.resample."),
        *_BLOCKS,
    ),
}
_ORDER: dict[Component, tuple[str, ...]] = {  # beginnings of the authors' names, in the order of their files
    "denoiser": (
        "noise_emb",
        "act_emb",
        "cond_proj",
        "conv_in",
        "unet.d_blocks",
        "unet.u_blocks",
        "unet.mid_blocks",
        "unet.downsamples",
        "unet.upsamples",
        "norm_out",
        "conv_out",
    ),
    "rew_end_model": ("encoder.conv_in", "encoder.blocks", "encoder.downsamples", "act_emb", "lstm", "head"),
    "actor_critic": ("encoder", "lstm", "critic_linear", "actor_linear"),
}


def _actor_critic_renamings(down: Iterable[bool]) -> Renamings:
    stages: list[tuple[str, str]] = []
    for number, place in enumerate(block_positions(down)):
        theirs, ours = f"encoder.encoder.{place}.", f"encoder.stages.{number}."
        parts = (("f.0.norm.", "norm."), ("f.2.", "conv."), ("skip_projection.", "skip."))
        stages += [(theirs + a, ours + b) for a, b in parts]
    return (
        ("encoder.encoder.0.", "encoder.conv_in."),
        *stages,
        ("critic_linear.", "critic."),
        ("actor_linear.", "actor."),
    )


def block_positions(down: Iterable[bool]) -> tuple[int, ...]:
    """Where the authors' list of the actor-critic's layers has its residual blocks: a max-pooling takes a place of its own."""
    positions, place = [], 1
    for pools in down:
        positions.append(place)
        place += 2 if pools else 1
    return tuple(positions)


def _rename(name: str, renamings: Iterable[tuple[str, str]]) -> str:
    for old, new in renamings:
        pattern = ("" if old.startswith(".") else "^") + r"(\d+)".join(map(re.escape, old.split("#")))
        name = re.sub(pattern, new.replace("#", r"\1"), name)
    return name


def authors_names(component: Component, names: Iterable[str], down: Iterable[bool] = ()) -> dict[str, str]:
    """Our name of each of the authors' names (without prefix), in the order of the authors' files.

    `names`: all of ours of one component. `down`: `ActorCriticConfig.down`, which numbers the actor-critic's layers in their names.
    """
    renamings = _actor_critic_renamings(down) if component == "actor_critic" else _RENAMED[component]
    theirs = {_rename(name, [(new, old) for old, new in renamings]): name for name in names}
    order = _ORDER[component]
    rank = {name: next(i for i, beginning in enumerate(order) if name.startswith(beginning)) for name in theirs}
    return {name: theirs[name] for name in sorted(theirs, key=rank.__getitem__)}


def network_name(authors_name: str) -> str:
    """Our name of a denoiser network's tensor, given the authors' without its component prefix."""
    return _rename(authors_name, _RENAMED["denoiser"])


def network_state(authors_state: Mapping[str, Tensor], prefix: str = PREFIXES["denoiser"]) -> dict[str, Tensor]:
    """The state dict of `DenoiserNetwork` out of an agent's; the prefix is "noise_model." for the authors' DDPM branch.

    Raises KeyError when no name has the prefix.
    """
    state = {network_name(name.removeprefix(prefix)): tensor for name, tensor in authors_state.items() if name.startswith(prefix)}
    if not state:
        raise KeyError(f"no tensor under {prefix!r}; the names begin with {sorted({name.split('.')[0] for name in authors_state})}")
    return state

"""Names of an agent's tensors in the checkpoints of DIAMOND's authors, and in this package (golden README 3.7).

Names have no component prefix: they are those of `DenoiserNetwork`, `RewardEndModel` and `ActorCritic`.
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
"""The prefix of a component's names, in the order of the authors' files."""

Renamings = Sequence[tuple[str, str]]
"""(theirs, ours): parts of names. `#` stands for any number, the same in both. A part that begins with a dot may stand anywhere, all others
only at the start."""

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
        ("noise_cond_emb.weight", "past_noise_features.frequencies"),
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
_ORDER: dict[Component, tuple[str, ...]] = {  # first parts of the authors' names, in the order of their files
    "denoiser": (
        "noise_emb",
        "noise_cond_emb",
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
    """Positions of the residual blocks in the authors' list of the actor-critic's layers. A max-pooling has its own position."""
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
    """This package's name for each of the authors' names (without prefix), in the order of the authors' files.

    `names`: all names of one component here. `down`: `ActorCriticConfig.down`, on which the numbers in the actor-critic's names depend.
    """
    renamings = _actor_critic_renamings(down) if component == "actor_critic" else _RENAMED[component]
    theirs = {_rename(name, [(new, old) for old, new in renamings]): name for name in names}
    order = _ORDER[component]
    rank = {name: next(i for i, beginning in enumerate(order) if name.startswith(beginning)) for name in theirs}
    return {name: theirs[name] for name in sorted(theirs, key=rank.__getitem__)}


def network_name(authors_name: str) -> str:
    """This package's name for a tensor of the denoiser network, given the authors' name without its component prefix."""
    return _rename(authors_name, _RENAMED["denoiser"])


def network_state(authors_state: Mapping[str, Tensor], prefix: str = PREFIXES["denoiser"]) -> dict[str, Tensor]:
    """Extracts the state dict of `DenoiserNetwork` from an agent's. The prefix is "noise_model." for the authors' DDPM branch.

    Raises KeyError if no name has the prefix.
    """
    state = {network_name(name.removeprefix(prefix)): tensor for name, tensor in authors_state.items() if name.startswith(prefix)}
    if not state:
        raise KeyError(f"no tensor under {prefix!r}; the names begin with {sorted({name.split('.')[0] for name in authors_state})}")
    return state

"""Weights published by DIAMOND's authors, under the names of this package."""

import re
from collections.abc import Mapping

from torch import Tensor

_RENAMED = (
    (r"^noise_emb\.weight$", "noise_features.frequencies"),
    (r"^act_emb\.0\.", "action_embedding."),
    (r"^cond_proj\.", "condition."),
    (r"^norm_out\.norm\.", "norm_out."),
    (r"^unet\.d_blocks\.(\d+)\.resblocks\.", r"unet.down.\1.blocks."),
    (r"^unet\.u_blocks\.(\d+)\.resblocks\.", r"unet.up.\1.blocks."),
    (r"^unet\.mid_blocks\.resblocks\.", "unet.middle."),
    (r"^unet\.downsamples\.(\d+)\.", r"unet.down.\1.resample."),
    (r"^unet\.upsamples\.(\d+)\.", r"unet.up.\1.resample."),
    (r"\.proj\.", ".skip."),
    (r"\.linear\.", ".scale_shift."),
    (r"\.attn\.norm\.norm\.", ".attention.norm."),
    (r"\.attn\.qkv_proj\.", ".attention.qkv."),
    (r"\.attn\.out_proj\.", ".attention.out."),
)


def network_name(authors_name: str) -> str:
    """Our name of a denoiser network's tensor, given the authors' without its component prefix."""
    for pattern, replacement in _RENAMED:
        authors_name = re.sub(pattern, replacement, authors_name)
    return authors_name


def network_state(authors_state: Mapping[str, Tensor], prefix: str = "denoiser.inner_model.") -> dict[str, Tensor]:
    """The state dict of `DenoiserNetwork` out of an agent's; the prefix is "noise_model." for the authors' DDPM branch.

    Raises KeyError when no name has the prefix.
    """
    state = {network_name(name.removeprefix(prefix)): tensor for name, tensor in authors_state.items() if name.startswith(prefix)}
    if not state:
        raise KeyError(f"no tensor under {prefix!r}; the names begin with {sorted({name.split('.')[0] for name in authors_state})}")
    return state

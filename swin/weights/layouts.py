"""How programs lay out the same numbers: queries, keys and values joint or apart, and the order of merged channels."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from swin.errors import CheckpointError

_QKV = ("query", "key", "value")


def count_stages(names: Iterable[str]) -> int:
    """Stages of a model, or for torchvision's names twice as many."""
    return len({match[0] for name in names if (match := re.match(r"(layers|stages|features)\.\d+", name))})


def find_family(names: Iterable[str]) -> str:
    """The family that weights are of by their names in any format, as MODEL.TYPE."""
    text = "\n".join(names)
    return "swinv2" if ".logit_scale" in text else "swin_mlp" if ".spatial_mlp." in text else "swin"


def split_qkv(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give queries, keys and values tensors of their own; of V2 the queries' and values' biases have them already."""
    split: dict[str, Tensor] = {}
    for name, value in weights.items():
        name = re.sub(r"\.attn\.q_bias$", ".attn.query.bias", re.sub(r"\.attn\.v_bias$", ".attn.value.bias", name))
        layer, is_whole, kind = name.partition(".attn.qkv.")
        parts = dict(zip(_QKV, value.chunk(3), strict=True)) if is_whole else {}
        split |= {f"{layer}.attn.{part}.{kind}": each for part, each in parts.items()} or {name: value}
    return split


def join_qkv(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `split_qkv`.

    Raises:
        CheckpointError: one of the three is not there, or of another shape.
    """
    joined: dict[str, Tensor] = {}
    is_v2 = find_family(weights) == "swinv2"
    for name, value in weights.items():
        match = re.fullmatch(r"(.*\.attn)\.(query|key|value)\.(weight|bias)", name)
        if match and is_v2 and match[3] == "bias" and match[2] != "key":
            joined[f"{match[1]}.{match[2][0]}_bias"] = value
        elif match is None:
            joined[name] = value
        elif (whole := f"{match[1]}.qkv.{match[3]}") not in joined:
            parts = [weights.get(f"{match[1]}.{part}.{match[3]}") for part in _QKV]
            found = [part for part in parts if part is not None and part.shape == value.shape]
            if len(found) < len(parts):
                raise CheckpointError(
                    f"{match[1]} lacks one of query, key and value, or they differ in shape, so that they are not "
                    "those of a Swin Transformer; use a whole file."
                )
            joined[whole] = torch.cat(found)
    return joined


def merged_channels(value: Tensor, *, to_native: bool) -> Tensor:
    """Reorder the last axis, 4C merged channels, between mmpretrain's layout and the native one.

    mmpretrain merges with nn.Unfold: channel by channel, each with its tokens (row, column) 00, 01, 10, 11. Natively it
    is token by token in the order 00, 10, 01, 11, each with all its channels. The swap of the two inner tokens is its
    own inverse.
    """
    rest, merged = value.shape[:-1], value.shape[-1] if value.ndim else 1
    if merged % 4:
        raise CheckpointError(
            f"a patch merging of {merged} channels is not one of 2 x 2 tokens, which is all that mmpretrain has; "
            "convert to another format."
        )
    swap = [0, 2, 1, 3]
    if to_native:
        return value.reshape(*rest, merged // 4, 4)[..., swap].transpose(-1, -2).reshape(value.shape)
    return value.reshape(*rest, 4, merged // 4).transpose(-1, -2)[..., swap].reshape(value.shape)


def split_bias(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Biases of queries and values from those of all three; torchvision takes the keys' as zero, whatever they are."""
    split: dict[str, Tensor] = {}
    for name, value in weights.items():
        layer, is_joint, _ = name.partition(".attn.qkv.bias")
        if is_joint:
            split[f"{layer}.attn.q_bias"], _, split[f"{layer}.attn.v_bias"] = value.chunk(3)
        else:
            split[name] = value
    return split


def join_bias(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `split_bias`."""
    joined: dict[str, Tensor] = {}
    for name, value in weights.items():
        layer, is_of_queries, _ = name.partition(".attn.q_bias")
        if is_of_queries:
            parts = (value, torch.zeros_like(value), weights[f"{layer}.attn.v_bias"])
            joined[f"{layer}.attn.qkv.bias"] = torch.cat(parts)
        elif not name.endswith(".attn.v_bias"):
            joined[name] = value
    return joined

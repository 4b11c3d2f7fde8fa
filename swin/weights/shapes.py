"""The model that weights belong to, read off their shapes."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from swin.errors import CheckpointError
from swin.weights.formats import table_window


def model_arguments(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `SwinTransformer` for weights under native names.

    The image size is the smallest whose last stage is a whole window; with an absolute position embedding it is the
    square that this was made for.

    Raises:
        CheckpointError: these are not the weights of one Swin Transformer V1.
    """
    try:
        return _arguments(tensors)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise CheckpointError(
            f"the weights are not those of a whole Swin Transformer V1 ({type(error).__name__}: {error}). Published "
            "files and checkpoints of training runs can be used."
        ) from None


def _arguments(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    embed_dim, in_chans, patch, _ = tensors["patch_embed.proj.weight"].shape
    tables = {
        (int(match[1]), int(match[2])): value
        for name, value in tensors.items()
        if (match := re.fullmatch(r"layers\.(\d+)\.blocks\.(\d+)\.attn\.relative_position_bias_table", name))
    }
    windows = {table_window(len(table)) for table in tables.values()}
    window = windows.pop() if len(windows) == 1 else None
    if window is None:
        raise ValueError("there are no relative-position-bias tables of one window")
    stages = range(len({stage for stage, _ in tables}))
    mlp = tensors["layers.0.blocks.0.mlp.fc1.weight"]
    position = tensors.get("absolute_pos_embed")
    grid = 2 ** (len(stages) - 1) * window if position is None else round(position.shape[1] ** 0.5)
    return {
        "img_size": patch * grid,
        "patch_size": patch,
        "in_chans": in_chans,
        "num_classes": len(tensors["head.bias"]) if "head.bias" in tensors else 0,
        "embed_dim": embed_dim,
        "depths": tuple(sum(key[0] == stage for key in tables) for stage in stages),
        "num_heads": tuple(tables[stage, 0].shape[1] for stage in stages),
        "window_size": window,
        "mlp_ratio": mlp.shape[0] / mlp.shape[1],
        "qkv_bias": "layers.0.blocks.0.attn.qkv.bias" in tensors,
        "ape": position is not None,
        "patch_norm": "patch_embed.norm.weight" in tensors,
    }

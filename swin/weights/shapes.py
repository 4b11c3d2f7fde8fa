"""What model weights are of: family and arguments by names and shapes, and the windows of Swin V2 by what is beside."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from swin.config import config_from_dict
from swin.errors import CheckpointError
from swin.variants import Variant
from swin.weights.buffers import table_window
from swin.weights.layouts import count_stages, find_family


def model_arguments(
    tensors: Mapping[str, Tensor], windows: Sequence[tuple[int, int]] | None = None
) -> tuple[str, dict[str, Any]]:
    """Family, as MODEL.TYPE, and arguments of its class for weights under native names.

    The image size is the smallest whose last stage is a whole window; with an absolute position embedding it is the
    square that this was made for.

    Args:
        windows: of a Swin V2, as of `swin.weights.source.Weights`: shapes do not say them.

    Raises:
        CheckpointError: these are not the weights of one model of the family, or do not say all that is needed.
    """
    family = find_family(tensors)
    try:
        if family == "swinv2":
            return family, _swin_v2_arguments(tensors, windows)
        return family, _swin_arguments(tensors) if family == "swin" else _swin_mlp_arguments(tensors)
    except (KeyError, ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"the weights are not those of a whole model of the Swin family ({type(error).__name__}: {error}). "
            "Published files and checkpoints of training runs can be used."
        ) from None


def _shared_arguments(tensors: Mapping[str, Tensor], last_window: int) -> dict[str, Any]:
    """What shapes say in the same way in every family; the last stage's window says the image size."""
    embed_dim, in_chans, patch, _ = tensors["patch_embed.proj.weight"].shape
    matches = (re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name) for name in tensors)
    blocks = {(int(match[1]), int(match[2])) for match in matches if match}
    stages = range(len({stage for stage, _ in blocks}))
    mlp = tensors["layers.0.blocks.0.mlp.fc1.weight"]
    position = tensors.get("absolute_pos_embed")
    grid = 2 ** (len(stages) - 1) * last_window if position is None else round(position.shape[1] ** 0.5)
    return {
        "img_size": patch * grid,
        "patch_size": patch,
        "in_chans": in_chans,
        "num_classes": len(tensors["head.bias"]) if "head.bias" in tensors else 0,
        "embed_dim": embed_dim,
        "depths": tuple(sum(block[0] == stage for block in blocks) for stage in stages),
        "mlp_ratio": mlp.shape[0] / mlp.shape[1],
        "ape": position is not None,
        "patch_norm": "patch_embed.norm.weight" in tensors,
    }


def _of_blocks(tensors: Mapping[str, Tensor], end: str) -> dict[tuple[int, int], Tensor]:
    """The tensor of each block, by stage and block, whose name in it is this."""
    matches = ((re.fullmatch(r"layers\.(\d+)\.blocks\.(\d+)\.(.*)", name), value) for name, value in tensors.items())
    return {(int(match[1]), int(match[2])): value for match, value in matches if match and match[3] == end}


def _swin_arguments(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    tables = _of_blocks(tensors, "attn.relative_position_bias_table")
    windows = {table_window(len(table)) for table in tables.values()}
    window = windows.pop() if len(windows) == 1 else None
    if window is None:
        raise ValueError("there are no relative-position-bias tables of one window")
    shared = _shared_arguments(tensors, window)
    return shared | {
        "num_heads": tuple(tables[stage, 0].shape[1] for stage in range(len(shared["depths"]))),
        "window_size": window,
        "qkv_bias": "layers.0.blocks.0.attn.qkv.bias" in tensors,
    }


def _swin_v2_arguments(tensors: Mapping[str, Tensor], windows: Sequence[tuple[int, int]] | None) -> dict[str, Any]:
    if windows is None:
        raise CheckpointError(
            "these are weights of a Swin V2, whose shapes do not say its windows. Give the folder that they were "
            "published in, or name the model, as by MODEL.VARIANT or the first argument of swin.create_model."
        )
    shared = _shared_arguments(tensors, windows[-1][0])
    scales, extra = _of_blocks(tensors, "attn.logit_scale"), _of_blocks(tensors, "norm3.weight")
    return shared | {
        "num_heads": tuple(len(scales[stage, 0]) for stage in range(len(shared["depths"]))),
        "window_size": max(window for window, _ in windows),
        "pretrained_window_sizes": tuple(reference if reference != window else 0 for window, reference in windows),
        "extra_norm_every": min((block + 1 for _, block in extra), default=0),
        "qkv_bias": "layers.0.blocks.0.attn.q_bias" in tensors,
    }


def _swin_mlp_arguments(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    matrices = _of_blocks(tensors, "spatial_mlp.weight")
    tokens = {matrix.shape[1] for matrix in matrices.values()}
    window = round(tokens.pop() ** 0.5) if len(tokens) == 1 else 0
    if not window or any(len(matrix) % window**2 or matrix.shape[1] != window**2 for matrix in matrices.values()):
        raise ValueError("there are no matrices over the tokens of one window")
    shared = _shared_arguments(tensors, window)
    num_heads = tuple(len(matrices[stage, 0]) // window**2 for stage in range(len(shared["depths"])))
    return shared | {"num_heads": num_heads, "window_size": window}


def configured_windows(config: Mapping[str, Any] | None, family: str) -> list[tuple[int, int]] | None:
    """Windows of a Swin V2 by a run's nested config."""
    if family != "swinv2" or config is None:
        return None
    cfg = config_from_dict(config)
    if family != cfg.MODEL.TYPE:
        return None
    own = cfg.architecture
    size = cfg.DATA.IMG_SIZE
    sides = [size, size] if isinstance(size, int) else size
    pretrained = own.PRETRAINED_WINDOW_SIZES if any(own.PRETRAINED_WINDOW_SIZES) else [0] * len(own.DEPTHS)
    return stage_windows(own.WINDOW_SIZE, pretrained, min(sides) // own.PATCH_SIZE)


def claimed_windows(claims: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    """Windows of a Swin V2 by what the folder of another program says, of which nothing has been checked.

    Raises:
        CheckpointError: it does not say them.
    """
    window, size = claims.get("window_size"), claims.get("img_size")
    sides: list[Any] = [size] if isinstance(size, int) else list(size) if isinstance(size, list | tuple) else []
    patch, num_stages = tensors["patch_embed.proj.weight"].shape[-1], count_stages(tensors)
    pretrained = claims.get("pretrained_window_sizes") or [0] * num_stages
    pretrained = list(pretrained) if isinstance(pretrained, list | tuple) else []
    numbers = [window, *sides, *pretrained]
    are_numbers = all(type(number) is int and 0 <= number < 1 << 14 for number in numbers)
    if not are_numbers or not sides or 0 in (window, *sides) or len(pretrained) != num_stages:
        raise CheckpointError("the folder does not say the windows or the image size of its Swin V2 in numbers.")
    return stage_windows(int(claims["window_size"]), pretrained, min(sides) // patch)


def windows_of(variant: Variant) -> list[tuple[int, int]] | None:
    """Windows of a variant of Swin V2; None of one of another family."""
    if variant.family != "swinv2":
        return None
    pretrained = variant.more.get("pretrained_window_sizes") or [0] * len(variant.depths)
    return stage_windows(variant.window_size, pretrained, variant.img_size // 4)


def stage_windows(window: int, pretrained: Sequence[int], grid: int) -> list[tuple[int, int]]:
    """Windows of a Swin V2 as of `swin.weights.source.Weights`.

    Args:
        window: the argument of the model, for all stages.
        pretrained: the argument of the model, for each stage.
        grid: smaller side of the first stage's grid, in patches.
    """
    found = []
    for reference in pretrained:
        side = max(1, min(window, grid))
        found.append((side, reference or side))
        grid = -(-grid // 2)
    return found

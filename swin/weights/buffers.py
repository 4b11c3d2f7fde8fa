"""Buffers that programs save although they follow from the configuration: what they say, and how they are made."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from swin.errors import CheckpointError
from swin.kernels.windows import relative_coordinates, relative_position_index, shift_mask
from swin.weights.layouts import count_stages

DERIVED_BUFFERS = ("relative_position_index", "attn_mask", "relative_coords_table")
_MAX_COORDINATE = 5.0  # of a window of thousands of tokens
_OFFICIAL_MASKED = -100.0  # what official files hold for pairs that do not see each other


def table_window(rows: int) -> int | None:
    """The window side M whose bias table has this many rows, (2M-1)^2; None if there is none."""
    side = round(rows**0.5)
    return (side + 1) // 2 if side * side == rows and side % 2 else None


def read_windows(tensors: Mapping[str, Tensor]) -> list[tuple[int, int]] | None:
    """The windows of a Swin V2, read off the tables of coordinates that some programs save.

    The greatest coordinate, that of a distance of W - 1 tokens, is log2(8 (W - 1) / (P - 1) + 1) / 3.

    Args:
        tensors: by native name, with derived buffers.

    Returns:
        For each stage the side W of its window and the side P of the one in which a distance of P - 1 tokens is 8; None
        where there are no such tables.
    """
    found: dict[int, tuple[int, int]] = {}
    for name, table in tensors.items():
        match = re.fullmatch(r"layers\.(\d+)\.blocks\.0\.attn\.relative_coords_table", name)
        if match is None:
            continue
        if table.ndim != 4 or table.shape[1] % 2 == 0:
            return None
        window, greatest = (table.shape[1] + 1) // 2, float(table.max())
        if window > 1 and not 0 < greatest < _MAX_COORDINATE:
            return None  # damaged
        found[int(match[1])] = (window, round(8 * (window - 1) / (2 ** (3 * greatest) - 1)) + 1 if window > 1 else 1)
    return [found[stage] for stage in range(len(found))] if found and set(found) == set(range(len(found))) else None


def make_buffers(
    weights: Mapping[str, Tensor],
    format_name: str,
    img_size: tuple[int, int] | None,
    windows: Sequence[tuple[int, int]] | None,
) -> dict[str, Tensor]:
    """Derived buffers, by native name, that the program's own model saves."""
    buffers: dict[str, Tensor] = {}
    if format_name in ("timm", "transformers"):
        return buffers
    patch = weights["patch_embed.proj.weight"].shape[-1]
    num_stages = count_stages(weights)
    for name, value in weights.items():
        match = re.fullmatch(
            r"((layers\.(\d+)\.blocks\.(\d+))\.attn)\.(relative_position_bias_table|logit_scale)", name
        )
        if match is None:
            continue
        attention, block, stage, index, kind = match.groups()
        is_v2 = kind == "logit_scale"
        window, reference = windows[int(stage)] if is_v2 and windows else (table_window(len(value)), 0)
        if window is None:
            continue
        sides = (window, window)
        if is_v2:
            table = relative_coordinates(sides, (reference, reference))
            buffers[f"{attention}.relative_coords_table"] = table.view(1, 2 * window - 1, 2 * window - 1, 2)
        pairs = relative_position_index(sides)
        buffers[f"{attention}.relative_position_index"] = pairs.flatten() if format_name == "torchvision" else pairs
        if format_name == "official" and int(index) % 2:
            last_window = windows[-1][0] if windows else window
            stride, whole = patch * 2 ** int(stage), patch * 2 ** (num_stages - 1) * last_window
            mask = _official_mask(window, stride, img_size or (whole, whole), f"stage {stage}", whole)
            buffers |= {} if mask is None else {f"{block}.attn_mask": mask}
    return buffers


def _official_mask(window: int, stride: int, img_size: tuple[int, int], stage: str, whole: int) -> Tensor | None:
    """The mask of a shifted block of the official model; None where a stage has one window, so that it has no shift."""
    height, width = img_size
    if height % (stride * window) or width % (stride * window):
        raise CheckpointError(
            f"an image of {height} x {width} pixels does not fill windows of {window} tokens at {stage}, "
            f"which the official model needs; give a multiple of {whole}."
        )
    grid = (height // stride, width // stride)
    if min(grid) <= window:
        return None
    shift = (window // 2, window // 2)
    return shift_mask(*grid, (window, window), shift, torch.device("cpu"), _OFFICIAL_MASKED)

"""Weights made to fit another window, grid, patch or number of channels.

Legend: M window side, N heads, C channels, P patch side.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from swin.weights.buffers import table_window


def resize_to(name: str, value: Tensor, shape: torch.Size, grid: tuple[int, int]) -> tuple[Tensor, str] | None:
    """Fit a tensor to the model's shape by what its native name says it is.

    Args:
        grid: (height, width) in patches of the model's absolute position embedding.

    Returns:
        The tensor, float32, and what was done in words; None if there is no meaningful way.
    """
    value = value.float()
    if name.endswith("relative_position_bias_table"):
        return _bias_table(value, shape)
    if name == "absolute_pos_embed":
        return _position_embedding(value, shape, grid)
    if name == "patch_embed.proj.weight":
        return _patch_weight(value, shape)
    return None


def _bias_table(table: Tensor, shape: torch.Size) -> tuple[Tensor, str] | None:
    """Bicubic interpolation of each head's map of relative positions, ((2M-1)^2, N)."""
    if table.ndim != 2 or table.shape[1] != shape[1]:
        return None
    old, new = table_window(len(table)), table_window(shape[0])
    if old is None or new is None:
        return None
    maps = table.T.reshape(1, -1, 2 * old - 1, 2 * old - 1)  # (1, N, 2M-1, 2M-1)
    resized = F.interpolate(maps, size=(2 * new - 1,) * 2, mode="bicubic")
    return resized.flatten(2)[0].T.contiguous(), f"window {old} to {new}, bicubic"


def _position_embedding(value: Tensor, shape: torch.Size, grid: tuple[int, int]) -> tuple[Tensor, str] | None:
    """Bicubic interpolation of (1, H*W, C); a grid that is not square is taken to have the model's proportions."""
    if value.ndim != 3 or value.shape[2] != shape[2]:
        return None
    length = value.shape[1]
    for height, width in ((1, 1), grid):
        rows = round((length * height / width) ** 0.5)
        if rows and length % rows == 0 and rows * width == length // rows * height:
            maps = value.reshape(1, rows, length // rows, -1).permute(0, 3, 1, 2)  # (1, C, H, W)
            resized = F.interpolate(maps, size=grid, mode="bicubic")
            words = f"grid {rows} x {length // rows} to {grid[0]} x {grid[1]}, bicubic"
            return resized.flatten(2).transpose(1, 2).contiguous(), words
    return None


def _patch_weight(value: Tensor, shape: torch.Size) -> tuple[Tensor, str] | None:
    """(C, channels, P, P) for other channels or patches, so that an image's grey copy gives about the same tokens.

    One channel takes the sum over all; several are repeated in turn and scaled by the ratio of their numbers. A patch
    is interpolated and scaled by the ratio of the areas.
    """
    if value.ndim != 4 or value.shape[0] != shape[0]:
        return None
    words = []
    old, new = value.shape[1], shape[1]
    if new != old:
        value = value.sum(dim=1, keepdim=True) if new == 1 else value[:, torch.arange(new) % old] * (old / new)
        words.append(f"{old} to {new} channels")
    old, new = value.shape[-1], shape[-1]
    if new != old:
        value = F.interpolate(value, size=shape[2:], mode="bicubic") * (old / new) ** 2
        words.append(f"patches of {old} to {new} pixels, bicubic")
    return value, ", ".join(words)

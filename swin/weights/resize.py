"""Weights made to fit another window, grid, patch or number of channels.

Legend: M window side, N heads, C channels, P patch side.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from swin.weights.buffers import table_window


def resize_to(
    name: str, value: Tensor, shape: torch.Size, grid: tuple[int, int], *, is_of_simmim: bool = False
) -> tuple[Tensor, str] | None:
    """Fit a tensor to the model's shape by what its native name says it is.

    Args:
        grid: (height, width) in patches of the model's absolute position embedding.
        is_of_simmim: whether bias tables go by `_spread_table`, as in the official fine-tuning of SimMIM's weights.

    Returns:
        The tensor, float32, and what was done in words; None if there is no meaningful way.
    """
    value = value.float()
    if name.endswith("relative_position_bias_table"):
        return _bias_table(value, shape, is_of_simmim=is_of_simmim)
    if name == "absolute_pos_embed":
        return _position_embedding(value, shape, grid)
    if name == "patch_embed.proj.weight":
        return _patch_weight(value, shape)
    return None


def _bias_table(table: Tensor, shape: torch.Size, *, is_of_simmim: bool) -> tuple[Tensor, str] | None:
    """Bicubic interpolation of each head's map of relative positions, ((2M-1)^2, N)."""
    if table.ndim != 2 or table.shape[1] != shape[1]:
        return None
    old, new = table_window(len(table)), table_window(shape[0])
    if old is None or new is None:
        return None
    if is_of_simmim:
        return _spread_table(table, old, new), f"window {old} to {new}, cubic on a geometric grid"
    maps = table.T.reshape(1, -1, 2 * old - 1, 2 * old - 1)  # (1, N, 2M-1, 2M-1)
    resized = F.interpolate(maps, size=(2 * new - 1,) * 2, mode="bicubic")
    return resized.flatten(2)[0].T.contiguous(), f"window {old} to {new}, bicubic"


def _spread_table(table: Tensor, old: int, new: int) -> Tensor:
    """Cubic splines through each head's map, whose rows are taken to be the farther apart the farther from the middle.

    The distances 1, 1 + q, 1 + q + q^2, ... of the old positions reach as far as the new window does. Source: the
    official repository's utils_simmim.py, whose interp2d SciPy has no more; on a grid RectBivariateSpline is the same.
    """
    from scipy.interpolate import RectBivariateSpline

    side, reach = 2 * old - 1, new - 1
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio ** (side // 2)) / (1 - ratio) > reach:
            high = ratio
        else:
            low = ratio
    distances = np.cumsum(ratio ** np.arange(side // 2))
    positions = np.concatenate([-distances[::-1], [0.0], distances])
    wanted = np.arange(-reach, reach + 1.0)
    degree = min(3, side - 1)
    maps = [
        RectBivariateSpline(positions, positions, head.view(side, side).numpy(), kx=degree, ky=degree)(wanted, wanted)
        for head in table.T.contiguous()
    ]
    return torch.from_numpy(np.stack(maps)).float().flatten(1).T.contiguous()


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

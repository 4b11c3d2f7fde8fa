"""Windows of a token grid.

How tokens are grouped, which pairs of a shifted window may see each other, and which entry of the bias table a pair
reads.

Legend: B images, H W grid, M window side, T = M*M tokens a window, K = (H/M)*(W/M) windows an image, N heads,
D head dim.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

# Added to the logits of pairs that a shift brought together from opposite borders: their weights are exactly zero, and
# it is finite in float16. The published weights were trained with -100, whose exp, 4e-44, is zero beside any real
# weight but a subnormal number, with which some processors multiply tens of times as slowly.
MASKED = -1e4


def is_captured() -> bool:
    """Whether operations are being recorded, by torch.compile, export or jit.trace, for inputs of other batches too."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def partition(x: Tensor, window: int) -> Tensor:
    """Group a grid into windows.

    Args:
        x: (B, H, W, ...), H and W multiples of `window`.
        window: side M of a window, in tokens.

    Returns:
        (B, K, T, ...): windows in row-major order, the tokens of each in row-major order.
    """
    B, H, W, *rest = x.shape
    x = x.view(B, H // window, window, W // window, window, *rest)  # (B, H/M, M, W/M, M, ...)
    return x.transpose(2, 3).reshape(B, -1, window * window, *rest)


def reverse(x_BKT: Tensor, window: int, height: int, width: int) -> Tensor:
    """Undo `partition`: (B, K, T, ...) to (B, height, width, ...)."""
    B, _, _, *rest = x_BKT.shape
    x = x_BKT.view(B, height // window, width // window, window, window, *rest)  # (B, H/M, W/M, M, M, ...)
    return x.transpose(2, 3).reshape(B, height, width, *rest)


def _axis_regions(size: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Region number (size,) of each position of a rolled axis: 0 inside, 1 and 2 on the two sides of the seam."""
    position = torch.arange(size, device=device)
    if not shift:
        return torch.zeros_like(position)
    return (position >= size - window).long() + (position >= size - shift).long()


def shift_mask(height: int, width: int, window: int, shift: tuple[int, int], device: torch.device) -> Tensor:
    """The additive mask of a shifted grid (K, T, T), float32: 0 where query and key were neighbours, MASKED elsewhere.

    Source: section 3.2 and figure 4 of arXiv 2103.14030 (cyclic shift).
    """
    make = _make_shift_mask if is_captured() else _cached_shift_mask
    return make(height, width, window, shift, device)


@lru_cache(maxsize=64)
def _cached_shift_mask(*args: Any) -> Tensor:
    with torch.inference_mode(False):  # a tensor made in inference mode could not be used by a later training step
        return _make_shift_mask(*args)


def _make_shift_mask(height: int, width: int, window: int, shift: tuple[int, int], device: torch.device) -> Tensor:
    rows = _axis_regions(height, window, shift[0], device)
    columns = _axis_regions(width, window, shift[1], device)
    regions_HW = rows[:, None] * 3 + columns[None, :]
    regions_KT = partition(regions_HW[None], window)[0]
    apart_KTT = regions_KT[:, :, None] != regions_KT[:, None, :]
    return apart_KTT.float() * MASKED


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table ((2M-1)^2 rows) that each pair of tokens of a window reads: (T, T), int64.

    Source: section 3.2 of arXiv 2103.14030; the order of the rows is that of the official weights.
    """
    side = torch.arange(window)
    row_T, column_T = (grid.flatten() for grid in torch.meshgrid(side, side, indexing="ij"))
    delta_row_TT = row_T[:, None] - row_T[None, :] + window - 1
    delta_column_TT = column_T[:, None] - column_T[None, :] + window - 1
    return delta_row_TT * (2 * window - 1) + delta_column_TT

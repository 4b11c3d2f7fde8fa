"""Windows of a token grid.

How tokens are grouped, which pairs of a shifted window may see each other, and which entry of the bias table a pair
reads.

Legend: B images, H W grid, window of M x L tokens, T = M*L, K = (H/M)*(W/L) windows an image, N heads, D head dim.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
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


def partition(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Group a grid into windows.

    Args:
        x: (B, H, W, ...), H and W multiples of the window's.
        window: height M and width L of a window, in tokens.

    Returns:
        (B, K, T, ...): windows in row-major order, the tokens of each in row-major order.
    """
    B, H, W, *rest = x.shape
    M, L = window
    x = x.view(B, H // M, M, W // L, L, *rest)
    return x.transpose(2, 3).reshape(B, -1, M * L, *rest)


def reverse(x_BKT: Tensor, window: tuple[int, int], height: int, width: int) -> Tensor:
    """Undo `partition`: (B, K, T, ...) to (B, height, width, ...)."""
    B, _, _, *rest = x_BKT.shape
    M, L = window
    x = x_BKT.view(B, height // M, width // L, M, L, *rest)
    return x.transpose(2, 3).reshape(B, height, width, *rest)


def _axis_regions(size: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Region number (size,) of each position of a rolled axis: 0 inside, 1 and 2 on the two sides of the seam."""
    position = torch.arange(size, device=device)
    if not shift:
        return torch.zeros_like(position)
    return (position >= size - window).long() + (position >= size - shift).long()


def cached(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Keep the last tensors that a function has made of plain arguments, but not where operations are recorded."""

    @lru_cache(maxsize=64)
    def remember(*args: Any) -> Tensor:
        with torch.inference_mode(False):  # a tensor made in inference mode could not be used by a later training step
            return make(*args)

    @wraps(make)
    def give(*args: Any) -> Tensor:
        return make(*args) if is_captured() else remember(*args)

    return give


@cached
def shift_mask(
    height: int,
    width: int,
    window: tuple[int, int],
    shift: tuple[int, int],
    device: torch.device,
    masked: float = MASKED,
) -> Tensor:
    """The additive mask of a shifted grid (K, T, T), float32: 0 where query and key were neighbours, `masked` if not.

    Source: section 3.2 and figure 4 of arXiv 2103.14030 (cyclic shift).
    """
    rows = _axis_regions(height, window[0], shift[0], device)
    columns = _axis_regions(width, window[1], shift[1], device)
    regions_HW = rows[:, None] * 3 + columns[None, :]
    regions_KT = partition(regions_HW[None], window)[0]
    apart_KTT = regions_KT[:, :, None] != regions_KT[:, None, :]
    return apart_KTT.float() * masked


def relative_position_index(window: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """Row of the bias table, of (2M-1)(2L-1) rows, that each pair of tokens of a window reads: (T, T), int64.

    Source: section 3.2 of arXiv 2103.14030; the order of the rows is that of the official weights.
    """
    sides = (torch.arange(side, device=device) for side in window)
    row_T, column_T = (grid.flatten() for grid in torch.meshgrid(*sides, indexing="ij"))
    delta_row_TT = row_T[:, None] - row_T[None, :] + window[0] - 1
    delta_column_TT = column_T[:, None] - column_T[None, :] + window[1] - 1
    return delta_row_TT * (2 * window[1] - 1) + delta_column_TT


def relative_coordinates(
    window: tuple[int, int], reference: tuple[int, int], device: torch.device | None = None
) -> Tensor:
    """What the relative position of each row of a bias table is for Swin V2's MLP: ((2M-1)(2L-1), 2), float32.

    A distance of one token less than the `reference` window's side is 8 before its logarithm is taken: 1.057 after it.

    Source: equation 4 of arXiv 2111.09883 and the official code, whose logarithm is divided by log2(8).
    """
    axes = []
    for side, reference_side in zip(window, reference, strict=True):
        distance = torch.arange(1 - side, side, dtype=torch.float32, device=device) / max(1, reference_side - 1) * 8
        axes.append(distance.sign() * torch.log2(distance.abs() + 1) / 3)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)

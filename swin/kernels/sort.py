"""Tokens in image order to the order of their windows and back: one copy in place of a roll and a partition.

Legend: B images, H W grid, C channels, M window side, T = M*M tokens a window, V windows of all images.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from swin.kernels.windows import partition, remembered, reverse


def sort_by_window(x: Tensor, window: int, shift: tuple[int, int]) -> Tensor:
    """Tokens in image order (B, H, W, C) to the windows of the shifted grids (V, T, C)."""
    B, H, W, C = x.shape
    places, back = _token_order(B, H, W, window, shift, x.device)
    return _take(x.reshape(B * H * W, C), places, back).view(-1, window**2, C)


def sort_by_image(x_VTC: Tensor, grid: tuple[int, int], window: int, shift: tuple[int, int]) -> Tensor:
    """Undo `sort_by_window`: (V, T, C) to (B, H, W, C), for grids of (H, W) tokens."""
    V, T, C = x_VTC.shape
    B = V * T // (grid[0] * grid[1])
    places, back = _token_order(B, *grid, window, shift, x_VTC.device)
    return _take(x_VTC.reshape(V * T, C), back, places).view(B, *grid, C)


@remembered(maxsize=32)  # 7 of them serve a model with four stages and one size of batch and image
def _token_order(
    images: int, height: int, width: int, window: int, shift: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The place in the images of each token of each window (V*T,), and the place in the windows of each token."""
    count = height * width
    numbers = torch.arange(count, dtype=torch.int32, device=device)
    rolled = numbers.view(1, height, width).roll((-shift[0], -shift[1]), dims=(1, 2))
    places = partition(rolled, window).flatten()
    back = reverse(numbers.view(1, -1, window**2), window, height, width).roll(shift, dims=(1, 2)).flatten()
    first_B1 = torch.arange(images, dtype=torch.int32, device=device)[:, None] * count
    return (first_B1 + places).flatten(), (first_B1 + back).flatten()


def _take(rows: Tensor, places: Tensor, back: Tensor) -> Tensor:
    if torch.is_grad_enabled() and rows.requires_grad:
        return _Take.apply(rows, places, back)
    return rows.index_select(0, places)


class _Take(torch.autograd.Function):
    """Rows by their places; `back` is the inverse, by which gradients return without the sums of a general gather."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor, back: Tensor) -> Tensor:
        ctx.back = back
        return rows.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad.index_select(0, ctx.back), None, None

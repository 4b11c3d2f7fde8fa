"""Window attention for CPUs: a few windows at a time, so that everything between the projections stays in the cache.

Shift and partition are one gather of rows of `qkv`, reverse and shift back one gather of rows of the result; no
rolled or partitioned copy of the grid exists. The backward pass is written by hand for the same reason.

Legend: B images, H W grid, M window side, T = M*M tokens a window, K windows an image, k windows of a part, N heads,
D head dim, b images of a part, P = b*k*N.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from swin.kernels.windows import partition, shift_mask

# Bytes of the float32 logits that are worked on at a time: about what a core's second-level cache holds.
PART_BYTES = 2**20


def cpu_window_attention(qkv: Tensor, bias_NTT: Tensor, window: int, shift: tuple[int, int], scale: float) -> Tensor:
    """See `swin.kernels.window_attention`."""
    return _Attention.apply(qkv, bias_NTT, window, shift, scale)


class _Attention(torch.autograd.Function):
    """(qkv (B, H, W, 3, N, D), bias (N, T, T)) to (B, H, W, N*D)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias_NTT: Tensor, window: int, shift: tuple[int, int], scale: float) -> Tensor:
        B, H, W, _, N, D = qkv.shape
        rows = qkv.reshape(B, H * W, 3 * N * D)
        out = qkv.new_empty(B, H * W, N * D)
        places_of_tokens = _token_order(H, W, window, shift, qkv.device)[1]
        kept = []  # the weights of each part: each is small enough for the allocator to have at hand
        with torch.autocast(qkv.device.type, enabled=False):
            parts = list(_parts((H, W), bias_NTT, window, shift))
            for images in _groups(B, H * W, bias_NTT):
                done = []
                for places, mask in parts:
                    q_PTD, k_PTD, v_PTD = _split(rows[images], places, 3, N, window**2)
                    weights_PTT = _weights(q_PTD, k_PTD, mask, scale)
                    done.append(_join(torch.bmm(weights_PTT, v_PTD)[None], N, len(places)))
                    if any(ctx.needs_input_grad):
                        kept.append(weights_PTT)
                torch.index_select(_one(done), 1, places_of_tokens, out=out[images])
        ctx.save_for_backward(qkv, bias_NTT, *kept)
        ctx.geometry, ctx.scale = (window, shift), scale
        return out.view(B, H, W, N * D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, bias_NTT, *kept = ctx.saved_tensors
        window, shift = ctx.geometry
        B, H, W, _, N, D = qkv.shape
        rows, grads = qkv.reshape(B, H * W, 3 * N * D), grad.reshape(B, H * W, N * D)
        grad_qkv = torch.empty_like(rows)
        grad_bias = torch.zeros_like(bias_NTT, dtype=torch.promote_types(bias_NTT.dtype, torch.float32))
        places_of_tokens = _token_order(H, W, window, shift, qkv.device)[1]
        weights = iter(kept)
        with torch.autocast(qkv.device.type, enabled=False):
            parts = [places for places, _ in _parts((H, W), bias_NTT, window, shift)]
            for images in _groups(B, H * W, bias_NTT):
                done = []
                for places in parts:
                    qkv_part = _split(rows[images], places, 3, N, window**2)
                    grad_part = _split(grads[images], places, 1, N, window**2)[0]
                    grads_part, grad_logits_PTT = _backward_part(qkv_part, grad_part, next(weights), ctx.scale)
                    grad_bias += grad_logits_PTT.view(-1, *grad_bias.shape).sum(0, dtype=grad_bias.dtype)
                    done.append(_join(grads_part, N, len(places)))
                torch.index_select(_one(done), 1, places_of_tokens, out=grad_qkv[images])
        return grad_qkv.view(qkv.shape), grad_bias.to(bias_NTT.dtype), None, None, None


def _weights(q_PTD: Tensor, k_PTD: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention weights (P, T, T) of some windows; mask (k or 1, N, T, T)."""
    if q_PTD.dtype.itemsize >= 4:
        mask_PTT = mask.to(q_PTD.dtype).flatten(0, 1)
        mask_PTT = mask_PTT.expand(len(q_PTD) // len(mask_PTT), *mask_PTT.shape).reshape(-1, *mask_PTT.shape[1:])
        return torch.baddbmm(mask_PTT, q_PTD, k_PTD.transpose(1, 2), alpha=scale).softmax(-1)
    # As under autocast, products are rounded to the small format, and sums and softmax are not.
    logits_PTT = torch.baddbmm(q_PTD.new_empty(()), q_PTD, k_PTD.transpose(1, 2), beta=0, alpha=scale)
    logits = logits_PTT.view(-1, *mask.shape) + mask.float()  # (images or all windows, k or 1, N, T, T)
    return logits.softmax(-1).to(q_PTD.dtype).view(logits_PTT.shape)


def _backward_part(qkv_part: Tensor, grad_PTD: Tensor, weights_PTT: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Gradients of queries, keys and values (3, P, T, D) of some windows, and of their logits (P, T, T)."""
    q_PTD, k_PTD, v_PTD = qkv_part
    grad_weights_PTT = torch.bmm(grad_PTD, v_PTD.transpose(1, 2))
    grad_logits_PTT = torch._softmax_backward_data(grad_weights_PTT, weights_PTT, -1, weights_PTT.dtype)
    grads = torch.empty_like(qkv_part)
    torch.baddbmm(grads[0], grad_logits_PTT, k_PTD, beta=0, alpha=scale, out=grads[0])
    torch.baddbmm(grads[1], grad_logits_PTT.transpose(1, 2), q_PTD, beta=0, alpha=scale, out=grads[1])
    torch.bmm(weights_PTT.transpose(1, 2), grad_PTD, out=grads[2])
    return grads, grad_logits_PTT


def _split(rows: Tensor, places: Tensor, count: int, heads: int, tokens: int) -> Tensor:
    """Gather tokens (k*T,) of images (b, H*W, count*N*D) and sort them by window and head: (count, P, T, D)."""
    x = rows.index_select(1, places).view(-1, tokens, count, heads, rows.shape[-1] // (count * heads))
    return x.permute(2, 0, 3, 1, 4).reshape(count, -1, tokens, x.shape[-1])


def _join(x: Tensor, heads: int, rows: int) -> Tensor:
    """Undo `_split` but for the gather: (count, P, T, D) to (b, rows = k*T, count*N*D)."""
    count, _, tokens, dim = x.shape
    return x.view(count, -1, heads, tokens, dim).permute(1, 3, 0, 2, 4).reshape(-1, rows, count * heads * dim)


def _one(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _windows_at_once(bias_NTT: Tensor) -> int:
    return max(1, PART_BYTES // (bias_NTT.numel() * 4))


def _groups(batch: int, tokens: int, bias_NTT: Tensor) -> list[slice]:
    """The images that are worked on at a time: one, or several small ones."""
    step = max(1, _windows_at_once(bias_NTT) * bias_NTT.shape[-1] // tokens)
    return [slice(first, first + step) for first in range(0, batch, step)]


def _parts(
    grid: tuple[int, int], bias_NTT: Tensor, window: int, shift: tuple[int, int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The windows of an image, a few at a time: the places of their tokens (k*T,) and their additive mask (k or 1, N,
    T, T)."""
    places_KT, _ = _token_order(*grid, window, shift, bias_NTT.device)
    step = _windows_at_once(bias_NTT)
    for first in range(0, len(places_KT), step):
        part = slice(first, first + step)
        mask = bias_NTT[None]
        if any(shift):
            mask = mask + shift_mask(*grid, window, shift, bias_NTT.device)[part, None]
        yield places_KT[part].flatten(), mask


@lru_cache(maxsize=64)
def _token_order(
    height: int, width: int, window: int, shift: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The place in the image of each token of each window (K, T), and the place in the windows of each token (H*W,)."""
    with torch.inference_mode(False):
        places = torch.arange(height * width, device=device).view(1, height, width)
        places_KT = partition(places.roll((-shift[0], -shift[1]), dims=(1, 2)), window)[0]
        return places_KT, places_KT.flatten().argsort()

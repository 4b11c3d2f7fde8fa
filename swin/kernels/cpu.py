"""Window attention for CPUs.

Inference hands the windows to torch's fused attention; training works on a few windows at a time, so that logits and
weights stay in the cache, with a backward pass written by hand.

Legend: B images, H W grid, M window side, T = M*M tokens a window, K windows an image, V = B*K windows, v windows of a
part, N heads, D head dim, P = v*N.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from swin.kernels.sdpa import attend_masked
from swin.kernels.windows import combined_bias

# Bytes of the float32 logits that are worked on at a time: about what a core's second-level cache holds.
PART_BYTES = 2**20


def cpu_attend_windows(
    qkv_VT3ND: Tensor,
    bias_NTT: Tensor,
    grid: tuple[int, int],
    window: int,
    shift: tuple[int, int],
    scale: float,
) -> Tensor:
    """See `swin.kernels.ATTEND_WINDOWS`."""
    if torch.is_grad_enabled() and (qkv_VT3ND.requires_grad or bias_NTT.requires_grad):
        return _Attention.apply(qkv_VT3ND, bias_NTT, grid, window, shift, scale)
    V, T, _, N, D = qkv_VT3ND.shape
    # The fused attention works window by window itself: a part need only have a mask that fits.
    step = V if not any(shift) else max(grid[0] * grid[1] // T, _windows_at_once(bias_NTT))
    parts = _parts(V, step, bias_NTT, grid, window, shift)
    out = [attend_masked(qkv_VT3ND[part], mask, scale) for part, mask in parts]
    return (out[0] if len(out) == 1 else torch.cat(out)).reshape(V, T, N * D)


class _Attention(torch.autograd.Function):
    """(qkv (V, T, 3, N, D), bias (N, T, T)) to (V, T, N*D)."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        bias_NTT: Tensor,
        grid: tuple[int, int],
        window: int,
        shift: tuple[int, int],
        scale: float,
    ) -> Tensor:
        V, T, _, N, D = qkv.shape
        out = qkv.new_empty(V, T, N, D)
        kept = []  # in small pieces, which the allocator has at hand; instead of `qkv`, which is as large
        with torch.autocast(qkv.device.type, enabled=False):
            for part, mask in _parts(V, _windows_at_once(bias_NTT), bias_NTT, grid, window, shift):
                qkv_part = _by_head(qkv[part])
                weights_PTT = _weights(qkv_part[0], qkv_part[1], mask, scale)
                out[part] = torch.bmm(weights_PTT, qkv_part[2]).view(-1, N, T, D).transpose(1, 2)
                kept += [qkv_part, weights_PTT]
        ctx.save_for_backward(bias_NTT, *kept)
        ctx.scale = scale
        return out.view(V, T, N * D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        bias_NTT, *kept = ctx.saved_tensors
        N, T, _ = bias_NTT.shape
        grads = grad.unflatten(-1, (1, N, -1))  # (V, T, 1, N, D)
        V, D = len(grads), grads.shape[-1]
        grad_qkv = kept[0].new_empty(V, T, 3, N, D)
        grad_bias = torch.zeros_like(bias_NTT, dtype=torch.promote_types(bias_NTT.dtype, torch.float32))
        first = 0
        with torch.autocast(grad.device.type, enabled=False):
            for qkv_part, weights_PTT in zip(kept[::2], kept[1::2], strict=True):
                part = slice(first, first + len(weights_PTT) // N)
                first = part.stop
                grad_PTD = _by_head(grads[part])[0]
                grads_part, grad_logits_PTT = _backward_part(qkv_part, grad_PTD, weights_PTT, ctx.scale)
                grad_bias += grad_logits_PTT.view(-1, N, T, T).sum(0, dtype=grad_bias.dtype)
                grad_qkv[part] = grads_part.view(3, -1, N, T, D).permute(1, 3, 0, 2, 4)
        return grad_qkv, grad_bias.to(bias_NTT.dtype), None, None, None, None


def _by_head(x: Tensor) -> Tensor:
    """Windows (v, T, n, N, D) to (n, P, T, D)."""
    v, T, n, N, D = x.shape
    return x.permute(2, 0, 3, 1, 4).reshape(n, v * N, T, D)


def _weights(q_PTD: Tensor, k_PTD: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention weights (P, T, T) of some windows; mask (v or 1, N, T, T)."""
    logits_PTT = q_PTD.new_empty(*q_PTD.shape[:2], k_PTD.shape[1])
    logits = logits_PTT.view(-1, *mask.shape[1:])  # (v, N, T, T)
    if q_PTD.dtype.itemsize >= 4:
        logits.copy_(mask)
        return logits_PTT.baddbmm_(q_PTD, k_PTD.transpose(1, 2), alpha=scale).softmax(-1)
    # As under autocast, products are rounded to the small format, and sums and softmax are not.
    logits_PTT.baddbmm_(q_PTD, k_PTD.transpose(1, 2), beta=0, alpha=scale)
    return (logits + mask.float()).softmax(-1).to(q_PTD.dtype).view(logits_PTT.shape)


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


def _windows_at_once(bias_NTT: Tensor) -> int:
    return max(1, PART_BYTES // (bias_NTT.numel() * 4))


def _parts(
    V: int, step: int, bias_NTT: Tensor, grid: tuple[int, int], window: int, shift: tuple[int, int]
) -> Iterator[tuple[slice, Tensor]]:
    """The windows of all images, at most `step` at a time, and their additive mask (v or 1, N, T, T)."""
    if not any(shift):
        for first in range(0, V, step):
            yield slice(first, min(first + step, V)), bias_NTT[None]
        return
    mask_KNTT = combined_bias(bias_NTT, grid, window, shift)
    K = len(mask_KNTT)
    if step >= K:  # some whole images
        mask_KNTT = mask_KNTT.repeat(min(step, V) // K, 1, 1, 1)
        step = K = len(mask_KNTT)
    for image in range(0, V, K):
        for first in range(image, min(image + K, V), step):
            last = min(first + step, image + K, V)
            yield slice(first, last), mask_KNTT[first - image : last - image]

"""Shifted-window attention as one operation, with interchangeable backends.

Legend: B images, H W grid, C channels, window of M x L tokens, T = M*L, K windows an image, N heads, D head dim.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from swin.kernels.windows import MASKED, is_captured, partition, reverse, shift_mask

# CUDA's fused kernels for training number the batch by a grid's third axis, which goes up to 65,535.
MAX_BATCH = 65_535


def window_attention(
    x: Tensor,
    project: Callable[[Tensor], Tensor],
    bias_NTT: Tensor,
    window: tuple[int, int],
    shift: tuple[int, int] = (0, 0),
    *,
    scale: float | None = None,
    masked: float = MASKED,
    backend: str = "auto",
) -> Tensor:
    """Multi-head self-attention inside the windows of a grid: shift, partition, attend, reverse, shift back, as one.

    Args:
        x: tokens in image order, (B, H, W, C); H and W multiples of the window's.
        project: queries, keys and values of tokens that are sorted by window, (B, K, T, C) to (B, K, T, 3, N, D): there
            are three times as many of them to move as of the tokens.
        bias_NTT: relative-position bias, added to the logits of every window.
        window: height M and width L of a window, in tokens.
        shift: cyclic shift of the grid in (rows, columns), in tokens, each below the window's side. Tokens which the
            shift brings together from opposite borders do not see each other.
        scale: factor of the logits; 1/sqrt(D) if None.
        masked: what is added to the logits of pairs that do not see each other.
        backend: "auto", or a key of `BACKENDS`.

    Returns:
        (B, H, W, N*D) in image order, in the type of the projection.

    Source: section 3.2 of arXiv 2103.14030.
    """
    _, H, W, _ = x.shape
    assert H % window[0] == 0, f"grid {H} x {W} is not a multiple of the window {window}"
    assert W % window[1] == 0, f"grid {H} x {W} is not a multiple of the window {window}"
    additive = bias_NTT[None]
    if any(shift):
        x = x.roll((-shift[0], -shift[1]), dims=(1, 2))
        mask_KTT = shift_mask(H, W, window, shift, x.device, masked)
        additive = additive + mask_KTT[:, None].to(bias_NTT.dtype)  # (K, N, T, T)
    qkv_BKT3ND = project(partition(x, window))
    attend = BACKENDS[choose_backend(x.device) if backend == "auto" else backend]
    out_BKTND = attend(qkv_BKT3ND, additive, qkv_BKT3ND.shape[-1] ** -0.5 if scale is None else scale)
    out = reverse(out_BKTND.flatten(3), window, H, W)
    return out.roll(shift, dims=(1, 2)) if any(shift) else out


def choose_backend(device: torch.device) -> str:
    """The backend that "auto" means here: "sdpa", but on a CPU "eager" while gradients are recorded.

    A bias that learns rules out torch's fused attention for CPUs, and what torch does instead is slower than "eager".
    ONNX gets plain operations too, which engines fuse; torch's own way there from "sdpa" fails on its strides.
    """
    if torch.onnx.is_in_onnx_export():
        return "eager"
    return "eager" if device.type == "cpu" and torch.is_grad_enabled() and not is_captured() else "sdpa"


def _attend_eager(qkv_BKT3ND: Tensor, additive: Tensor, scale: float) -> Tensor:
    """The definition in plain operations, which the other backend must agree with; `additive` as for `_attend_sdpa`."""
    q_BKNTD, k_BKNTD, v_BKNTD = qkv_BKT3ND.permute(3, 0, 1, 4, 2, 5).unbind(0)
    weights_BKNTT = ((q_BKNTD * scale) @ k_BKNTD.transpose(-2, -1) + additive).softmax(dim=-1)
    return (weights_BKNTT.to(v_BKNTD.dtype) @ v_BKNTD).transpose(2, 3)


def _attend_sdpa(qkv_BKT3ND: Tensor, additive: Tensor, scale: float) -> Tensor:
    """Torch's scaled_dot_product_attention.

    Args:
        qkv_BKT3ND: queries, keys and values, sorted by window.
        additive: what is added to the logits, (1, N, T, T) or (K, N, T, T).
        scale: factor of the logits.

    Returns:
        (B, K, T, N, D).
    """
    B, K, T, _, N, _ = qkv_BKT3ND.shape
    additive = additive.to(qkv_BKT3ND.dtype)
    if len(additive) == 1 and (torch.compiler.is_exporting() or B * K <= MAX_BATCH):  # an exported batch is any number
        q, k, v = qkv_BKT3ND.flatten(0, 1).permute(2, 0, 3, 1, 4).unbind(0)  # (B*K, N, T, D)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=additive, scale=scale)
        return out.transpose(1, 2).unflatten(0, (-1, K))
    # An image's windows and heads share an axis, so that one mask (1, K*N, T, T) serves all images of the batch.
    additive = additive.expand(K, N, T, T).reshape(1, K * N, T, T)
    q, k, v = qkv_BKT3ND.permute(3, 0, 1, 4, 2, 5).flatten(2, 3).unbind(0)  # (B, K*N, T, D)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=additive, scale=scale)
    return out.unflatten(1, (K, N)).transpose(2, 3)


BACKENDS = {"eager": _attend_eager, "sdpa": _attend_sdpa}

"""Window attention through torch's scaled_dot_product_attention, bias and shift mask as its additive mask.

Legend: H W grid, T tokens a window, K windows an image, V windows of all images, N heads, D head dim.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from swin.kernels.windows import combined_bias

# CUDA's kernels for training number the batch by a grid's third axis, which goes up to 65,535.
MAX_BATCH = 65_535


def sdpa_attend_windows(
    qkv_VT3ND: Tensor,
    bias_NTT: Tensor,
    grid: tuple[int, int],
    window: int,
    shift: tuple[int, int],
    scale: float,
) -> Tensor:
    """See `swin.kernels.ATTEND_WINDOWS`."""
    V, T, _, N, D = qkv_VT3ND.shape
    additive = combined_bias(bias_NTT, grid, window, shift)
    if not any(shift) and (torch.compiler.is_exporting() or V <= MAX_BATCH):  # an exported batch is any number
        return attend_masked(qkv_VT3ND, additive[None], scale).reshape(V, T, N * D)
    # An image's windows and heads share an axis, so that one mask (K*N, T, T) serves all images of the batch.
    K = grid[0] * grid[1] // T
    additive = additive.to(qkv_VT3ND.dtype).expand(K, N, T, T).reshape(1, K * N, T, T)
    q, k, v = qkv_VT3ND.unflatten(0, (-1, K)).permute(3, 0, 1, 4, 2, 5).flatten(2, 3).unbind(0)  # (B, K*N, T, D)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=additive, scale=scale)
    return out.unflatten(1, (K, N)).transpose(2, 3).reshape(V, T, N * D)


def attend_masked(qkv_VT3ND: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention inside each window under an additive mask (V or 1, N, T, T): (V, T, N, D)."""
    q_VNTD, k_VNTD, v_VNTD = qkv_VT3ND.permute(2, 0, 3, 1, 4).unbind(0)
    attn_mask = mask.to(qkv_VT3ND.dtype)
    return F.scaled_dot_product_attention(q_VNTD, k_VNTD, v_VNTD, attn_mask=attn_mask, scale=scale).transpose(1, 2)

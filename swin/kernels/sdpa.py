"""Window attention through torch's scaled_dot_product_attention, bias and shift mask as its additive mask.

Legend: B images, H W grid, M window side, T = M*M tokens a window, K windows an image, N heads, D head dim.
"""

from torch import Tensor
from torch.nn import functional as F

from swin.kernels.windows import combined_bias, partition, reverse


def sdpa_window_attention(qkv: Tensor, bias_NTT: Tensor, window: int, shift: tuple[int, int], scale: float) -> Tensor:
    """See `swin.kernels.window_attention`."""
    B, H, W, _, N, D = qkv.shape
    if any(shift):
        qkv = qkv.roll((-shift[0], -shift[1]), dims=(1, 2))
    windows = partition(qkv, window)  # (B, K, T, 3, N, D)
    K, T = windows.shape[1:3]
    additive = combined_bias(bias_NTT, (H, W), window, shift).to(qkv.dtype)
    # Windows and heads share an axis, so that one mask (K*N, T, T) serves all images of the batch.
    additive = additive.expand(K, N, T, T).reshape(1, K * N, T, T)
    q, k, v = windows.permute(3, 0, 1, 4, 2, 5).reshape(3, B, K * N, T, D).unbind(0)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=additive, scale=scale)  # (B, K*N, T, D)
    out_BKTND = out.view(B, K, N, T, D).transpose(2, 3)
    out = reverse(out_BKTND, window, H, W).flatten(3)  # (B, H, W, N*D)
    if any(shift):
        out = out.roll(shift, dims=(1, 2))
    return out

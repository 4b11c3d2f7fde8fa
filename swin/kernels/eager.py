"""Window attention in plain PyTorch operations: the reference that every other backend must agree with.

Legend: B images, H W grid, M window side, T = M*M tokens a window, K windows an image, N heads, D head dim.
"""

from torch import Tensor

from swin.kernels.windows import partition, reverse, shift_mask


def eager_window_attention(qkv: Tensor, bias_NTT: Tensor, window: int, shift: tuple[int, int], scale: float) -> Tensor:
    """See `swin.kernels.window_attention`."""
    H, W = qkv.shape[1:3]
    if any(shift):
        qkv = qkv.roll((-shift[0], -shift[1]), dims=(1, 2))
    windows = partition(qkv, window)  # (B, K, T, 3, N, D)
    q_BKNTD, k_BKNTD, v_BKNTD = windows.permute(3, 0, 1, 4, 2, 5).unbind(0)
    scores_BKNTT = (q_BKNTD * scale) @ k_BKNTD.transpose(-2, -1) + bias_NTT
    if any(shift):
        scores_BKNTT = scores_BKNTT + shift_mask(H, W, window, shift, qkv.device)[:, None]  # (K, 1, T, T)
    out_BKNTD = scores_BKNTT.softmax(dim=-1).to(v_BKNTD.dtype) @ v_BKNTD
    out = reverse(out_BKNTD.transpose(2, 3), window, H, W).flatten(3)  # (B, H, W, N*D)
    if any(shift):
        out = out.roll(shift, dims=(1, 2))
    return out

"""Swin-MLP: the Swin Transformer with a matrix over the tokens of a window in the place of attention.

Legend: B images, H W grid, C channels, M window side, T = M*M tokens a window, K windows an image, N heads, D head dim.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swin.kernels.windows import partition, reverse
from swin.models.backbone import Backbone
from swin.models.layers import ResidualBlock, pad_to_multiple, shift_of


class SpatialMlp(nn.Module):
    """In (shifted) windows, a matrix over the tokens for each head, the same for all its channels.

    A shift pads the grid with zeros to all sides, up to a window that begins `shift_size` tokens within it; nothing is
    rolled. A grid that is not a multiple of the window is zero-padded before that.

    Source: the official code, which calls it a grouped convolution of width 1; that is the shape of its `weight`.
    """

    def __init__(self, num_heads: int, window_size: int, *, is_shifted: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift_size = window_size // 2 if is_shifted else 0
        tokens = window_size**2
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(num_heads * tokens, tokens, 1), std=0.02))
        self.bias = nn.Parameter(torch.zeros(num_heads * tokens))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        _, H, W, _ = x.shape
        M, N = self.window_size, self.num_heads
        x = pad_to_multiple(x, M, M)
        top, left = (M - shift if shift else 0 for shift in shift_of((x.shape[1], x.shape[2]), (M, M), self.shift_size))
        x = F.pad(x, (0, 0, left, -left % M, top, -top % M))
        windows_BKNTD = partition(x, (M, M)).unflatten(-1, (N, -1)).transpose(2, 3)
        weight_NTT, bias_NT1 = self.weight.view(N, M * M, M * M), self.bias.view(N, M * M, 1)
        mixed_BKNTD = weight_NTT @ windows_BKNTD + bias_NT1
        x = reverse(mixed_BKNTD.transpose(2, 3).flatten(3), (M, M), x.shape[1], x.shape[2])
        return x[:, top : top + H, left : left + W]


class SwinMlpBlock(ResidualBlock):
    """A matrix over the tokens of windows and an MLP; every second block of a stage has shifted windows."""

    spatial_mlp: SpatialMlp

    def __init__(self, *, window_size: int, dim: int, num_heads: int, index: int, **options: Any) -> None:
        mix = SpatialMlp(num_heads, window_size, is_shifted=index % 2 == 1)
        super().__init__("spatial_mlp", mix, dim=dim, **options)


class SwinMLP(Backbone):
    """Swin-MLP, for images of any size of at least one patch.

    Args:
        num_heads: matrices in each stage; each number must divide that stage's channels.
        window_size: side of a window in tokens; the official code makes it smaller for a smaller grid, and with it the
            parameters, where here the grid is padded.

    The other arguments are those of `swin.models.swin.SwinTransformer`.

    Raises:
        ConfigError: the numbers do not fit together.

    Source: the official repository, whose parameter names these are.
    """

    def __init__(
        self,
        *,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        ape: bool = False,
        patch_norm: bool = True,
        out_norms: bool = False,
        use_checkpoint: bool | Sequence[int] = False,
    ) -> None:
        block = partial(SwinMlpBlock, window_size=window_size, mlp_ratio=mlp_ratio, drop=drop_rate)
        super().__init__(
            [block] * len(depths),
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            num_classes=num_classes,
            embed_dim=embed_dim,
            depths=depths,
            num_heads=num_heads,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            ape=ape,
            patch_norm=patch_norm,
            out_norms=out_norms,
            use_checkpoint=use_checkpoint,
        )

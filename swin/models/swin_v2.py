"""Swin Transformer V2: cosine attention with a bias from an MLP, and norms at the end of each branch.

Legend: B images, H W grid, C channels, window of M x L tokens, T = M*L, K windows an image, N heads, D head dim.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swin.errors import ConfigError
from swin.kernels import window_attention
from swin.kernels.windows import cached, relative_coordinates, relative_position_index
from swin.models.backbone import Backbone
from swin.models.layers import ResidualBlock, check_backend, pad_to_multiple, shift_of

# The published weights were trained with it. Cosine attention's logits go up to 100 + 16, so that it is not always as
# good as minus infinity, and `swin.kernels.windows.MASKED` would not give the same numbers.
MASKED = -100.0

_MAX_LOG_SCALE = math.log(100)
_HIDDEN = 512  # of the MLP that makes the bias
_position_index, _coordinates = cached(relative_position_index), cached(relative_coordinates)


class CosineWindowAttention(nn.Module):
    """Multi-head self-attention in (shifted) windows by the cosine of queries and keys, with a bias from an MLP.

    No parameter's shape depends on the window. Along each axis it is as large as the grid where that is smaller, and
    is not shifted where there is one. A grid that is not a multiple of the window is zero-padded, as in V1.

    Args:
        pretrained_window_size: side of the window, in tokens, in which the weights learned what a distance means; 0 for
            the window at hand.

    Source: sections 3.2 and 3.3 of arXiv 2111.09883, and the official code, which has no bias of the keys, clamps the
    scale and lets the bias end in 16 times a sigmoid.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        *,
        is_shifted: bool = False,
        pretrained_window_size: int = 0,
        qkv_bias: bool = True,
        drop: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift_size = window_size // 2 if is_shifted else 0
        self.pretrained_window_size = pretrained_window_size
        self.backend = check_backend(backend)
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10)))
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.cpb_mlp = nn.Sequential(nn.Linear(2, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, num_heads, bias=False))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(drop)

    def window_of(self, height: int, width: int) -> tuple[int, int]:
        """The window (M, L) on a grid."""
        return min(self.window_size, height), min(self.window_size, width)

    def relative_position_bias(self, window: tuple[int, int]) -> Tensor:
        """The bias of every pair of tokens of a window: (N, T, T), from 0 to 16."""
        device, pretrained = self.logit_scale.device, self.pretrained_window_size
        reference = (pretrained, pretrained) if pretrained else window
        table_RN = self.cpb_mlp(_coordinates(window, reference, device).to(self.logit_scale.dtype))
        bias_TTN = F.embedding(_position_index(window, device), table_RN)
        return 16 * bias_TTN.permute(2, 0, 1).contiguous().sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        _, H, W, _ = x.shape
        window = self.window_of(H, W)
        x = pad_to_multiple(x, *window)
        shift = shift_of((x.shape[1], x.shape[2]), window, self.shift_size)
        bias_NTT = self.relative_position_bias(window)
        x = window_attention(x, self._project, bias_NTT, window, shift, scale=1.0, masked=MASKED, backend=self.backend)
        return self.drop(self.proj(x[:, :H, :W]))

    def _project(self, windows_BKTC: Tensor) -> Tensor:
        """Queries and keys of length 1, the queries times their head's scale, and values, (B, K, T, 3, N, D)."""
        qkv = self.qkv(windows_BKTC)
        if self.q_bias is not None and self.v_bias is not None:
            qkv = qkv + torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias)).to(qkv.dtype)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).unbind(3)  # (B, K, T, N, D)
        scale_N1 = self.logit_scale.clamp(max=_MAX_LOG_SCALE).exp()[:, 0]
        q, k = (F.normalize(each.float(), dim=-1) for each in (q, k))  # in float16 the length of small ones would be 0
        return torch.stack(((q * scale_N1).to(v.dtype), k.to(v.dtype), v), dim=3)


class SwinBlockV2(ResidualBlock):
    """Window attention and MLP, each followed by a LayerNorm within its residual connection.

    Both norms start at zero, so that a new block passes on what it gets. Every `extra_norm_every` blocks of a stage,
    what the block gives is normalised as well; 0 for none.

    Source: figure 1 of arXiv 2111.09883, and its section 4.1 for the extra norm of the largest models.
    """

    attn: CosineWindowAttention

    def __init__(
        self,
        make_attention: Callable[..., CosineWindowAttention],
        *,
        dim: int,
        num_heads: int,
        index: int,
        extra_norm_every: int = 0,
        **options: Any,
    ) -> None:
        super().__init__("attn", make_attention(dim, num_heads, is_shifted=index % 2 == 1), dim=dim, **options)
        has_extra_norm = extra_norm_every > 0 and (index + 1) % extra_norm_every == 0
        self.norm3 = nn.LayerNorm(dim) if has_extra_norm else None
        for norm in (self.norm1, self.norm2):
            nn.init.zeros_(norm.weight)

    def forward(self, x: Tensor, factors_2B: Tensor | None = None) -> Tensor:
        """As for `ResidualBlock`."""
        x = super().forward(x, factors_2B)
        return x if self.norm3 is None else self.norm3(x)

    def branch(self, norm: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
        """A branch of the block: what the layer makes of the tokens, normalised."""
        return norm(layer(x))


class SwinTransformerV2(Backbone):
    """Swin Transformer V2, for images of any size of at least one patch.

    Args:
        window_size: side of a window in tokens; on a smaller grid, that of the grid.
        pretrained_window_sizes: for each stage the window in which the weights learned what a distance means, where
            that is another one; 0 for the same, and so if None.
        extra_norm_every: every so many blocks of a stage, counted in each, normalise what they give; 0 for none. The
            huge and giant models have 6.

    The other arguments are those of `swin.models.swin.SwinTransformer`.

    Raises:
        ConfigError: the numbers do not fit together.

    Source: arXiv 2111.09883. Parameter names are those of the official repository's weights.
    """

    def __init__(
        self,
        *,
        img_size: int | Sequence[int] = 256,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 8,
        pretrained_window_sizes: Sequence[int] | None = None,
        extra_norm_every: int = 0,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        ape: bool = False,
        patch_norm: bool = True,
        out_norms: bool = False,
        use_checkpoint: bool | Sequence[int] = False,
        attention: str = "auto",
    ) -> None:
        pretrained = [0] * len(depths) if pretrained_window_sizes is None else pretrained_window_sizes
        if len(pretrained) != len(depths):
            raise ConfigError(
                f"pretrained_window_sizes {list(pretrained)} and depths {list(depths)} describe different numbers of "
                "stages; give both one value a stage."
            )
        attend = partial(CosineWindowAttention, window_size=window_size, qkv_bias=qkv_bias, drop=drop_rate)
        attend = partial(attend, backend=attention)
        block = partial(SwinBlockV2, mlp_ratio=mlp_ratio, drop=drop_rate, extra_norm_every=extra_norm_every)
        super().__init__(
            [partial(block, partial(attend, pretrained_window_size=side)) for side in pretrained],
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            num_classes=num_classes,
            embed_dim=embed_dim,
            depths=depths,
            num_heads=num_heads,
            norm_last=True,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            ape=ape,
            patch_norm=patch_norm,
            out_norms=out_norms,
            use_checkpoint=use_checkpoint,
        )
        self.pretrained_window_sizes = list(pretrained) if any(pretrained) else None

    def windows(self) -> list[tuple[int, int]]:
        """For each stage, at `img_size`, the side of its window and of that in which weights learned distances."""
        sides, grid = [], self.grid_size
        for stage in self.stages():
            attention = cast(SwinBlockV2, stage.blocks[0]).attn
            window = min(attention.window_of(*grid))
            sides.append((window, attention.pretrained_window_size or window))
            grid = (-(-grid[0] // 2), -(-grid[1] // 2))
        return sides

    def set_pretrained_windows(self, sizes: Sequence[int]) -> None:
        """Give each stage its one of `pretrained_window_sizes`."""
        self.pretrained_window_sizes = list(sizes)
        for stage, size in zip(self.stages(), sizes, strict=True):
            for block in stage.blocks:
                cast(SwinBlockV2, block).attn.pretrained_window_size = size

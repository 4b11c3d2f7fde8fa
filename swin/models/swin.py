"""The Swin Transformer: its window attention and its block.

Legend: B images, H W grid, C channels, M window side, T = M*M tokens a window, K windows an image, N heads, D head dim.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swin.kernels import window_attention
from swin.kernels.windows import relative_position_index
from swin.models.backbone import Backbone
from swin.models.layers import ResidualBlock, check_backend, pad_to_multiple, shift_of


class WindowAttention(nn.Module):
    """Multi-head self-attention in (shifted) windows, with a learned bias for each relative position and head.

    The table has one row a relative position, whatever the image; without `relative_bias` there is none. Heads are
    `head_dim` wide, by default dim / num_heads. A grid that is not a multiple of the window is zero-padded before the
    projection; the padding takes part in the attention and is cropped afterwards, as in the detection code of the
    paper and in torchvision. Along an axis with a single window there is no shift.

    Source: section 3.2 of arXiv 2103.14030.
    """

    relative_position_index: Tensor  # (T, T)

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        *,
        is_shifted: bool = False,
        head_dim: int | None = None,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        relative_bias: bool = True,
        drop: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        width = num_heads * (head_dim or dim // num_heads)
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift_size = window_size // 2 if is_shifted else 0
        self.scale = qk_scale
        self.backend = check_backend(backend)
        if relative_bias:
            self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, num_heads))
            self.register_buffer(
                "relative_position_index", relative_position_index((window_size, window_size)), persistent=False
            )
        else:
            self.register_parameter("relative_position_bias_table", None)
        self.qkv = nn.Linear(dim, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, dim)
        self.drop = nn.Dropout(drop)
        if relative_bias:
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def window_of(self, height: int, width: int) -> tuple[int, int]:
        """The window on a grid, in (rows, columns): the same on any."""
        return self.window_size, self.window_size

    def relative_position_bias(self) -> Tensor:
        """The bias of every pair of tokens of a window: (N, T, T), zeros where the model has no table."""
        if self.relative_position_bias_table is None:
            return self.qkv.weight.new_zeros(self.num_heads, self.window_size**2, self.window_size**2)
        bias_TTN = F.embedding(self.relative_position_index, self.relative_position_bias_table)
        return bias_TTN.permute(2, 0, 1).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        _, H, W, _ = x.shape
        window = self.window_of(H, W)
        x = pad_to_multiple(x, *window)
        shift = shift_of((x.shape[1], x.shape[2]), window, self.shift_size)
        bias_NTT = self.relative_position_bias()
        x = window_attention(x, self._project, bias_NTT, window, shift, scale=self.scale, backend=self.backend)
        return self.drop(self.proj(x[:, :H, :W]))

    def _project(self, windows_BKTC: Tensor) -> Tensor:
        """Queries, keys and values, (B, K, T, 3, N, D)."""
        return self.qkv(windows_BKTC).unflatten(-1, (3, self.num_heads, -1))


class SwinBlock(ResidualBlock):
    """Window attention and MLP; every second block of a stage has shifted windows."""

    attn: WindowAttention

    def __init__(
        self, make_attention: Callable[..., WindowAttention], *, dim: int, num_heads: int, index: int, **options: Any
    ) -> None:
        super().__init__("attn", make_attention(dim, num_heads, is_shifted=index % 2 == 1), dim=dim, **options)


class SwinTransformer(Backbone):
    """Swin Transformer V1, for images of any size of at least one patch.

    Args:
        img_size: size in pixels, one number or (height, width), that the absolute position embedding is made for.
            Nothing else depends on it.
        patch_size: side of a patch in pixels.
        in_chans: image channels.
        num_classes: outputs of the head; 0 for none (the model then returns the pooled features).
        embed_dim: channels C of the first stage; they double from stage to stage.
        depths: blocks in each stage.
        num_heads: attention heads in each stage; each must divide that stage's channels unless `head_dim` is given.
        head_dim: channels of a head; that stage's channels divided by its heads if None.
        merge_factors: side in tokens of the group that becomes one token after each stage but the last; all 2 if None.
        window_size: side of a window in tokens.
        mlp_ratio: hidden channels of the MLP, as a multiple.
        qkv_bias: whether queries, keys and values have a bias.
        qk_scale: factor of the attention logits; 1/sqrt(head dim) if None.
        relative_bias: add the relative position bias to the attention logits.
        drop_rate: dropout of embeddings, attention output and MLP, in [0, 1).
        drop_path_rate: stochastic depth of the last block, in [0, 1]; it grows linearly from 0 at the first.
        ape: add a learned absolute position embedding.
        patch_norm: LayerNorm after the patch embedding.
        out_norms: normalise each of the `feature_maps`, as the paper's detectors and segmenters do. Adds the layers
            `norm0`, `norm1`, ..., which the classifier does not use.
        use_checkpoint: recompute blocks in the backward pass to save memory; True, or the stages, from 0.
        attention: backend of `swin.kernels.window_attention`.

    Raises:
        ConfigError: the numbers do not fit together.

    Source: arXiv 2103.14030. Parameter names are those of the official repository's weights.
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
        head_dim: int | None = None,
        merge_factors: Sequence[int] | None = None,
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        relative_bias: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        ape: bool = False,
        patch_norm: bool = True,
        out_norms: bool = False,
        use_checkpoint: bool | Sequence[int] = False,
        attention: str = "auto",
    ) -> None:
        attend = partial(WindowAttention, window_size=window_size, head_dim=head_dim, drop=drop_rate, backend=attention)
        attend = partial(attend, qkv_bias=qkv_bias, qk_scale=qk_scale, relative_bias=relative_bias)
        super().__init__(
            [partial(SwinBlock, attend, mlp_ratio=mlp_ratio, drop=drop_rate)] * len(depths),
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            num_classes=num_classes,
            embed_dim=embed_dim,
            depths=depths,
            num_heads=num_heads,
            head_dim=head_dim,
            merge_factors=merge_factors,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            ape=ape,
            patch_norm=patch_norm,
            out_norms=out_norms,
            use_checkpoint=use_checkpoint,
        )

    @classmethod
    def from_layers(
        cls,
        hidden_dim: int = 96,
        layers: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        channels: int = 3,
        num_classes: int = 3,
        head_dim: int = 32,
        window_size: int = 7,
        downscaling_factors: Sequence[int] = (4, 2, 2, 2),
        relative_pos_embedding: bool = True,
        **options: Any,
    ) -> "SwinTransformer":
        """A model in the vocabulary of the einops implementation, swin-transformer-pytorch.

        Args:
            hidden_dim: channels of the first stage; they double from stage to stage.
            layers: blocks in each stage; any number, odd ones too.
            heads: attention heads in each stage; `heads * head_dim` need not be the stage's channels.
            channels: image channels.
            downscaling_factors: side of a patch in pixels, then of each group of merged tokens.
            relative_pos_embedding: add the relative position bias.
            options: further arguments of the class, such as `drop_path_rate`.

        Raises:
            ConfigError: the numbers do not fit together.
        """
        return cls(
            embed_dim=hidden_dim,
            depths=layers,
            num_heads=heads,
            head_dim=head_dim,
            in_chans=channels,
            num_classes=num_classes,
            window_size=window_size,
            patch_size=downscaling_factors[0],
            merge_factors=downscaling_factors[1:],
            relative_bias=relative_pos_embedding,
            **options,
        )

"""The parts of a Swin Transformer: patch embedding, window attention, MLP, block, patch merging, stage.

Legend: B images, H W grid, C channels, M window side, T = M*M tokens a window, K windows an image, N heads, D head dim.
Tokens stay in image order, (B, H, W, C), but inside the attention. Module and parameter names, and their order, are
those of the official weights.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from swin.errors import ConfigError
from swin.kernels import BACKENDS, window_attention
from swin.kernels.windows import relative_position_index


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zero-pad a grid (B, H, W, C) at the bottom and right until H and W are multiples of `multiple`."""
    _, H, W, _ = x.shape
    bottom, right = -H % multiple, -W % multiple
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x


class PatchEmbed(nn.Module):
    """Image to tokens: one linear projection of each patch. Pixels beyond the last whole patch are left out."""

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int, use_norm: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(embed_dim) if use_norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_chans, height, width) pixels to (B, H, W, C) tokens."""
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


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
        if backend not in ("auto", *BACKENDS):
            raise ConfigError(f"MODEL.ATTENTION is '{backend}'; expected one of: auto, {', '.join(BACKENDS)}.")
        width = num_heads * (head_dim or dim // num_heads)
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift_size = window_size // 2 if is_shifted else 0
        self.scale = qk_scale
        self.backend = backend
        if relative_bias:
            self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, num_heads))
            self.register_buffer("relative_position_index", relative_position_index(window_size), persistent=False)
        else:
            self.register_parameter("relative_position_bias_table", None)
        self.qkv = nn.Linear(dim, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, dim)
        self.drop = nn.Dropout(drop)
        if relative_bias:
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def relative_position_bias(self) -> Tensor:
        """The bias of every pair of tokens of a window: (N, T, T), zeros where the model has no table."""
        if self.relative_position_bias_table is None:
            return self.qkv.weight.new_zeros(self.num_heads, self.window_size**2, self.window_size**2)
        bias_TTN = F.embedding(self.relative_position_index, self.relative_position_bias_table)
        return bias_TTN.permute(2, 0, 1).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        _, H, W, _ = x.shape
        x = pad_to_multiple(x, self.window_size)
        shift, bias_NTT = self.shift_of(x.shape[1], x.shape[2]), self.relative_position_bias()
        x = window_attention(
            x, self._project, bias_NTT, self.window_size, shift, scale=self.scale, backend=self.backend
        )
        return self.drop(self.proj(x[:, :H, :W]))

    def shift_of(self, height: int, width: int) -> tuple[int, int]:
        """The shift of a padded grid in (rows, columns): none along an axis with a single window."""
        rows, columns = (0 if size <= self.window_size else self.shift_size for size in (height, width))
        return rows, columns

    def _project(self, windows_BKTC: Tensor) -> Tensor:
        """Queries, keys and values, (B, K, T, 3, N, D)."""
        return self.qkv(windows_BKTC).unflatten(-1, (3, self.num_heads, -1))


class Mlp(nn.Module):
    """Two linear layers with GELU between them, for each token."""

    def __init__(self, dim: int, hidden_dim: int, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class DropPath(nn.Module):
    """Stochastic depth: in training, a branch skips a fraction `p` of the images and is scaled up for the others.

    Source: arXiv 1603.09382, by image.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def draw(self, num_images: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
        """The branch's factor for each image, (num_images,) float32: 0 or 1 / (1 - p); 1 where nothing is dropped."""
        factors = torch.ones(num_images, device=device)
        if self.training and self.p > 0:
            factors.bernoulli_(1 - self.p, generator=generator).div_(max(1 - self.p, 1e-12))
        return factors

    def forward(self, x: Tensor, factors_B: Tensor | None) -> Tensor:
        """Scale a branch (B, H, W, C) by what `draw` gave, or by factors drawn now if None."""
        if not self.training or self.p == 0:
            return x
        factors_B = self.draw(len(x), x.device) if factors_B is None else factors_B
        return x * factors_B.to(x.dtype).view(-1, 1, 1, 1)


class SwinBlock(nn.Module):
    """Window attention and MLP, each after a LayerNorm and around a residual connection (equation 3 of the paper)."""

    def __init__(self, dim: int, attention: WindowAttention, mlp_ratio: float, drop: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attention
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)

    def forward(self, x: Tensor, factors_2B: Tensor | None = None) -> Tensor:
        """(B, H, W, C) to (B, H, W, C). `factors_2B` are those of `DropPath` for the two branches; None draws them."""
        first_B, second_B = (None, None) if factors_2B is None else factors_2B
        x = x + self.drop_path(self.attn(self.norm1(x)), first_B)
        return x + self.drop_path(self.mlp(self.norm2(x)), second_B)


class PatchMerging(nn.Module):
    """Join each f x f group of tokens: (B, H, W, C) to (B, ceil(H/f), ceil(W/f), 2C); ragged grids are zero-padded.

    The f*f tokens are concatenated column by column, which for 2 x 2 is the order of the official weights.
    """

    def __init__(self, dim: int, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.reduction = nn.Linear(factor**2 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(factor**2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        f = self.factor
        x = pad_to_multiple(x, f)
        B, H, W, C = x.shape
        x = x.view(B, H // f, f, W // f, f, C).permute(0, 1, 3, 4, 2, 5)  # (B, H/f, W/f, column, row, C)
        return self.reduction(self.norm(x.reshape(B, H // f, W // f, f * f * C)))


class SwinStage(nn.Module):
    """Blocks at one resolution, every second one shifted by half a window, then the way down to the next.

    Args:
        dim: channels C.
        make_attention: attention of a block, whose windows are shifted if `is_shifted`.
        mlp_ratio: hidden channels of the MLP, as a multiple.
        drop: dropout of the MLP, in [0, 1).
        drop_paths: stochastic depth of each block, in [0, 1]; as many values as there are blocks.
        downsample: the way to the next stage; None for the last.
    """

    def __init__(
        self,
        dim: int,
        make_attention: Callable[..., WindowAttention],
        mlp_ratio: float,
        drop: float,
        drop_paths: Sequence[float],
        downsample: nn.Module | None,
    ) -> None:
        super().__init__()
        self.use_checkpoint = False  # recompute blocks in the backward pass
        self.blocks = nn.ModuleList(
            SwinBlock(dim, make_attention(is_shifted=index % 2 == 1), mlp_ratio, drop, drop_path)
            for index, drop_path in enumerate(drop_paths)
        )
        self.downsample = downsample

    def forward(self, x: Tensor, drop_paths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, H, W, C) to (the stage's own map (B, H, W, C), the next stage's input); `drop_paths` as for the model."""
        for index, block in enumerate(self.blocks):
            factors_2B = None if drop_paths is None else drop_paths[index]
            if self.use_checkpoint and self.training:
                # The reentrant variant breaks DDP and gives frozen inputs no gradient.
                x = checkpoint(block, x, factors_2B, use_reentrant=False)
            else:
                x = block(x, factors_2B)
        return x, x if self.downsample is None else self.downsample(x)

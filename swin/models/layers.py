"""The parts that the members of the family share: patch embedding, MLP, stochastic depth, patch merging, stage.

Legend: B images, H W grid, C channels. Tokens stay in image order, (B, H, W, C), but inside the windows. Module and
parameter names, and their order, are those of the official weights.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from swin.errors import ConfigError
from swin.kernels import BACKENDS


def pad_to_multiple(x: Tensor, height: int, width: int) -> Tensor:
    """Zero-pad a grid (B, H, W, C) at the bottom and right until H and W are multiples of `height` and `width`."""
    _, H, W, _ = x.shape
    bottom, right = -H % height, -W % width
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x


def shift_of(grid: tuple[int, int], window: tuple[int, int], shift_size: int) -> tuple[int, int]:
    """The shift of a padded grid in (rows, columns): none along an axis with a single window."""
    rows, columns = (0 if size <= side else shift_size for size, side in zip(grid, window, strict=True))
    return rows, columns


def check_backend(backend: str) -> str:
    """Return the name of a backend of attention.

    Raises:
        ConfigError: there is none of this name.
    """
    if backend not in ("auto", *BACKENDS):
        raise ConfigError(f"MODEL.ATTENTION is '{backend}'; expected one of: auto, {', '.join(BACKENDS)}.")
    return backend


class PatchEmbed(nn.Module):
    """Image to tokens: one linear projection of each patch. Pixels beyond the last whole patch are left out."""

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int, use_norm: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(embed_dim) if use_norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_chans, height, width) pixels to (B, H, W, C) tokens."""
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


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


class ResidualBlock(nn.Module):
    """What mixes the tokens of windows, and an MLP, each after a LayerNorm and around a residual connection.

    Source: equation 3 of arXiv 2103.14030.

    Args:
        name: what the weights call the mixing.
        mix: (B, H, W, C) to the same, as attention.
        dim: channels C.
        mlp_ratio: hidden channels of the MLP, as a multiple.
        drop: dropout of the MLP, in [0, 1).
        drop_path: stochastic depth, in [0, 1].
    """

    def __init__(self, name: str, mix: nn.Module, *, dim: int, mlp_ratio: float, drop: float, drop_path: float) -> None:
        super().__init__()
        self.mixing = name
        self.norm1 = nn.LayerNorm(dim)
        self.add_module(name, mix)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)

    def forward(self, x: Tensor, factors_2B: Tensor | None = None) -> Tensor:
        """(B, H, W, C) to (B, H, W, C). `factors_2B` are those of `DropPath` for the two branches; None draws them."""
        first_B, second_B = (None, None) if factors_2B is None else factors_2B
        x = x + self.drop_path(self.branch(self.norm1, self.get_submodule(self.mixing), x), first_B)
        return x + self.drop_path(self.branch(self.norm2, self.mlp, x), second_B)

    def branch(self, norm: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
        """A branch of the block: what the layer makes of normalised tokens."""
        return layer(norm(x))


class PatchMerging(nn.Module):
    """Join each f x f group of tokens: (B, H, W, C) to (B, ceil(H/f), ceil(W/f), 2C); ragged grids are zero-padded.

    The f*f tokens are concatenated column by column, which for 2 x 2 is the order of the official weights. They are
    normalised before they are reduced to 2C channels, or `norm_last`, as in Swin V2, after it.
    """

    def __init__(self, dim: int, factor: int = 2, *, norm_last: bool = False) -> None:
        super().__init__()
        self.factor = factor
        self.norm_last = norm_last
        self.reduction = nn.Linear(factor**2 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(2 * dim if norm_last else factor**2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        f = self.factor
        x = pad_to_multiple(x, f, f)
        B, H, W, C = x.shape
        x = x.view(B, H // f, f, W // f, f, C).permute(0, 1, 3, 4, 2, 5)  # (B, H/f, W/f, column, row, C)
        x = x.reshape(B, H // f, W // f, f * f * C)
        return self.norm(self.reduction(x)) if self.norm_last else self.reduction(self.norm(x))


class SwinStage(nn.Module):
    """Blocks at one resolution, every second one with shifted windows, then the way down to the next.

    Args:
        blocks: (B, H, W, C) to the same, with the `factors_2B` of `DropPath` for their two branches, or None.
        downsample: the way to the next stage; None for the last.
    """

    def __init__(self, blocks: Iterable[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.use_checkpoint = False  # recompute blocks in the backward pass
        self.blocks = nn.ModuleList(blocks)
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

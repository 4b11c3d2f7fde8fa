"""What all members of the Swin family are: a hierarchy of stages of window blocks, and a classifier.

Legend: B images, H W grid of patches, C = embed_dim channels.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swin.errors import ConfigError
from swin.models.layers import DropPath, PatchEmbed, PatchMerging, SwinStage


class Backbone(nn.Module):
    """A hierarchical model for images of any size of at least one patch; a member of the family says what a block is.

    Args:
        make_block: for each stage, what makes a block (see `SwinStage`) of `dim`, `num_heads`, `index` in the stage and
            `drop_path` rate. The windows of odd ones are shifted.
        merge_factors: side in tokens of the group that becomes one token after each stage but the last; all 2 if None.
        norm_last: as of `PatchMerging`.

    The other arguments are those of `swin.models.swin.SwinTransformer`.

    Raises:
        ConfigError: the numbers do not fit together.
    """

    classes: list[str] | None = None  # names, in the order of the outputs
    eval_transform_args: dict[str, Any] | None = None  # see `swin.inference_model`
    frozen_parts: Sequence[str] = ()  # names of modules, set by `swin.models.freeze`

    def __init__(
        self,
        make_block: Sequence[Callable[..., nn.Module]],
        *,
        img_size: int | Sequence[int],
        patch_size: int,
        in_chans: int,
        num_classes: int,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        head_dim: int | None = None,
        merge_factors: Sequence[int] | None = None,
        norm_last: bool = False,
        drop_rate: float,
        drop_path_rate: float,
        ape: bool,
        patch_norm: bool,
        out_norms: bool,
        use_checkpoint: bool | Sequence[int],
    ) -> None:
        super().__init__()
        merge_factors = [2] * (len(depths) - 1) if merge_factors is None else merge_factors
        _check_stages(embed_dim, depths, num_heads, head_dim, merge_factors)
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])
        self.grid_size = (self.img_size[0] // patch_size, self.img_size[1] // patch_size)
        self.num_classes = num_classes
        self.num_features = embed_dim * 2 ** (len(depths) - 1)
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim, patch_norm)
        self.absolute_pos_embed = _position_embedding(*self.grid_size, embed_dim) if ape else None
        self.pos_drop = nn.Dropout(drop_rate)
        drop_paths = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        self.layers = nn.ModuleList()
        for stage, depth in enumerate(depths):
            dim = embed_dim * 2**stage
            factors = merge_factors[stage : stage + 1]
            downsample = PatchMerging(dim, factors[0], norm_last=norm_last) if factors else None
            blocks = (
                make_block[stage](dim=dim, num_heads=num_heads[stage], index=index, drop_path=next(drop_paths))
                for index in range(depth)
            )
            self.layers.append(SwinStage(blocks, downsample))
        self.set_checkpointing(use_checkpoint)
        self.norm = nn.LayerNorm(self.num_features)
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.out_norms = out_norms
        for stage in range(len(depths)) if out_norms else ():
            self.add_module(f"norm{stage}", nn.LayerNorm(embed_dim * 2**stage))
        self.apply(_init_weights)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of all parts but the frozen ones, whose dropout and stochastic depth stay off."""
        super().train(mode)
        for name in self.frozen_parts:
            self.get_submodule(name).eval()
        return self

    def draw_drop_paths(self, num_images: int, generator: torch.Generator) -> Tensor | None:
        """Draw which images skip which branches in training, apart from the forward pass and on any device.

        Args:
            num_images: all B that an update sees, however they are divided.
            generator: the source of the draws, on its device.

        Returns:
            `drop_paths` of `forward` for all of them, (sum(depths), 2, num_images); None if nothing is ever dropped.
        """
        paths = [module for module in self.modules() if isinstance(module, DropPath)]
        if not any(path.training and path.p > 0 for path in paths):
            return None
        draws = [path.draw(num_images, generator.device, generator) for path in paths for _ in range(2)]
        return torch.stack(draws).view(len(paths), 2, num_images)

    def forward(self, images: Tensor, drop_paths: Tensor | None = None) -> Tensor:
        """Classify.

        Args:
            images: (B, in_chans, height, width), normalised.
            drop_paths: what `draw_drop_paths` gave for these images, on their device; None to draw it here. Of no
                effect in evaluation.

        Returns:
            Logits (B, num_classes).
        """
        return self.classify(self.forward_features(images, drop_paths))

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, num_classes) of what `forward_features` gave."""
        return self.head(features.mean(dim=(1, 2)))

    def forward_features(
        self,
        images: Tensor,
        drop_paths: Tensor | None = None,
        replace: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Normalised tokens of the last stage: (B, H/8, W/8, 8C) for the usual four stages on H x W patches.

        Args:
            images: as for `forward`, like `drop_paths`.
            replace: what is done to the embedded patches (B, H, W, C) before they get their positions.
        """
        x = self._embed(images, replace)
        first = 0
        for stage in self.stages():
            last = first + len(stage.blocks)
            _, x = stage(x, None if drop_paths is None else drop_paths[first:last])
            first = last
        return self.norm(x)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """One map a stage, (B, C_i, H_i, W_i): strides 4, 8, 16, 32 with patches of 4 pixels and four stages.

        Images may be of any size. With `out_norms` the channels of each map are normalised.
        """
        x = self._embed(images)
        maps = []
        for index, stage in enumerate(self.stages()):
            own, x = stage(x)
            if self.out_norms:
                own = self.get_submodule(f"norm{index}")(own)
            maps.append(own.permute(0, 3, 1, 2).contiguous())
        return maps

    def stages(self) -> list[SwinStage]:
        """The stages, first to last."""
        return cast(list[SwinStage], list(self.layers))

    def set_checkpointing(self, stages: bool | Sequence[int]) -> None:
        """Recompute the blocks of some stages, counted from 0, in the backward pass; of all, or none, by a bool."""
        for index, stage in enumerate(self.stages()):
            stage.use_checkpoint = stages if isinstance(stages, bool) else index in stages

    def _embed(self, images: Tensor, replace: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        x = self.patch_embed(images)  # (B, H, W, C)
        x = x if replace is None else replace(x)
        if self.absolute_pos_embed is not None:
            position = self.absolute_pos_embed.view(1, *self.grid_size, -1)
            if x.shape[1:3] != position.shape[1:3]:
                position = F.interpolate(position.permute(0, 3, 1, 2), x.shape[1:3], mode="bicubic").permute(0, 2, 3, 1)
            x = x + position
        return self.pos_drop(x)


def _position_embedding(height: int, width: int, dim: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, height * width, dim), std=0.02))


def _check_stages(
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    head_dim: int | None,
    merge_factors: Sequence[int],
) -> None:
    if len(depths) != len(num_heads):
        raise ConfigError(
            f"depths {list(depths)} and num_heads {list(num_heads)} describe different numbers of stages; "
            "give both one value a stage."
        )
    if len(merge_factors) != len(depths) - 1:
        raise ConfigError(
            f"{len(depths)} stages need {len(depths) - 1} merge factors after the patches, found "
            f"{list(merge_factors)}; give one value for each stage but the last."
        )
    for stage, heads in enumerate(num_heads):
        if head_dim is None and (embed_dim * 2**stage) % heads:
            raise ConfigError(
                f"stage {stage} has {embed_dim * 2**stage} channels, which {heads} heads do not divide; "
                f"change embed_dim ({embed_dim}) or num_heads ({list(num_heads)})."
            )


def _init_weights(module: nn.Module) -> None:
    """The official initialisation: linear weights from a normal of 0.02 cut at +-2, biases zero, norms identity."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

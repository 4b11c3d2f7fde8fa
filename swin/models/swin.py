"""The Swin Transformer: backbone and classifier.

Legend: B images, H W grid of patches, C = embed_dim channels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swin.errors import ConfigError
from swin.models.layers import DropPath, PatchEmbed, PatchMerging, SwinStage, WindowAttention


class SwinTransformer(nn.Module):
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

    classes: list[str] | None = None  # names, in the order of the outputs
    eval_transform_args: dict[str, Any] | None = None  # see `swin.inference_model`
    frozen_parts: Sequence[str] = ()  # names of modules, set by `swin.models.freeze`

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
        attend = partial(WindowAttention, window_size=window_size, head_dim=head_dim, drop=drop_rate, backend=attention)
        attend = partial(attend, qkv_bias=qkv_bias, qk_scale=qk_scale, relative_bias=relative_bias)
        self.layers = _make_stages(
            embed_dim, depths, num_heads, merge_factors, attend, mlp_ratio, drop_rate, drop_path_rate
        )
        self.set_checkpointing(use_checkpoint)
        self.norm = nn.LayerNorm(self.num_features)
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.out_norms = out_norms
        for stage in range(len(depths)) if out_norms else ():
            self.add_module(f"norm{stage}", nn.LayerNorm(embed_dim * 2**stage))
        self.apply(_init_weights)

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

    def train(self, mode: bool = True) -> "SwinTransformer":
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

    def forward_features(self, images: Tensor, drop_paths: Tensor | None = None) -> Tensor:
        """Normalised tokens of the last stage: (B, H/8, W/8, 8C) for the usual four stages on H x W patches."""
        x = self._embed(images)
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

    def _embed(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images)  # (B, H, W, C)
        if self.absolute_pos_embed is not None:
            position = self.absolute_pos_embed.view(1, *self.grid_size, -1)
            if x.shape[1:3] != position.shape[1:3]:
                position = F.interpolate(position.permute(0, 3, 1, 2), x.shape[1:3], mode="bicubic").permute(0, 2, 3, 1)
            x = x + position
        return self.pos_drop(x)


def _position_embedding(height: int, width: int, dim: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, height * width, dim), std=0.02))


def _make_stages(
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    merge_factors: Sequence[int],
    make_attention: Callable[..., WindowAttention],
    mlp_ratio: float,
    drop: float,
    drop_path_rate: float,
) -> nn.ModuleList:
    drop_paths = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
    stages = nn.ModuleList()
    for stage, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
        dim = embed_dim * 2**stage
        downsample = PatchMerging(dim, merge_factors[stage]) if stage < len(merge_factors) else None
        own_paths, drop_paths = drop_paths[:depth], drop_paths[depth:]
        stages.append(SwinStage(dim, partial(make_attention, dim, heads), mlp_ratio, drop, own_paths, downsample))
    return stages


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

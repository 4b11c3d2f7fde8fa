"""The one table of model variants, and models made by name or from a config."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from swin.config import Config
from swin.errors import ConfigError
from swin.models.swin import SwinTransformer


@dataclass(frozen=True)
class Variant:
    """One published model and its result.

    Attributes:
        embed_dim: channels of the first stage.
        depths: blocks in each stage.
        num_heads: heads in each stage.
        window_size: side of a window in tokens.
        img_size: side of an image in pixels.
        drop_path_rate: stochastic depth of the recipe.
        num_classes: outputs of the head.
        official: name in the official repository; empty where it has none.
        top1: published accuracy in percent, None where there is none; top5 likewise.
        gflops: published multiply-adds, in 1e9, of the official repository; 0 where there are none.
        mmpretrain_gflops: the same as mmpretrain counts them.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int = 7
    img_size: int = 224
    drop_path_rate: float = 0.2
    num_classes: int = 1000
    official: str = ""
    top1: float | None = None
    top5: float | None = None
    gflops: float = 0.0
    mmpretrain_gflops: float = 0.0

    def arguments(self) -> dict[str, Any]:
        """Arguments of `SwinTransformer`."""
        names = inspect.signature(SwinTransformer).parameters
        return {name: value for name, value in vars(self).items() if name in names}


_CLASSES_22K = 21_841

_TINY = Variant(96, (2, 2, 6, 2), (3, 6, 12, 24), gflops=4.5, mmpretrain_gflops=4.36)
_SMALL = Variant(96, (2, 2, 18, 2), (3, 6, 12, 24), gflops=8.7, mmpretrain_gflops=8.52)
_BASE = Variant(128, (2, 2, 18, 2), (4, 8, 16, 32), gflops=15.4, mmpretrain_gflops=15.14)
_LARGE = Variant(192, (2, 2, 18, 2), (6, 12, 24, 48), gflops=34.5, mmpretrain_gflops=34.04)
_BASE_384 = replace(_BASE, window_size=12, img_size=384, gflops=47.1, mmpretrain_gflops=44.49)
_LARGE_384 = replace(_LARGE, window_size=12, img_size=384, gflops=103.9, mmpretrain_gflops=100.04)


def _variant(
    base: Variant, official: str = "", top: tuple[float, float | None] | None = None, **changes: Any
) -> Variant:
    """A row of the table; `top` is (top-1, top-5)."""
    top1, top5 = top or (None, None)
    return replace(base, official=official, top1=top1, top5=top5, **changes)


def _variant_22k(base: Variant, official: str, **changes: Any) -> Variant:
    # FLOPs are published for 1,000 classes.
    return _variant(base, official, num_classes=_CLASSES_22K, gflops=0.0, mmpretrain_gflops=0.0, **changes)


# Source: tables 1 and 7 of arXiv 2103.14030, the official repository's configs and model list, mmpretrain's for CUB.
# Each name with a recipe is the name of its file in configs/.
VARIANTS: dict[str, Variant] = {
    "swin_tiny": _variant(_TINY, "swin_tiny_patch4_window7_224", (81.2, 95.5)),
    "swin_tiny_22k": _variant_22k(_TINY, "swin_tiny_patch4_window7_224_22k", drop_path_rate=0.1),
    "swin_tiny_22kto1k": _variant(
        _TINY, "swin_tiny_patch4_window7_224_22kto1k_finetune", (80.9, 96.0), drop_path_rate=0.1
    ),
    "swin_tiny_c24_256": _variant(
        _TINY,
        "swin_tiny_c24_patch4_window8_256",
        (81.6, 95.7),
        num_heads=(4, 8, 16, 32),
        window_size=8,
        img_size=256,
        gflops=5.9,
        mmpretrain_gflops=0.0,
    ),
    "swin_small": _variant(_SMALL, "swin_small_patch4_window7_224", (83.2, 96.2), drop_path_rate=0.3),
    "swin_small_22k": _variant_22k(_SMALL, "swin_small_patch4_window7_224_22k"),
    "swin_small_22kto1k": _variant(_SMALL, "swin_small_patch4_window7_224_22kto1k_finetune", (83.2, 97.0)),
    "swin_base": _variant(_BASE, "swin_base_patch4_window7_224", (83.5, 96.5), drop_path_rate=0.5),
    "swin_base_384": _variant(_BASE_384, "swin_base_patch4_window12_384_finetune", (84.5, 97.0), drop_path_rate=0.5),
    "swin_base_22k": _variant_22k(_BASE, "swin_base_patch4_window7_224_22k"),
    "swin_base_384_22k": _variant_22k(_BASE_384, "swin_base_patch4_window12_384_22k"),
    "swin_base_22kto1k": _variant(_BASE, "swin_base_patch4_window7_224_22kto1k_finetune", (85.2, 97.5)),
    "swin_base_384_22kto1k": _variant(_BASE_384, "swin_base_patch4_window12_384_22kto1k_finetune", (86.4, 98.0)),
    "swin_large": _variant(_LARGE, "swin_large_patch4_window7_224"),
    "swin_large_384": _variant(_LARGE_384, "swin_large_patch4_window12_384"),
    "swin_large_22k": _variant_22k(_LARGE, "swin_large_patch4_window7_224_22k"),
    "swin_large_384_22k": _variant_22k(_LARGE_384, "swin_large_patch4_window12_384_22k"),
    "swin_large_22kto1k": _variant(_LARGE, "swin_large_patch4_window7_224_22kto1k_finetune", (86.3, 97.9)),
    "swin_large_384_22kto1k": _variant(_LARGE_384, "swin_large_patch4_window12_384_22kto1k_finetune", (87.3, 98.2)),
    "swin_large_384_cub200": _variant(_LARGE_384, top=(91.87, None), num_classes=200, gflops=0.0),
}


def _spellings(official: str) -> Iterator[str]:
    """The official name, that of its weight file, and timm's, such as swin_base_patch4_window7_224.ms_in22k_ft_in1k."""
    stem = official.removesuffix("_finetune")
    yield from (official, stem)
    for suffix, tag in (("_22kto1k", "ms_in22k_ft_in1k"), ("_22k", "ms_in22k"), ("", "ms_in1k")):
        if stem.endswith(suffix):
            yield f"{stem.removesuffix(suffix)}.{tag}"
            return


_ALIASES = {spelling: name for name, row in VARIANTS.items() if row.official for spelling in _spellings(row.official)}


def list_models(pattern: str = "*") -> list[str]:
    """Names that match a shell pattern such as "swin_base*": this project's, then the official repository's.

    `create_model` also knows the names of the official weight files (without "_finetune") and timm's.
    """
    official = [row.official for row in VARIANTS.values() if row.official]
    return [name for name in (*VARIANTS, *official) if fnmatchcase(name, pattern)]


def find_variant(name: str) -> Variant:
    """The variant of a name in any of the spellings.

    Raises:
        ConfigError: unknown name.
    """
    variant = VARIANTS.get(_ALIASES.get(name, name))
    if variant is None:
        near = get_close_matches(name, (*VARIANTS, *_ALIASES), n=1, cutoff=0.0)
        raise ConfigError(
            f"there is no model '{name}'; did you mean '{near[0]}'? Known are {', '.join(VARIANTS)}, "
            "and their names in the official repository and in timm."
        )
    return variant


def create_model(name: str, *, pretrained: str | Path | None = None, **changes: Any) -> SwinTransformer:
    """A model by name.

    Its attribute `eval_transform_args` says how `swin.inference_model` turns images into its input.

    Args:
        name: one of `list_models()`, or the same model's name in timm.
        pretrained: weight file to start from; None for a fresh initialisation.
        changes: arguments of `SwinTransformer` to set or to put in place of the variant's, such as num_classes,
            img_size, in_chans or drop_path_rate.

    Raises:
        ConfigError: unknown name or argument, or numbers that do not fit together.
        CheckpointError: the weight file cannot be used.
    """
    variant = find_variant(name)
    known = inspect.signature(SwinTransformer).parameters
    for argument in changes:
        if argument not in known:
            near = get_close_matches(argument, known, n=1, cutoff=0.0)
            raise ConfigError(f"create_model has no argument '{argument}'; did you mean '{near[0]}'?")
    model = SwinTransformer(**{**variant.arguments(), **changes})
    model.eval_transform_args = eval_transform_args(model)
    if pretrained is not None:
        from swin.weights import load_weights

        load_weights(model, pretrained)
    return model


def eval_transform_args(model: SwinTransformer) -> dict[str, Any]:
    """Arguments of `swin.preprocess.make_eval_transform` for images of a published model.

    Models for 384 px and more see the whole image. Channels that are not red, green and blue get ImageNet's mean and
    deviation over all three.
    """
    channels = model.patch_embed.proj.in_channels
    grey = {} if channels == 3 else {"mean": (0.449,) * channels, "std": (0.226,) * channels}
    return {"crop": max(model.img_size) < 384, "channels": channels, **grey}


def build_model(cfg: Config, num_classes: int) -> SwinTransformer:
    """The model that a config describes, with `num_classes` outputs."""
    swin = cfg.MODEL.SWIN
    img_size: int | Sequence[int] = cfg.DATA.IMG_SIZE
    return SwinTransformer(
        img_size=img_size,
        patch_size=swin.PATCH_SIZE,
        in_chans=swin.IN_CHANS,
        num_classes=num_classes,
        embed_dim=swin.EMBED_DIM,
        depths=swin.DEPTHS,
        num_heads=swin.NUM_HEADS,
        window_size=swin.WINDOW_SIZE,
        mlp_ratio=swin.MLP_RATIO,
        qkv_bias=swin.QKV_BIAS,
        qk_scale=swin.QK_SCALE,
        drop_rate=cfg.MODEL.DROP_RATE,
        drop_path_rate=cfg.MODEL.DROP_PATH_RATE,
        ape=swin.APE,
        patch_norm=swin.PATCH_NORM,
        use_checkpoint=cfg.TRAIN.USE_CHECKPOINT,
        attention=cfg.MODEL.ATTENTION,
    )

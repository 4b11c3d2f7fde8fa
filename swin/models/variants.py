"""The one table of model variants, and models made by name or from a config."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from swin.config import Config
from swin.errors import ConfigError
from swin.models.swin import SwinTransformer


@dataclass(frozen=True)
class Variant:
    """Numbers of one published model: channels, blocks and heads a stage, window, image size, stochastic depth."""

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int = 7
    img_size: int = 224
    drop_path_rate: float = 0.2


_TINY = Variant(96, (2, 2, 6, 2), (3, 6, 12, 24))
_SMALL = Variant(96, (2, 2, 18, 2), (3, 6, 12, 24), drop_path_rate=0.3)
_BASE = Variant(128, (2, 2, 18, 2), (4, 8, 16, 32), drop_path_rate=0.5)
_LARGE = Variant(192, (2, 2, 18, 2), (6, 12, 24, 48))

# Source: tables 1 and 7 of arXiv 2103.14030 and the official repository's configs.
VARIANTS: dict[str, Variant] = {
    "swin_tiny": _TINY,
    "swin_small": _SMALL,
    "swin_base": _BASE,
    "swin_base_384": replace(_BASE, window_size=12, img_size=384),
    "swin_large": _LARGE,
    "swin_large_384": replace(_LARGE, window_size=12, img_size=384),
}


def list_models(pattern: str = "*") -> list[str]:
    """Names that `create_model` knows, those that match a shell pattern such as "swin_base*"."""
    return sorted(name for name in VARIANTS if fnmatch(name, pattern))


def create_model(name: str, *, pretrained: str | Path | None = None, **changes: Any) -> SwinTransformer:
    """A model by name.

    Args:
        name: one of `list_models()`.
        pretrained: weight file to start from; None for a fresh initialisation.
        changes: arguments of `SwinTransformer` to set or to put in place of the variant's.

    Raises:
        ConfigError: unknown name.
        CheckpointError: the weight file cannot be used.
    """
    if name not in VARIANTS:
        near = get_close_matches(name, VARIANTS, n=1, cutoff=0.0)
        raise ConfigError(f"there is no model '{name}'; did you mean '{near[0]}'? Known: {', '.join(list_models())}.")
    model = SwinTransformer(**{**vars(VARIANTS[name]), **changes})
    if pretrained is not None:
        from swin.weights import load_weights

        load_weights(model, pretrained)
    return model


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

"""The one table of model variants, and their names here, in the official repository and in timm."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from swin.errors import ConfigError


@dataclass(frozen=True)
class Variant:
    """One published model and its result.

    Attributes:
        embed_dim: like the others down to `num_classes`, the argument of the family's class.
        img_size: side of an image in pixels.
        drop_path_rate: stochastic depth of the recipe.
        family: what the config calls it, as MODEL.TYPE.
        more: arguments that only the family has.
        official: name in the official repository; empty where it has none.
        top1: published accuracy in percent, None where there is none; top5 likewise.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int = 7
    img_size: int = 224
    drop_path_rate: float = 0.2
    num_classes: int = 1000
    family: str = "swin"
    more: Mapping[str, Any] = field(default_factory=dict)
    official: str = ""
    top1: float | None = None
    top5: float | None = None

    @property
    def shape(self) -> dict[str, Any]:
        """The arguments that make the architecture and its windows."""
        return {name: getattr(self, name) for name in _SHAPE} | dict(self.more)


_SHAPE = ("embed_dim", "depths", "num_heads", "window_size")
_TINY = Variant(96, (2, 2, 6, 2), (3, 6, 12, 24))
_SMALL = Variant(96, (2, 2, 18, 2), (3, 6, 12, 24))
_BASE = Variant(128, (2, 2, 18, 2), (4, 8, 16, 32))
_LARGE = Variant(192, (2, 2, 18, 2), (6, 12, 24, 48))
_TINY_C24 = replace(_TINY, num_heads=(4, 8, 16, 32), window_size=8, img_size=256)
_BASE_384, _LARGE_384 = (replace(base, window_size=12, img_size=384) for base in (_BASE, _LARGE))
_V2: dict[str, Any] = {"family": "swinv2", "window_size": 8, "img_size": 256}
_V2_TINY, _V2_SMALL, _V2_BASE, _V2_LARGE = (replace(base, **_V2) for base in (_TINY, _SMALL, _BASE, _LARGE))
_V2_22K: dict[str, Any] = {"window_size": 12, "img_size": 192, "num_classes": 21_841}
_FROM_192 = {"pretrained_window_sizes": (12, 12, 12, 6)}
_TO_256: dict[str, Any] = {"window_size": 16, "more": _FROM_192}
_TO_384: dict[str, Any] = {"window_size": 24, "img_size": 384, "more": _FROM_192}
_V2_HUGE = replace(_V2_BASE, embed_dim=352, num_heads=(8, 16, 32, 64), **_V2_22K, more={"extra_norm_every": 6})
_V2_GIANT = replace(_V2_HUGE, embed_dim=512, depths=(2, 2, 42, 4), num_heads=(16, 32, 64, 128))
_MLP_TINY = replace(_TINY_C24, family="swin_mlp")


def _row(base: Variant, official: str, top1: float | None = None, top5: float | None = None, **changes: Any) -> Variant:
    return replace(base, official=official, top1=top1, top5=top5, **changes)


# Source: tables 1 and 7 of arXiv 2103.14030, table 2 of arXiv 2111.09883, the official repository's configs and model
# list, mmpretrain's for CUB and for the shapes of the huge and giant models.
# Each name with a recipe is the name of its file in configs/.
VARIANTS: dict[str, Variant] = {
    "swin_tiny": _row(_TINY, "swin_tiny_patch4_window7_224", 81.2, 95.5),
    "swin_tiny_22k": _row(_TINY, "swin_tiny_patch4_window7_224_22k", num_classes=21_841, drop_path_rate=0.1),
    "swin_tiny_22kto1k": _row(_TINY, "swin_tiny_patch4_window7_224_22kto1k_finetune", 80.9, 96.0, drop_path_rate=0.1),
    "swin_tiny_c24_256": _row(_TINY_C24, "swin_tiny_c24_patch4_window8_256", 81.6, 95.7),
    "swin_small": _row(_SMALL, "swin_small_patch4_window7_224", 83.2, 96.2, drop_path_rate=0.3),
    "swin_small_22k": _row(_SMALL, "swin_small_patch4_window7_224_22k", num_classes=21_841),
    "swin_small_22kto1k": _row(_SMALL, "swin_small_patch4_window7_224_22kto1k_finetune", 83.2, 97.0),
    "swin_base": _row(_BASE, "swin_base_patch4_window7_224", 83.5, 96.5, drop_path_rate=0.5),
    "swin_base_384": _row(_BASE_384, "swin_base_patch4_window12_384_finetune", 84.5, 97.0, drop_path_rate=0.5),
    "swin_base_22k": _row(_BASE, "swin_base_patch4_window7_224_22k", num_classes=21_841),
    "swin_base_384_22k": _row(_BASE_384, "swin_base_patch4_window12_384_22k", num_classes=21_841),
    "swin_base_22kto1k": _row(_BASE, "swin_base_patch4_window7_224_22kto1k_finetune", 85.2, 97.5),
    "swin_base_384_22kto1k": _row(_BASE_384, "swin_base_patch4_window12_384_22kto1k_finetune", 86.4, 98.0),
    "swin_large": _row(_LARGE, "swin_large_patch4_window7_224"),
    "swin_large_384": _row(_LARGE_384, "swin_large_patch4_window12_384"),
    "swin_large_22k": _row(_LARGE, "swin_large_patch4_window7_224_22k", num_classes=21_841),
    "swin_large_384_22k": _row(_LARGE_384, "swin_large_patch4_window12_384_22k", num_classes=21_841),
    "swin_large_22kto1k": _row(_LARGE, "swin_large_patch4_window7_224_22kto1k_finetune", 86.3, 97.9),
    "swin_large_384_22kto1k": _row(_LARGE_384, "swin_large_patch4_window12_384_22kto1k_finetune", 87.3, 98.2),
    "swin_large_384_cub200": _row(_LARGE_384, "", 91.87, num_classes=200),
    "swinv2_tiny": _row(_V2_TINY, "swinv2_tiny_patch4_window8_256", 81.8, 95.9),
    "swinv2_tiny_w16": _row(_V2_TINY, "swinv2_tiny_patch4_window16_256", 82.8, 96.2, window_size=16),
    "swinv2_small": _row(_V2_SMALL, "swinv2_small_patch4_window8_256", 83.7, 96.6, drop_path_rate=0.3),
    "swinv2_small_w16": _row(
        _V2_SMALL, "swinv2_small_patch4_window16_256", 84.1, 96.8, window_size=16, drop_path_rate=0.3
    ),
    "swinv2_base": _row(_V2_BASE, "swinv2_base_patch4_window8_256", 84.2, 96.9, drop_path_rate=0.5),
    "swinv2_base_w16": _row(
        _V2_BASE, "swinv2_base_patch4_window16_256", 84.6, 97.0, window_size=16, drop_path_rate=0.5
    ),
    "swinv2_base_22k": _row(_V2_BASE, "swinv2_base_patch4_window12_192_22k", **_V2_22K),
    "swinv2_base_22kto1k": _row(_V2_BASE, "swinv2_base_patch4_window12to16_192to256_22kto1k_ft", 86.2, 97.9, **_TO_256),
    "swinv2_base_384_22kto1k": _row(
        _V2_BASE, "swinv2_base_patch4_window12to24_192to384_22kto1k_ft", 87.1, 98.2, **_TO_384
    ),
    "swinv2_large_22k": _row(_V2_LARGE, "swinv2_large_patch4_window12_192_22k", **_V2_22K),
    "swinv2_large_22kto1k": _row(
        _V2_LARGE, "swinv2_large_patch4_window12to16_192to256_22kto1k_ft", 86.9, 98.0, **_TO_256
    ),
    "swinv2_large_384_22kto1k": _row(
        _V2_LARGE, "swinv2_large_patch4_window12to24_192to384_22kto1k_ft", 87.6, 98.3, **_TO_384
    ),
    "swinv2_huge_22k": _row(_V2_HUGE, ""),
    "swinv2_giant_22k": _row(_V2_GIANT, ""),
    "swin_mlp_tiny_c24": _row(_MLP_TINY, "swin_mlp_tiny_c24_patch4_window8_256", 79.4, 94.6),
    "swin_mlp_tiny_c12": _row(_MLP_TINY, "swin_mlp_tiny_c12_patch4_window8_256", 79.6, 94.7, num_heads=(8, 16, 32, 64)),
    "swin_mlp_tiny_c6": _row(_MLP_TINY, "swin_mlp_tiny_c6_patch4_window8_256", 79.7, 94.9, num_heads=(16, 32, 64, 128)),
    "swin_mlp_base": _row(
        replace(_BASE, family="swin_mlp"), "swin_mlp_base_patch4_window7_224", 81.3, 95.3, drop_path_rate=0.5
    ),
}


def _spellings(official: str) -> Iterator[str]:
    """The official name, that of its weight file, and timm's, such as swin_base_patch4_window7_224.ms_in22k_ft_in1k."""
    stem = official.removesuffix("_finetune").removesuffix("_ft")
    yield from (official, stem)
    tags = {"_22kto1k": "ms_in22k_ft_in1k", "_22k": "ms_in22k", "": "ms_in1k"}
    suffix = next(suffix for suffix in tags if stem.endswith(suffix))
    theirs = stem.removesuffix(suffix)
    yield f"{theirs.replace('_patch4', '') if theirs.startswith('swinv2') else theirs}.{tags[suffix]}"


# To the name here from that in the official repository, of its weight file, and in timm.
ALIASES = {spelling: name for name, row in VARIANTS.items() if row.official for spelling in _spellings(row.official)}


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
    variant = VARIANTS.get(ALIASES.get(name, name))
    if variant is None:
        near = get_close_matches(name, (*VARIANTS, *ALIASES), n=1, cutoff=0.0)
        raise ConfigError(
            f"there is no model '{name}'; did you mean '{near[0]}'? Known are {', '.join(VARIANTS)}, "
            "and their names in the official repository and in timm."
        )
    return variant


def name_architecture(family: str, arguments: Mapping[str, Any]) -> str | None:
    """The first variant of an architecture, given as family and arguments of its class; None if it is of none."""
    return next(
        (
            name
            for name, row in VARIANTS.items()
            if row.family == family and all(getattr(row, n) == arguments[n] for n in _SHAPE)
        ),
        None,
    )

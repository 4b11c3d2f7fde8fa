"""The one table of model variants, and their names here, in the official repository and in timm."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from swin.errors import ConfigError


@dataclass(frozen=True)
class Variant:
    """One published model and its result.

    Attributes:
        embed_dim: like the others down to `num_classes`, the argument of `SwinTransformer`.
        img_size: side of an image in pixels.
        drop_path_rate: stochastic depth of the recipe.
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
    official: str = ""
    top1: float | None = None
    top5: float | None = None


_TINY = Variant(96, (2, 2, 6, 2), (3, 6, 12, 24))
_SMALL = Variant(96, (2, 2, 18, 2), (3, 6, 12, 24))
_BASE = Variant(128, (2, 2, 18, 2), (4, 8, 16, 32))
_LARGE = Variant(192, (2, 2, 18, 2), (6, 12, 24, 48))
_TINY_C24 = replace(_TINY, num_heads=(4, 8, 16, 32), window_size=8, img_size=256)
_BASE_384, _LARGE_384 = (replace(base, window_size=12, img_size=384) for base in (_BASE, _LARGE))


def _row(base: Variant, official: str, top1: float | None = None, top5: float | None = None, **changes: Any) -> Variant:
    return replace(base, official=official, top1=top1, top5=top5, **changes)


# Source: tables 1 and 7 of arXiv 2103.14030, the official repository's configs and model list, mmpretrain's for CUB.
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
}


def _spellings(official: str) -> Iterator[str]:
    """The official name, that of its weight file, and timm's, such as swin_base_patch4_window7_224.ms_in22k_ft_in1k."""
    stem = official.removesuffix("_finetune")
    yield from (official, stem)
    tags = {"_22kto1k": "ms_in22k_ft_in1k", "_22k": "ms_in22k", "": "ms_in1k"}
    suffix = next(suffix for suffix in tags if stem.endswith(suffix))
    yield f"{stem.removesuffix(suffix)}.{tags[suffix]}"


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


def name_architecture(arguments: Mapping[str, Any]) -> str | None:
    """The first variant of an architecture, given as arguments of `SwinTransformer`; None if it is of none."""
    names = ("embed_dim", "depths", "num_heads", "window_size")
    return next((name for name, row in VARIANTS.items() if all(getattr(row, n) == arguments[n] for n in names)), None)

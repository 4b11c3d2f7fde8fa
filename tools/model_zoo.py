"""Print the table of models: size, cost, published accuracy and recipe.

python -m tools.model_zoo --format markdown
"""

import argparse
import sys
from collections.abc import Sequence
from functools import cache

import torch

from swin.config.sources import RECIPES
from swin.create import create_model
from swin.models import VARIANTS, count_flops, count_parameters
from swin.models.flops import count_module_flops

HEADER = (
    *("model", "image", "window", "parameters", "FLOPs", "FLOPs (mmpretrain)", "top-1", "top-5"),
    "recipes in configs/",
)
NOTES = (
    "FLOPs are multiply-adds of one image: first as the official repository counts them, then as mmpretrain does,\n"
    "which leaves out the products of the attention (Swin V1 alone). Accuracies are the published ones, in percent on\n"
    "ImageNet-1K, for swin_large_384_cub200 on CUB-200-2011. Recipes that end in _paper, _mmpretrain and _torchvision\n"
    "are other ways to the same model; their headers say what they give. Models without a recipe are there for\n"
    "published weights, swinv2_huge_22k and swinv2_giant_22k for the encoders of SimMIM's."
)


@cache  # counting takes seconds
def rows() -> list[tuple[str, ...]]:
    """One row of text a variant, in the order of `HEADER`; FLOPs and parameters are counted, not copied."""
    table: list[tuple[str, ...]] = []
    for name, variant in VARIANTS.items():
        with torch.device("meta"):  # counting needs no memory for the weights
            model = create_model(name)
        counts = (count_flops, count_module_flops if variant.family == "swin" else None)
        flops = (f"{count(model, *model.img_size) / 1e9:.2f}G" if count else "" for count in counts)
        sizes = (str(variant.img_size), str(variant.window_size), f"{count_parameters(model) / 1e6:.2f}M")
        accuracies = ("" if top is None else str(top) for top in (variant.top1, variant.top5))
        table.append((name, *sizes, *flops, *accuracies, ", ".join(recipes(name))))
    return table


def recipes(name: str) -> list[str]:
    """The recipe files of a variant: its own, then those of the paper's text and of other programs."""
    stems = (name, f"{name}_paper", f"{name}_mmpretrain", f"{name}_torchvision")
    return [f"{stem}.yaml" for stem in stems if (RECIPES / f"{stem}.yaml").is_file()]


def as_markdown() -> str:
    """The table as docs/models.md shows it."""
    lines = [HEADER, ("---",) * len(HEADER), *rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{NOTES}\n"


def as_text() -> str:
    """The table in aligned columns."""
    lines = [HEADER, *rows()]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    text = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return "\n".join(text) + f"\n\n{NOTES}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.model_zoo", description="Print the table of models.")
    parser.add_argument("--format", choices=("text", "markdown"), default="text", help="output (default: text)")
    sys.stdout.write(as_markdown() if parser.parse_args(argv).format == "markdown" else as_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())

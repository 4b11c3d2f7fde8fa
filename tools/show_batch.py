"""Draws what a model is fed: augmented training images with their mixed labels, in one PNG.

`python -m tools.show_batch --cfg FILE --data-path FOLDER --output batch.png`
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from data import build_data
from swin.errors import SwinError
from swin.images import to_image
from tools.arguments import data_parser, load_data_config

_COLUMNS, _CELL_PX, _TEXT_PX = 4, 224, 28


def draw_batch(images_BCHW: torch.Tensor, targets_BK: torch.Tensor, classes: Sequence[str]) -> Image.Image:
    """Draw images in rows, each above the names and fractions of its one or two largest targets.

    Args:
        images_BCHW: On a scale of 0 to 1.
        targets_BK: Fractions of the classes.
        classes: Their names.
    """
    count, height = len(images_BCHW), _CELL_PX + _TEXT_PX
    rows = -(-count // _COLUMNS)
    sheet = Image.new("RGB", (min(count, _COLUMNS) * _CELL_PX, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image_CHW, target_K) in enumerate(zip(images_BCHW, targets_BK, strict=True)):
        left, top = index % _COLUMNS * _CELL_PX, index // _COLUMNS * height
        shown_CHW = image_CHW[: 3 if len(image_CHW) >= 3 else 1]
        picture = to_image((shown_CHW.clamp(0, 1) * 255).round().to(torch.uint8)).convert("RGB")
        picture.thumbnail((_CELL_PX, _CELL_PX))
        scale = _CELL_PX // max(picture.size)
        size = picture.width * scale, picture.height * scale
        sheet.paste(picture.resize(size, Image.Resampling.NEAREST), (left, top))
        fractions, labels = target_K.topk(min(2, len(classes)))
        for line, (fraction, label) in enumerate(zip(fractions.tolist(), labels.tolist(), strict=True)):
            if fraction > 0:
                text = f"{fraction:.0%} {classes[label]}".encode("ascii", "replace").decode()
                draw.text((left + 2, top + _CELL_PX + 1 + 13 * line), text[:36], fill="black")
    return sheet


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return the exit status."""
    parser = data_parser("show_batch", __doc__, "AUG.MIXUP 0")
    parser.add_argument("--epoch", type=int, default=0, help="whose first images to show (default: 0)")
    parser.add_argument("--count", type=int, default=16, help="how many images (default: 16)")
    parser.add_argument("--output", type=Path, default=Path("batch.png"), help="PNG to write (default: batch.png)")
    options = parser.parse_args(arguments)
    try:
        cfg = load_data_config(options, NUM_WORKERS=0, BATCH_SIZE=options.count)
        data = build_data(cfg)
        assert data.train is not None
        batch = next(iter(data.train.epoch(options.epoch)))
    except SwinError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    images, targets = data.prepare(batch, torch.device("cpu"), cfg.SEED)
    if targets.ndim == 1:
        targets = torch.nn.functional.one_hot(targets, len(data.classes)).float()
    normalise = data.normalise
    draw_batch(images * normalise.std_C11 + normalise.mean_C11, targets, data.classes).save(options.output)
    print(f"{options.output}: {len(images)} images of epoch {options.epoch}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Draws what a model is fed: augmented training images with their mixed labels, in one PNG.

`python -m tools.show_batch --cfg FILE --data-path FOLDER --output batch.png`
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from data import build_data
from swin.errors import SwinError
from swin.pictures import draw_batch
from tools.arguments import data_parser, load_data_config


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
    draw_batch(data.normalise.undo(images), targets, data.classes).save(options.output)
    print(f"{options.output}: {len(images)} images of epoch {options.epoch}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""An exported file beside the model that it was made of: how far their outputs are apart, and what that changes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from swin.engines import Description, Engine
from swin.errors import CheckpointError
from swin.inputs import list_images
from swin.predictor import Predictor

BATCHES = (1, 3, 8)
# Engines add up in another order, which changes float32 logits by 1e-6. A wrong weight changes them by 1e-2 and more.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Comparison:
    """What a file and its model give for the same images.

    Attributes:
        difference: the largest between two logits.
        largest: the largest logit.
        changed: images whose first class is another one.
        images: how many were compared.
    """

    difference: float
    largest: float
    changed: int
    images: int

    def __str__(self) -> str:
        batches = ", ".join(map(str, BATCHES))
        return (
            f"largest difference of a logit {self.difference:.1e} (largest logit {self.largest:.1f}), first class "
            f"changed in {self.changed} of {self.images} images; in batches of {batches}"
        )


def read_pixels(predictor: Predictor, description: Description, folder: Path | None) -> tuple[Tensor, str]:
    """Return images as they are before they are normalised, uint8 (B, C, H, W), enough for all batches; and in words.

    Those of a folder, the first ones again where they are too few; else noise.

    Raises:
        DataError: the folder holds no images, or one of those that are taken cannot be read.
    """
    needed = sum(BATCHES)
    if folder is None:
        shape = (needed, description.channels, *description.size)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)), "noise"
    files = list_images(folder, description.channels)[:needed]
    resize = description.resize()
    images = [resize(predictor.read(file)) for file in files]
    return torch.stack([images[index % len(images)] for index in range(needed)]), f"{len(files)} images of {folder}"


def graph_input(pixels: Tensor, description: Description) -> Tensor:
    """Turn what `read_pixels` gives into what the graph takes."""
    return pixels if description.has_preprocessing else description.normalise()(pixels)


@torch.inference_mode()
def eager_logits(model: nn.Module, pixels: Tensor, description: Description) -> list[Tensor]:
    """Return the model's own logits of each batch, (b, K)."""
    return [model(batch).float() for batch in _batches(description.normalise()(pixels))]


def compare(engine: Engine, pixels: Tensor, expected: Sequence[Tensor]) -> Comparison:
    """Run a file on batches of several sizes.

    Raises:
        CheckpointError: outputs are not finite, or those of a file in float32 are further off than rounding explains.
    """
    description = engine.description
    found = [engine(batch) for batch in _batches(graph_input(pixels, description))]
    ours, theirs = torch.cat(list(expected)), torch.cat(found)
    changed = int((ours.argmax(dim=1) != theirs.argmax(dim=1)).sum())
    largest = float(ours.abs().max())
    if description.has_preprocessing and description.threshold is None:  # probabilities know no common constant
        ours, theirs = ours.log_softmax(dim=1), theirs.log_softmax(dim=1)
    difference = float((ours - theirs).abs().max())
    if not np.isfinite(difference):
        raise CheckpointError("the exported file gives values that are not finite; nothing was written.")
    if description.precision == "fp32" and difference > TOLERANCE * max(1.0, largest):
        raise CheckpointError(
            f"the exported file's logits differ by {difference:.1e} from the model's, whose largest is {largest:.1f}: "
            "the exporter has changed the model. Nothing was written; try another --to, or other versions of it."
        )
    return Comparison(difference, largest, changed, len(ours))


def _batches(images: Tensor) -> Iterator[Tensor]:
    begin = 0
    for size in BATCHES:
        yield images[begin : begin + size]
        begin += size

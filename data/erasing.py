"""Random erasing: where is drawn with the sample, the filling is done to the batch, on its device.

Source: Random Erasing Data Augmentation, arXiv 1708.04896; areas, shapes and tries as in timm.
"""

import math
import random
from dataclasses import dataclass
from typing import NamedTuple

import torch

MODES = ("pixel", "rand", "const")
_AREA = (0.02, 1 / 3)  # of the image, divided by the number of rectangles
_LOG_RATIO = (math.log(0.3), math.log(1 / 0.3))  # height / width
_TRIES = 10


class Rectangle(NamedTuple):
    """A part of an image to erase, and the seed of what it is filled with."""

    top: int
    left: int
    height: int
    width: int
    seed: int


@dataclass(frozen=True)
class RandomErasing:
    """Draws the rectangles to erase in an image of (height, width) from Python's generator."""

    prob: float  # of erasing anything
    max_count: int = 1  # most rectangles in an image

    def __call__(self, height: int, width: int) -> list[Rectangle]:
        if random.random() > self.prob:
            return []
        count = 1 if self.max_count == 1 else random.randint(1, self.max_count)
        drawn = (self._draw(height, width, count) for _ in range(count))
        return [rectangle for rectangle in drawn if rectangle is not None]

    def _draw(self, height: int, width: int, count: int) -> Rectangle | None:
        for _ in range(_TRIES):
            area = random.uniform(*_AREA) * height * width / count
            ratio = math.exp(random.uniform(*_LOG_RATIO))
            rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if rows < height and columns < width:
                top, left = random.randint(0, height - rows), random.randint(0, width - columns)
                return Rectangle(top, left, rows, columns, random.getrandbits(62))
        return None


@dataclass(frozen=True)
class RandomMask:
    """Draws which cells of an image of (height, width) a pre-training masks, from Python's generator."""

    cell: int  # side in pixels
    ratio: float  # of the cells

    def __call__(self, height: int, width: int) -> list[Rectangle]:
        rows, columns = height // self.cell, width // self.cell
        chosen = random.sample(range(rows * columns), math.ceil(self.ratio * rows * columns))
        places = (divmod(number, columns) for number in sorted(chosen))
        return [Rectangle(row * self.cell, column * self.cell, self.cell, self.cell, 0) for row, column in places]


def erase(images_BCHW: torch.Tensor, rectangles_N6: torch.Tensor, mode: str) -> None:
    """Erase in place, without making an accelerator wait.

    Args:
        images_BCHW: Normalised images, on any device.
        rectangles_N6: int64, on the CPU: the image's index in the batch, then a `Rectangle`.
        mode: pixel fills with normal noise, rand with one normal colour, const with zeros: the mean colour.
    """
    channels = images_BCHW.shape[1]
    generator = torch.Generator(images_BCHW.device)
    for index, top, left, height, width, seed in rectangles_N6.tolist():
        area = images_BCHW[index, :, top : top + height, left : left + width]
        if mode == "const":
            area.zero_()
            continue
        shape = (channels, height, width) if mode == "pixel" else (channels, 1, 1)
        area.copy_(torch.randn(shape, generator=generator.manual_seed(seed), device=images_BCHW.device))

"""How a worker turns the key of a sample into tensors, and a list of them into a batch."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import default_collate

from data.erasing import Rectangle
from data.samplers import derive_seed
from data.sources import Source
from swin.errors import DataError
from swin.images import Content

Size = tuple[int, int]  # (H, W) in pixels
Transform = Callable[[Content, str], tuple[torch.Tensor, Sequence[Rectangle]]]
_MAX_TRIES = 1000  # unreadable files in a row: then something else is wrong


class Key(NamedTuple):
    """Which sample is wanted, and how."""

    epoch: int
    sample: int  # its index in the source
    repeat: int = 0  # how often it has come in the epoch before
    img_size: Size | None = None  # None for the transform's own


class Sample(NamedTuple):
    """A decoded and transformed image."""

    pixels: torch.Tensor  # uint8 (C, H, W)
    label: np.integer | np.ndarray  # a row of the source's labels
    rectangles: Sequence[Rectangle]  # what to erase
    failures: list[str]  # why others were skipped before it
    taken: int  # which of the source's samples it is


class Samples(NamedTuple):
    """A batch of samples; the fields are those of `swin.batches.Batch`."""

    images: torch.Tensor
    labels: torch.Tensor
    rectangles: torch.Tensor
    failures: list[str]
    indices: list[int]


@dataclass
class ImageDataset(torch.utils.data.Dataset[Sample]):
    """Decoded and transformed samples, a batch of keys at a time.

    The transform's random numbers depend on the seed and the key alone, whichever process draws them, and the process's
    own generators are left as they were.
    """

    source: Source
    transform: Transform  # what the source reads, and its name, to uint8 (C, H, W) and what to erase
    seed: int | None = None  # None for a transform without random numbers
    skip_errors: bool = False  # take the next sample of the source in place of one that cannot be read
    resized: Mapping[Size, Transform] = field(default_factory=dict)  # the transforms of other sizes that keys ask for

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample] | str:
        """Return the samples, or why one cannot be read: the main process gets that text rather than a traceback."""
        states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
        try:
            return [self._load(*key) for key in keys]
        except DataError as error:
            return str(error)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.default_generator.set_state(states[2])

    def _load(self, epoch: int, index: int, repeat: int, img_size: Size | None) -> Sample:
        transform = self.transform if img_size is None else self.resized.get(img_size, self.transform)
        num_samples, failures = len(self.source.labels), list[str]()
        while True:
            taken = (index + len(failures)) % num_samples
            try:
                content = self.source.read(taken)
                if self.seed is not None:
                    _seed_generators(derive_seed(self.seed, epoch, taken, *([repeat] if repeat else [])))
                pixels, rectangles = transform(content, self.source.name(taken))
                return Sample(pixels, self.source.labels[taken], rectangles, failures, taken)
            except DataError as error:
                failures.append(str(error))
                if not self.skip_errors or len(failures) == min(num_samples, _MAX_TRIES):
                    raise


def _seed_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    # Not torch.manual_seed: it also queues a call for each accelerator, 100 us a sample and never freed in a worker.
    torch.default_generator.manual_seed(seed)


def collate(samples: list[Sample] | str) -> Samples | str:
    """Stack samples, or pass on why there are none."""
    if isinstance(samples, str):
        return samples
    # Stacked as they lie in memory, channels last: the device reorders them faster than a worker. In a worker it is
    # shared memory that they are stacked in, else they would be copied there afterwards.
    images_BHWC = default_collate([sample.pixels.permute(1, 2, 0) for sample in samples])
    rectangles = [(index, *rectangle) for index, sample in enumerate(samples) for rectangle in sample.rectangles]
    return Samples(
        images_BHWC.permute(0, 3, 1, 2),
        torch.from_numpy(np.stack([sample.label for sample in samples])),
        torch.tensor(rectangles, dtype=torch.int64).view(-1, 6),
        [failure for sample in samples for failure in sample.failures],
        [sample.taken for sample in samples],
    )

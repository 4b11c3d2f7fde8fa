"""Sets of labelled images, and how a worker turns the number of a sample into tensors."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image

from data.samplers import derive_seed
from swin.errors import DataError
from swin.preprocess import open_image, to_channels


class Names(Sequence[str]):
    """An immutable sequence of strings in two arrays.

    Workers share arrays with their parent process; of a list of strings each would end up with its own copy, since
    counting references writes to it.
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._stops = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._stops)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        start = int(self._stops[index - 1]) if index else 0
        return self._bytes[start : int(self._stops[index])].tobytes().decode("utf-8", "surrogateescape")


class Source(Protocol):
    """Labelled images by index."""

    labels: np.ndarray  # int64 (number of images,)

    def name(self, index: int) -> str:
        """Returns what logs and errors call an image."""

    def load(self, index: int, channels: int) -> Image.Image:
        """Decodes an image; raises DataError."""


class FolderImages:
    """Image files below a folder, by their paths relative to it."""

    def __init__(self, root: Path, names: Iterable[str], labels: np.ndarray) -> None:
        self.root = root
        self.names = Names(names)
        self.labels = labels

    def name(self, index: int) -> str:
        return str(self.root / self.names[index])

    def load(self, index: int, channels: int) -> Image.Image:
        return open_image(self.root / self.names[index], channels=channels)


class ArrayImages:
    """Grey images in memory.

    Args:
        images_NHW: uint8.
        labels: int64 (N,).
        names: One a picture.
    """

    def __init__(self, images_NHW: np.ndarray, labels: np.ndarray, names: Iterable[str]) -> None:
        self.images_NHW = images_NHW
        self.labels = labels
        self.names = Names(names)

    def name(self, index: int) -> str:
        return self.names[index]

    def load(self, index: int, channels: int) -> Image.Image:
        return to_channels(Image.fromarray(self.images_NHW[index]), channels)


@dataclass(frozen=True)
class Sets:
    """The two halves of a data set under one label map: label i means classes[i]."""

    classes: list[str]
    train: Source | None
    val: Source
    notes: tuple[str, ...] = ()  # what a user should be told


def check_known(found: Iterable[str], classes: Sequence[str], *, where: str | Path, origin: str) -> None:
    """Raises a DataError for the first class name that the label map does not have."""
    known = set(classes)
    for name in found:
        if name not in known:
            nearest = get_close_matches(name, classes, n=1, cutoff=0.0)
            hint = f"; the nearest of its {len(classes)} classes is {nearest[0]!r}" if nearest else ""
            raise DataError(f"{where}: class {name!r} is unknown to {origin}{hint}. Rename or remove it.")


class Failure(NamedTuple):
    """A sample that could not be read, on its way to the main process."""

    message: str


Key = tuple[int, int]  # epoch, index of the sample
Sample = tuple[torch.Tensor, int]  # image (C, H, W), label


class ImageDataset(torch.utils.data.Dataset[Sample]):
    """Decoded and transformed samples, a batch of keys at a time.

    The transform's random numbers depend on (seed, epoch, index) alone, whichever process draws them, and the process's
    own generators are left as they were.

    Args:
        source: The images.
        transform: Image to tensor (C, H, W).
        channels: 1, 3 or 4.
        seed: None for a transform without random numbers.
    """

    def __init__(
        self,
        source: Source,
        *,
        transform: Callable[[Image.Image], torch.Tensor],
        channels: int,
        seed: int | None,
    ) -> None:
        self.source = source
        self.transform = transform
        self.channels = channels
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source.labels)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        image = self.source.load(index, self.channels)
        if self.seed is not None:
            _seed_generators(derive_seed(self.seed, epoch, index))
        return self.transform(image), int(self.source.labels[index])

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample] | Failure:
        """Returns the samples, or the first failure, which travels to the main process without a traceback."""
        with _restored_generators():
            try:
                return [self[key] for key in keys]
            except DataError as error:
                return Failure(str(error))


def collate(samples: list[Sample] | Failure) -> tuple[torch.Tensor, torch.Tensor] | Failure:
    """Stacks samples into images (B, C, H, W) and labels (B,) int64; passes a failure on."""
    if isinstance(samples, Failure):
        return samples
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.tensor(labels, dtype=torch.int64)


def _seed_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    # Not torch.manual_seed: it also queues a call for each accelerator, 100 us a sample and never freed in a worker.
    torch.default_generator.manual_seed(seed)


@contextmanager
def _restored_generators() -> Iterator[None]:
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])

"""Sets of labelled images, and how a worker turns the number of a sample into tensors."""

import os
import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import default_collate

from data.erasing import Rectangle
from data.samplers import derive_seed
from swin.errors import DataError, printable
from swin.preprocess import open_input, read_file


class Names(Sequence[str]):
    """An immutable sequence of strings in two arrays.

    Workers share arrays with their parent process; of a list of strings each would end up with its own copy, since
    counting references writes to it.
    """

    def __init__(self, names: Iterable[str]) -> None:
        joined, stops = bytearray(), array("q")
        for name in names:
            joined += name.encode("utf-8", "surrogateescape")
            stops.append(len(joined))
        self.bytes = np.frombuffer(joined, dtype=np.uint8)
        self.stops = np.frombuffer(stops, dtype=np.int64)

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """Returns the names themselves if they are of this class, else in it."""
        return names if isinstance(names, cls) else cls(names)

    @classmethod
    def from_arrays(cls, name_bytes: np.ndarray, name_stops: np.ndarray) -> "Names":
        """Returns the names of another object's `bytes` and `stops`."""
        names = cls(())
        names.bytes, names.stops = name_bytes, name_stops
        return names

    def __len__(self) -> int:
        return len(self.stops)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        start = int(self.stops[index - 1]) if index else 0
        return self.bytes[start : int(self.stops[index])].tobytes().decode("utf-8", "surrogateescape")


class Source(Protocol):
    """Labelled images by index."""

    labels: np.ndarray  # int64 (number of images,)

    def name(self, index: int) -> str:
        """Returns what logs, lists and errors call an image: one printable line."""

    def read(self, index: int) -> bytes | Image.Image:
        """Returns the bytes of an image file, or an image; raises DataError."""


class FolderImages:
    """Image files below a folder, by their paths relative to it."""

    def __init__(self, root: Path, names: Iterable[str], labels: np.ndarray) -> None:
        self.root = root
        self.names = Names.of(names)
        self.labels = labels

    def name(self, index: int) -> str:
        return printable(os.path.join(self.root, self.names[index]))

    def read(self, index: int) -> bytes:
        return read_file(os.path.join(self.root, self.names[index]))


class ArrayImages:
    """Grey or RGB images in memory.

    Args:
        images_NHW: uint8, (N, H, W) or (N, H, W, 3).
        labels: int64 (N,).
        names: One a picture.
    """

    def __init__(self, images_NHW: np.ndarray, labels: np.ndarray, names: Iterable[str]) -> None:
        self.images_NHW = images_NHW
        self.labels = labels
        self.names = Names.of(names)

    def name(self, index: int) -> str:
        return self.names[index]

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self.images_NHW[index])


@dataclass(frozen=True)
class Sets:
    """The two halves of a data set under one label map: label i means classes[i].

    Raises:
        DataError: There is nothing to train on, or a class has a name that could not be printed, logged or saved.
    """

    classes: list[str]
    train: Source | None
    val: Source
    notes: tuple[str, ...] = ()  # what a user should be told
    split: dict[str, Any] | None = None  # of a share that is held out, what a run remembers

    def __post_init__(self) -> None:
        if self.train is not None and not len(self.train.labels):
            raise DataError("the training set holds no images; there is nothing to train on.")
        for name in self.classes:
            if printable(name) != name:
                raise DataError(f"class {name[:80]!r}: its name is not UTF-8, or holds a control character. Rename it.")


def check_known(found: Iterable[str], classes: Sequence[str], *, where: str | Path, origin: str) -> None:
    """Raises a DataError for the first class name that the label map does not have."""
    known = set(classes)
    for name in found:
        if name not in known:
            nearest = get_close_matches(name, classes, n=1, cutoff=0.0)
            hint = f"; the nearest of its {len(classes)} classes is {nearest[0][:80]!r}" if nearest else ""
            raise DataError(f"{where}: class {name[:80]!r} is unknown to {origin}{hint}. Rename or remove it.")


class Failure(NamedTuple):
    """A sample that could not be read, on its way to the main process."""

    message: str


Key = tuple[int, int, int]  # epoch, index of the sample, and how often it has come in the epoch before
_MAX_TRIES = 1000  # unreadable files in a row: then something else is wrong
Transform = Callable[[bytes | Image.Image, str], tuple[torch.Tensor, Sequence[Rectangle]]]


class Sample(NamedTuple):
    """A decoded and transformed image."""

    pixels: torch.Tensor  # uint8 (C, H, W)
    label: int
    rectangles: Sequence[Rectangle]  # what to erase
    failures: Sequence[str] = ()  # why others were skipped before it


class Samples(NamedTuple):
    """A batch of samples."""

    images: torch.Tensor  # uint8 (B, C, H, W)
    labels: torch.Tensor  # int64 (B,)
    rectangles: torch.Tensor  # int64 (N, 6): place in the batch, then a Rectangle
    failures: list[str]  # why images were skipped


class EvalPixels:
    """The transform of evaluation, which erases nothing.

    Args:
        resize: Image to uint8 (C, H, W).
        channels: See `swin.preprocess.open_input`.
        exif: Whether to turn images as their EXIF orientation says.
    """

    def __init__(
        self, resize: Callable[[Image.Image | torch.Tensor], torch.Tensor], *, channels: int = 3, exif: bool = False
    ) -> None:
        self.resize = resize
        self.channels = channels
        self.exif = exif

    def __call__(self, content: bytes | Image.Image, name: str) -> tuple[torch.Tensor, Sequence[Rectangle]]:
        if isinstance(content, bytes):
            return self.resize(open_input(content, channels=self.channels, name=name, exif=self.exif)), ()
        return self.resize(content), ()


class ImageDataset(torch.utils.data.Dataset[Sample]):
    """Decoded and transformed samples, a batch of keys at a time.

    The transform's random numbers depend on the seed and the key alone, whichever process draws them, and the process's
    own generators are left as they were.

    Args:
        source: The images.
        transform: (what the source reads, its name) to uint8 (C, H, W) and what to erase.
        seed: None for a transform without random numbers.
        skip_errors: Whether to take the next sample of the source in place of one that cannot be read.
    """

    def __init__(self, source: Source, *, transform: Transform, seed: int | None, skip_errors: bool = False) -> None:
        self.source = source
        self.transform = transform
        self.seed = seed
        self.skip_errors = skip_errors

    def __len__(self) -> int:
        return len(self.source.labels)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index, repeat = key
        failures: list[str] = []
        while True:
            try:
                return self._load(epoch, (index + len(failures)) % len(self), repeat)._replace(failures=failures)
            except DataError as error:
                failures.append(str(error))
                if not self.skip_errors or len(failures) == min(len(self), _MAX_TRIES):
                    raise

    def _load(self, epoch: int, index: int, repeat: int) -> Sample:
        content = self.source.read(index)
        if self.seed is not None:
            _seed_generators(derive_seed(self.seed, epoch, index, *([repeat] if repeat else [])))
        pixels, rectangles = self.transform(content, self.source.name(index))
        return Sample(pixels, int(self.source.labels[index]), rectangles)

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample] | Failure:
        """Returns the samples, or the first failure, which travels to the main process without a traceback."""
        with _restored_generators():
            try:
                return [self[key] for key in keys]
            except DataError as error:
                return Failure(str(error))


def collate(samples: list[Sample] | Failure) -> Samples | Failure:
    """Stacks samples, or passes a failure on."""
    if isinstance(samples, Failure):
        return samples
    # Stacked as they lie in memory, channels last: the device reorders them faster than a worker. In a worker it is
    # shared memory that they are stacked in, else they would be copied there afterwards.
    images_BHWC = default_collate([sample.pixels.permute(1, 2, 0) for sample in samples])
    rectangles = [(place, *rectangle) for place, sample in enumerate(samples) for rectangle in sample.rectangles]
    return Samples(
        images_BHWC.permute(0, 3, 1, 2),
        torch.tensor([sample.label for sample in samples], dtype=torch.int64),
        torch.tensor(rectangles, dtype=torch.int64).view(-1, 6),
        [failure for sample in samples for failure in sample.failures],
    )


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

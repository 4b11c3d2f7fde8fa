"""Where labelled images come from: files of a folder, or arrays; and the parts of a data set."""

import os
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from swin.errors import DataError, printable
from swin.files import open_regular, read_file
from swin.images import Content

_MAX_OPEN = 128  # files that a process keeps open of a source


@dataclass(frozen=True, eq=False)
class Names(Sequence[str]):
    """An immutable sequence of strings in two arrays.

    Workers share arrays with their parent process; of a list of strings each would end up with a copy, since counting
    references writes to it.
    """

    bytes: np.ndarray  # uint8: all strings in UTF-8, one after the other
    stops: np.ndarray  # int64: where each ends

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """Return the names themselves if they are of this class, else in it."""
        if isinstance(names, cls):
            return names
        collected = NameList()
        for name in names:
            collected.append(name)
        return collected.names()

    def __len__(self) -> int:
        return len(self.stops)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        start = int(self.stops[index - 1]) if index else 0
        return self.bytes[start : int(self.stops[index])].tobytes().decode("utf-8", "surrogateescape")


class NameList:
    """Collects strings for `Names`."""

    def __init__(self) -> None:
        self._joined, self._stops = bytearray(), array("q")

    def append(self, name: str) -> None:
        self._joined += name.encode("utf-8", "surrogateescape")
        self._stops.append(len(self._joined))

    def names(self) -> Names:
        """Return the strings; none can be added after that, since they are not copied."""
        return Names(np.frombuffer(self._joined, dtype=np.uint8), np.frombuffer(self._stops, dtype=np.int64))


class Source(Protocol):
    """Labelled images by index."""

    labels: np.ndarray  # int64 (N,); or uint8 (N, K), 1 for each of an image's labels, where it may have several

    @property
    def names(self) -> Sequence[str]:
        """What each image is called within its part: by these a held-out part is saved."""

    def name(self, index: int) -> str:
        """Return what logs, lists and errors call an image: one printable line."""

    def read(self, index: int) -> Content:
        """Return the bytes of an image file, or uint8 (H, W) or (H, W, C); raise a DataError if that fails."""


class OpenFiles:
    """Files kept open between reads. Each process opens them for itself: inherited ones would share their position."""

    def __init__(self) -> None:
        self._streams: OrderedDict[Path, BinaryIO] = OrderedDict()  # last used last
        self._pid = os.getpid()

    def get(self, path: Path) -> BinaryIO:
        """Return a file to seek in and read; raise an OSError where it cannot be opened."""
        if self._pid != os.getpid():  # forked: the parent goes on using, and closing, its own
            self._streams, self._pid = OrderedDict(), os.getpid()
        if path not in self._streams:
            if len(self._streams) >= _MAX_OPEN:
                self._streams.popitem(last=False)[1].close()
            self._streams[path] = open(open_regular(path), "rb")  # noqa: SIM115
        self._streams.move_to_end(path)
        return self._streams[path]

    def close(self) -> None:
        """Close this process's files; `get` opens them again."""
        while self._streams:
            self._streams.popitem()[1].close()

    __del__ = close

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return OpenFiles, ()  # for workers that are not forked


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
    """Images in memory.

    Args:
        images: uint8, (N, H, W) or (N, H, W, C).
        labels: int64 (N,).
        names: One an image.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, names: Iterable[str]) -> None:
        self.images = images
        self.labels = labels
        self.names = Names.of(names)

    def name(self, index: int) -> str:
        return self.names[index]

    def read(self, index: int) -> np.ndarray:
        return self.images[index]


class Subset:
    """Some images of a source.

    Args:
        source: The whole.
        indices: int64, of the images in the order to take them.
    """

    def __init__(self, source: Source, indices: np.ndarray) -> None:
        self.source = source
        self.indices = indices
        self.labels = source.labels[indices]
        self.names = Names.of(source.names[index] for index in indices.tolist())

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))

    def read(self, index: int) -> Content:
        return self.source.read(int(self.indices[index]))


def count_labels(labels: np.ndarray, num_classes: int) -> list[int]:
    """Return how many images have each label.

    Args:
        labels: int64 (N,), or uint8 (N, num_classes) of 0 and 1.
    """
    counts: np.ndarray = (
        np.bincount(labels, minlength=num_classes) if labels.ndim == 1 else labels.sum(0, dtype=np.int64)
    )
    return counts.tolist()


@dataclass(frozen=True)
class Opened:
    """Parts of a data set as a layout holds them, under one label map: label i means classes[i]."""

    classes: list[str]
    sources: dict[str, Source]  # by the parts' own names, as "Training"; "" for one that has no parts
    groups: dict[str, Sequence[str]] = field(default_factory=dict)  # of each image of a part, where the layout has them


@dataclass(frozen=True)
class Sets:
    """The splits of a data set under one label map: label i means classes[i].

    Raises:
        DataError: There is nothing to train on, or a class has a name that could not be printed, logged or saved.
    """

    classes: list[str]
    train: Source | None
    val: Source  # or whichever part was asked for
    notes: tuple[str, ...] = ()  # what a user should be told
    split: dict[str, Any] | None = None  # where a part was held out, what a run saves of that
    test: Source | None = None  # a third part, kept apart until the end of a training

    def __post_init__(self) -> None:
        if self.train is not None and not len(self.train.labels):
            raise DataError("the training set holds no images; there is nothing to train on.")
        for name in self.classes:
            if printable(name) != name:
                raise DataError(
                    f"class {name[:80]!r}: its name is not UTF-8, or holds a control character. Rename it, or save the "
                    "table that names it as UTF-8."
                )

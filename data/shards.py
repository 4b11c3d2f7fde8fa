"""Packed images: tar files that webdataset reads too (`NAME.jpg` and `NAME.cls`), with an index for random access.

A packed data set is a folder with classes.json and, for train and val each, a folder of shards and index.npz.
`tools.pack_dataset` writes them.
"""

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.datasets import Names, Sets, check_known
from data.listings import read_json
from swin.errors import DataError, printable
from swin.files import open_regular
from swin.preprocess import MAX_FILE_BYTES

CLASSES_FILE, INDEX_FILE = "classes.json", "index.npz"
_MAX_OPEN = 128  # shards that a process keeps open


class ShardImages:
    """Images in the shards of a folder, by their place in the index."""

    def __init__(self, root: Path) -> None:
        self._files: OrderedDict[int, int] = OrderedDict()  # shard to file descriptor, last used last
        self._pid = os.getpid()
        self.root = root
        # `places` is int64 (N, 3): shard, offset, size
        self.labels, self._places, self.names = _read_index(root / INDEX_FILE)

    def name(self, index: int) -> str:
        return printable(f"{self.root / shard_name(int(self._places[index, 0]))}/{self.names[index]}")

    def read(self, index: int) -> bytes:
        shard, offset, size = self._places[index].tolist()
        try:
            content = os.pread(self._open(shard), size, offset)
        except OSError as error:
            raise DataError(f"{self.name(index)}: cannot be read: {error.strerror}.") from None
        if len(content) != size:
            raise DataError(f"{self.name(index)}: the shard ends before this image. Copy it again.")
        return content

    def _open(self, shard: int) -> int:
        if self._pid != os.getpid():  # forked: the parent goes on using, and closing, its own
            self._files, self._pid = OrderedDict(), os.getpid()
        if shard not in self._files:
            if len(self._files) >= _MAX_OPEN:
                os.close(self._files.popitem(last=False)[1])
            self._files[shard] = open_regular(self.root / shard_name(shard))
        self._files.move_to_end(shard)
        return self._files[shard]

    def __del__(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": OrderedDict()}  # for workers that are not forked


def _read_index(file: Path) -> tuple[np.ndarray, np.ndarray, Names]:
    """Returns labels, places and names of packed images; raises a DataError where they cannot be what was packed."""
    try:
        with open(open_regular(file), "rb") as stream, np.load(stream) as index:
            labels, places, stops = (
                index[key].astype(np.int64, copy=False) for key in ("labels", "places", "name_stops")
            )
            name_bytes = index["name_bytes"]
        if (len(labels), 3) != places.shape or labels.shape != stops.shape or name_bytes.dtype != np.uint8:
            raise ValueError("its columns differ in length")
        if min(labels.min(), places.min(), stops[0], np.diff(stops).min(initial=0)) < 0:
            raise ValueError("it has numbers below 0")
        if places[:, 2].max() > MAX_FILE_BYTES or stops[-1] > len(name_bytes):
            raise ValueError("it has numbers that are too large")
    except Exception as error:  # NumPy and zipfile raise OSError, ValueError, KeyError, BadZipFile, zlib.error, ...
        raise DataError(f"{file}: is not the index of packed images ({error}). Pack again.") from None
    return labels, places, Names.from_arrays(name_bytes, stops)


def shard_name(shard: int) -> str:
    return f"shard-{shard:06d}.tar"


def is_packed(root: Path) -> bool:
    """Whether a folder holds a packed data set."""
    return os.path.lexists(root / CLASSES_FILE) and os.path.lexists(root / "val" / INDEX_FILE)


def open_shards(root: Path, *, need_train: bool = True, classes: Sequence[str] | None = None) -> Sets:
    """Opens a packed data set.

    Args:
        root: Its folder.
        need_train: False to evaluate; then the training shards may be missing.
        classes: A label map to use instead, such as a checkpoint's; the packed labels are brought to it by name.

    Raises:
        DataError: Files are missing or unfit, or classes are unknown to the label map.
    """
    try:
        packed = read_json(root / CLASSES_FILE)
        if not isinstance(packed, list) or not all(isinstance(name, str) for name in packed):
            raise ValueError("it is no list of names")
    except (OSError, ValueError) as error:
        raise DataError(f"{root / CLASSES_FILE}: cannot be read: {error}. Pack again.") from None
    sources = [ShardImages(root / half) if half == "val" or need_train else None for half in ("train", "val")]
    for source in filter(None, sources):
        if source.labels.max() >= len(packed):
            raise DataError(f"{source.root}: has more classes than the {len(packed)} of {CLASSES_FILE}. Pack again.")
    if classes is not None and list(classes) != packed:
        label_of = {name: label for label, name in enumerate(classes)}
        for source in filter(None, sources):
            used = np.unique(source.labels)
            check_known(
                (packed[label] for label in used), classes, where=source.root, origin="the label map that was given"
            )
            table = np.array([label_of.get(name, -1) for name in packed], dtype=np.int64)
            source.labels = table[source.labels]
    train, val = sources
    assert val is not None
    return Sets(list(classes if classes is not None else packed), train, val)

"""Packed images: tar files that webdataset reads too (`NAME.jpg` and `NAME.cls`), with an index for random access.

A packed data set is a folder with classes.json and, for train and val each, a folder of shards and index.npz.
`tools.pack_dataset` writes them.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.labels import relabel
from data.listings import list_folder, read_json
from data.sources import Names, Opened, OpenFiles, Source
from swin.errors import DataError, printable
from swin.files import MAX_FILE_BYTES, open_regular

CLASSES_FILE, INDEX_FILE = "classes.json", "index.npz"


class ShardImages:
    """Images in the shards of a folder, in the order of its index."""

    def __init__(self, root: Path) -> None:
        self._files = OpenFiles()
        self.root = root
        self.labels, self._members, self.names = _read_index(root / INDEX_FILE)

    def name(self, index: int) -> str:
        return printable(f"{self.root / shard_name(int(self._members[index, 0]))}/{self.names[index]}")

    def read(self, index: int) -> bytes:
        shard, offset, size = self._members[index].tolist()
        try:
            file = self._files.get(self.root / shard_name(shard))
            file.seek(offset)
            content = file.read(size)
        except OSError as error:
            raise DataError(f"{self.name(index)}: cannot be read: {error.strerror}.") from None
        if len(content) != size:
            raise DataError(f"{self.name(index)}: the shard ends before this image. Copy it again.")
        return content


def _read_index(file: Path) -> tuple[np.ndarray, np.ndarray, Names]:
    """Return labels (N,), shard, offset and size (N, 3), and names; raise a DataError if they were not packed so."""
    try:
        with open(open_regular(file), "rb") as stream, np.load(stream) as index:
            labels, members, stops = (
                index[key].astype(np.int64, copy=False) for key in ("labels", "places", "name_stops")
            )
            name_bytes = index["name_bytes"]
        if (len(labels), 3) != members.shape or labels.shape != stops.shape or name_bytes.dtype != np.uint8:
            raise ValueError("its columns differ in length")
        if min(labels.min(), members.min(), stops[0], np.diff(stops).min(initial=0)) < 0:
            raise ValueError("it has numbers below 0")
        if members[:, 2].max() > MAX_FILE_BYTES or stops[-1] > len(name_bytes):
            raise ValueError("it has numbers that are too large")
    except Exception as error:  # NumPy and zipfile raise OSError, ValueError, KeyError, BadZipFile, zlib.error, ...
        raise DataError(f"{file}: is not the index of packed images ({error}). Pack again.") from None
    return labels, members, Names(name_bytes, stops)


def shard_name(shard: int) -> str:
    return f"shard-{shard:06d}.tar"


def find_shards(root: Path) -> list[str]:
    """Return the parts of a packed data set; none where a folder holds no such."""
    if not os.path.lexists(root / CLASSES_FILE):
        return []
    names = (entry.name for entry in list_folder(root, missing_ok=True))
    return sorted(name for name in names if os.path.lexists(root / name / INDEX_FILE))


def open_shards(root: Path, parts: Sequence[str], classes: Sequence[str] | None = None) -> Opened:
    """Open parts of a packed data set. Labels are brought to a given label map by name.

    Raises:
        DataError: Files are missing or unfit, or classes are unknown to the label map.
    """
    try:
        packed = read_json(root / CLASSES_FILE)
        if not isinstance(packed, list) or not all(isinstance(name, str) for name in packed):
            raise ValueError("it is no list of names")
    except (OSError, ValueError) as error:
        raise DataError(f"{root / CLASSES_FILE}: cannot be read: {error}. Pack again.") from None
    sources: dict[str, Source] = {}
    for part in parts:
        source = ShardImages(root / part)
        if source.labels.max() >= len(packed):
            raise DataError(f"{source.root}: has more classes than the {len(packed)} of {CLASSES_FILE}. Pack again.")
        if classes is not None:
            source.labels = relabel(source.labels, packed, classes, where=source.root)
        sources[part] = source
    return Opened(list(packed if classes is None else classes), sources)

"""The packed layout of the official repository: a zip of images beside a map file of `path<TAB>label` lines."""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data.labels import Table, collect_table, name_numbers, tables_to_read
from data.listings import as_label, read_lines
from data.sources import Names, OpenFiles, Sets
from swin.errors import DataError, printable
from swin.files import MAX_FILE_BYTES, open_regular

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, then the lengths of the name and of the extra field
_OFFSET, _STORED_SIZE, _SIZE, _METHOD, _CHECKSUM = range(5)
_PART_NOTE = (
    "DATA.CACHE_MODE part: each of the {0} processes keeps another 1/{0} of the training images in memory, but reads "
    "from all: 1 in {0} is found there. With full all are, at {0} times the memory."
)


class ZipImages:
    """Images in a zip, by the lines of its map.

    The zip's directory is kept as five integers a member rather than as Python objects, and cached bytes as one array:
    workers share such memory with their parent instead of copying it.

    Args:
        path: The zip file, its members stored or deflated.
        names: The members to read.
        labels: int64, one a member.

    Raises:
        DataError: Not a zip, or a member is missing, encrypted, compressed in another way, or too large for an image.
    """

    def __init__(self, path: Path, names: Iterable[str], labels: np.ndarray) -> None:
        self.files = OpenFiles()
        self.path = path
        self.names = Names.of(names)
        self.labels = labels
        self._entries = _read_directory(path, self.names)  # int64 (len(names), 5)
        self._cached_at = np.full(len(self.names), -1, dtype=np.int64)  # index into _cache, -1 where not cached
        self._cache = np.empty(0, dtype=np.uint8)

    def name(self, index: int) -> str:
        return printable(f"{self.path}/{self.names[index]}")

    def cache(self, indices: Sequence[int] | np.ndarray) -> None:
        """Read members into memory, where `read` finds them from then on."""
        # In the order of the file: one pass over the disk.
        order = np.asarray(indices)[np.argsort(self._entries[indices, _OFFSET])]
        stops = np.cumsum(self._entries[order, _SIZE])
        size = int(stops[-1]) if len(stops) else 0
        try:
            self._cache = np.empty(size, dtype=np.uint8)
        except MemoryError:
            raise DataError(
                f"{self.path}: DATA.CACHE_MODE would keep {size / 1e9:.1f} GB of it, more than there is memory. Set "
                "it to no."
            ) from None
        for index, stop in zip(order.tolist(), stops.tolist(), strict=True):
            start = stop - int(self._entries[index, _SIZE])
            self._cache[start:stop] = np.frombuffer(self._read_file(index), dtype=np.uint8)
            self._cached_at[index] = start

    def read(self, index: int) -> bytes:
        start = int(self._cached_at[index])
        if start < 0:
            return self._read_file(index)
        return self._cache[start : start + int(self._entries[index, _SIZE])].tobytes()

    def _read_file(self, index: int) -> bytes:
        offset, stored_size, size, method, checksum = self._entries[index].tolist()
        try:
            file = self.files.get(self.path)
            file.seek(offset)
            signature, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            if signature != b"PK\x03\x04":
                raise zlib.error("no member starts where the directory says")
            file.seek(name_length + extra_length, os.SEEK_CUR)
            content = file.read(stored_size)
            if method == zipfile.ZIP_DEFLATED:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
            if len(content) != size or zlib.crc32(content) != checksum:
                raise zlib.error("its size or checksum is not the one in the directory")
        except (OSError, struct.error, zlib.error) as error:
            raise DataError(
                f"{self.path}: the member of line {index + 1} of its map cannot be read: {error}. "
                "Copy or pack the zip again."
            ) from None
        return content


def _read_directory(path: Path, members: Iterable[str]) -> np.ndarray:
    name = ""
    try:
        with open(open_regular(path), "rb") as file, zipfile.ZipFile(file) as archive:
            entries = [_entry(path, archive.getinfo(name := member)) for member in members]
            return np.array(entries, dtype=np.int64).reshape(-1, 5)
    except KeyError:
        raise DataError(
            f"{path}: holds no {name}, which its map lists. Names in the map are relative to the root of the zip; "
            "pack both again."
        ) from None
    except (OSError, ValueError, OverflowError, NotImplementedError, struct.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as a zip: {error}. Copy or pack it again.") from None


def _entry(path: Path, info: zipfile.ZipInfo) -> tuple[int, ...]:
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{path}: {info.filename} is encrypted or not deflated. Pack it stored or deflated.")
    if max(info.file_size, info.compress_size) > MAX_FILE_BYTES:
        raise DataError(f"{path}: {info.filename} is larger than {MAX_FILE_BYTES:,} bytes, which no image is.")
    return info.header_offset, info.compress_size, info.file_size, info.compress_type, info.CRC


def read_map(path: Path) -> Table:
    """Read a map file.

    Raises:
        DataError: Missing or empty, or a line is not `path<TAB>label` with a label of 0 or more.
    """
    return collect_table(path, _map_lines(path), "a line `path<TAB>label` for each")


def _map_lines(path: Path) -> Iterator[tuple[str, int]]:
    for line_number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        name, _, text = line.rstrip("\r\n").partition("\t")
        label = as_label(text.strip())
        if not name or label is None:
            raise DataError(
                f"{path}:{line_number}: found {line.strip()[:80]!r}, expected `path<TAB>label`, the label an integer "
                "from 0."
            )
        yield name, label


def is_zipped(root: Path, split: str) -> bool:
    """Tell whether a folder holds this part as a zip, or its map."""
    return any(os.path.lexists(root / f"{split}{rest}") for rest in (".zip", "_map.txt"))


def open_zips(
    root: Path,
    *,
    cache_mode: str = "no",
    rank: int = 0,
    world_size: int = 1,
    need_train: bool = True,
    classes: Sequence[str] | None = None,
    split: str = "val",
) -> Sets:
    """Open train.zip, train_map.txt, val.zip and val_map.txt; see `data.labels.name_numbers` for the classes.

    Args:
        root: The folder that holds the four files.
        cache_mode: Which training images to keep in memory: "no", "full" for all, "part" for every world_size-th from
            `rank` on. As each epoch is shuffled over all ranks, "part" holds 1 / world_size of what a rank reads: it
            bounds the memory, and "full" is what spares reading. Unless "no", each rank also keeps all that it
            evaluates.
        rank, world_size, need_train, classes, split: See `data.build.open_sets`.

    Raises:
        DataError: A file is missing or unfit, labels leave a gap, or the two maps contradict each other.
    """
    if not os.path.isdir(root):
        raise DataError(f"{root}: is not a folder. Expected one with train.zip, train_map.txt, val.zip, val_map.txt.")
    maps = {name: root / f"{name}_map.txt" for name in ("train", split)}
    maps = tables_to_read(maps, need_train, classes, split)
    tables = {name: read_map(file) for name, file in maps.items()}
    classes = name_numbers(tables, maps, classes)
    train = ZipImages(root / "train.zip", *tables["train"]) if need_train else None
    val = ZipImages(root / f"{split}.zip", *tables[split])
    if cache_mode != "no":
        val.cache(np.arange(rank, len(val.names), world_size))
    if train is None or cache_mode == "no":
        return Sets(classes, train, val)
    train.cache(np.arange(len(train.names)) if cache_mode == "full" else np.arange(rank, len(train.names), world_size))
    notes = (_PART_NOTE.format(world_size),) if cache_mode == "part" and world_size > 1 else ()
    return Sets(classes, train, val, notes)

"""The packed layout of the official repository: a zip of images beside a map file of `path<TAB>label` lines."""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data.labels import Table, collect_table, name_numbers
from data.listings import as_label, find_stems, read_lines
from data.sources import Names, Opened, OpenFiles, Source, Subset
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


def find_zips(root: Path) -> list[str]:
    """Return the parts that a folder holds as a zip, or of which it has the map."""
    return find_stems(root, (".zip", "_map.txt"))


def open_zips(root: Path, parts: Sequence[str], classes: Sequence[str] | None = None) -> Opened:
    """Open zips and their maps, as train.zip and train_map.txt; see `data.labels.name_numbers` for the classes.

    Raises:
        DataError: A file is missing or unfit, labels leave a gap, or two maps contradict each other.
    """
    if not os.path.isdir(root):
        raise DataError(f"{root}: is not a folder. Expected one with train.zip, train_map.txt, val.zip, val_map.txt.")
    maps = {part: root / f"{part}_map.txt" for part in parts}
    tables = {part: read_map(file) for part, file in maps.items()}
    classes = name_numbers(tables, maps, classes)
    return Opened(classes, {part: ZipImages(root / f"{part}.zip", *table) for part, table in tables.items()})


def fill_caches(
    train: Source | None, others: Iterable[Source], *, cache_mode: str, rank: int, world_size: int
) -> tuple[str, ...]:
    """Keep images of zips in memory, as DATA.CACHE_MODE says; other sources are left as they are.

    Args:
        train: What is trained on.
        others: What is evaluated; unless `cache_mode` is "no", each rank keeps all that it evaluates.
        cache_mode: Which training images to keep: "no", "full" for all, "part" for every world_size-th from `rank` on.
            As each epoch is shuffled over all ranks, "part" holds 1 / world_size of what a rank reads: it bounds the
            memory, and "full" is what spares reading.
        rank, world_size: Of this process among all.

    Returns:
        What a user should be told.
    """
    wanted: dict[ZipImages, list[np.ndarray]] = {}
    for source in filter(None, (train, *others)) if cache_mode != "no" else ():
        whole = source.source if isinstance(source, Subset) else source
        if isinstance(whole, ZipImages):
            indices = source.indices if isinstance(source, Subset) else np.arange(len(source.labels))
            is_all = source is train and cache_mode == "full"
            wanted.setdefault(whole, []).append(indices if is_all else indices[rank::world_size])
    for archive, chosen in wanted.items():
        archive.cache(np.concatenate(chosen))
    is_slow = train is not None and bool(wanted) and cache_mode == "part" and world_size > 1
    return (_PART_NOTE.format(world_size),) if is_slow else ()

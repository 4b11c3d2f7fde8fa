"""The packed layout: a zip of images beside a map file of `path<TAB>label` lines."""

import os
import struct
import zipfile
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data.datasets import Names, Sets, check_known
from data.listings import as_label, read_lines
from swin.errors import DataError, printable
from swin.files import open_regular
from swin.preprocess import MAX_FILE_BYTES

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, then the lengths of the name and of the extra field
_OFFSET, _STORED_SIZE, _SIZE, _METHOD, _CHECKSUM = range(5)


class ZipArchive:
    """Reads members of a zip by number.

    The zip's directory is kept as five integers a member rather than as Python objects, and cached bytes as one array:
    workers share such memory with their parent instead of copying it. Each process opens the file for itself.

    Args:
        path: The zip file, its members stored or deflated.
        members: Names of the members to read; number i is the i-th of them.

    Raises:
        DataError: Not a zip, or a member is missing, encrypted, compressed in another way, or too large for an image.
    """

    def __init__(self, path: Path, members: Sequence[str]) -> None:
        self._file: BinaryIO | None = None
        self._file_pid = -1
        self.path = path
        self._entries = _read_directory(path, members)  # int64 (len(members), 5)
        self._cached_at = np.full(len(members), -1, dtype=np.int64)  # place in _cache, -1 where not cached
        self._cache = np.empty(0, dtype=np.uint8)

    def cache(self, numbers: Sequence[int] | np.ndarray) -> None:
        """Reads members into memory, where `read` finds them from then on."""
        order = np.asarray(numbers)[
            np.argsort(self._entries[numbers, _OFFSET])
        ]  # in file order: one pass over the disk
        stops = np.cumsum(self._entries[order, _SIZE])
        size = int(stops[-1]) if len(stops) else 0
        try:
            self._cache = np.empty(size, dtype=np.uint8)
        except MemoryError:
            raise DataError(
                f"{self.path}: DATA.CACHE_MODE would keep {size / 1e9:.1f} GB of it, more than there is memory. Set "
                "it to no."
            ) from None
        for number, stop in zip(order.tolist(), stops.tolist(), strict=True):
            start = stop - int(self._entries[number, _SIZE])
            self._cache[start:stop] = np.frombuffer(self._read_file(number), dtype=np.uint8)
            self._cached_at[number] = start

    def read(self, number: int) -> bytes:
        """Returns the bytes of a member.

        Raises:
            DataError: The zip is truncated or damaged there.
        """
        start = int(self._cached_at[number])
        if start < 0:
            return self._read_file(number)
        return self._cache[start : start + int(self._entries[number, _SIZE])].tobytes()

    def _read_file(self, number: int) -> bytes:
        offset, stored_size, size, method, checksum = self._entries[number].tolist()
        try:
            file = self._open()
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
                f"{self.path}: the member of line {number + 1} of its map cannot be read: {error}. "
                "Copy or pack the zip again."
            ) from None
        return content

    def _open(self) -> BinaryIO:
        if self._file is None or self._file_pid != os.getpid():
            # A file inherited from the parent process would share its position with it.
            self._file = open(open_regular(self.path), "rb")  # noqa: SIM115 (stays open for the next images)
            self._file_pid = os.getpid()
        return self._file

    def close(self) -> None:
        """Closes this process's file; a later `read` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}  # for workers that are not forked


def _read_directory(path: Path, members: Iterable[str]) -> np.ndarray:
    entries = []
    try:
        with open(open_regular(path), "rb") as file, zipfile.ZipFile(file) as archive:
            for name in members:
                info = archive.getinfo(name)
                if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise DataError(f"{path}: {name} is encrypted or not deflated. Pack it stored or deflated.")
                if max(info.file_size, info.compress_size) > MAX_FILE_BYTES:
                    raise DataError(f"{path}: {name} is larger than {MAX_FILE_BYTES:,} bytes, which no image is.")
                entries.append((info.header_offset, info.compress_size, info.file_size, info.compress_type, info.CRC))
            return np.array(entries, dtype=np.int64).reshape(-1, 5)
    except KeyError:
        raise DataError(
            f"{path}: holds no {name}, which its map lists. Names in the map are relative to the root of the zip; "
            "pack both again."
        ) from None
    except (OSError, ValueError, OverflowError, NotImplementedError, struct.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as a zip: {error}. Copy or pack it again.") from None


def read_map(path: Path) -> tuple[Names, np.ndarray]:
    """Reads a map file.

    Returns:
        The names in the zip, and their labels, int64.

    Raises:
        DataError: Missing or empty, or a line is not `path<TAB>label` with a label of 0 or more.
    """
    labels = array("q")

    def names() -> Iterator[str]:
        for line_number, line in enumerate(read_lines(path), start=1):
            if not line.strip():
                continue
            name, _, text = line.rstrip("\r\n").partition("\t")
            label = as_label(text.strip())
            if not name or label is None:
                raise DataError(
                    f"{path}:{line_number}: found {line.strip()[:80]!r}, expected `path<TAB>label`, the label an "
                    "integer from 0."
                )
            labels.append(label)
            yield name

    found = Names(names())
    if not len(found):
        raise DataError(f"{path}: lists no images. Expected a line `path<TAB>label` for each.")
    return found, np.frombuffer(labels, dtype=np.int64)


class ZipImages:
    """Images in a zip, by the lines of its map."""

    def __init__(self, archive: ZipArchive, names: Sequence[str], labels: np.ndarray) -> None:
        self.archive = archive
        self.names = Names.of(names)
        self.labels = labels

    def name(self, index: int) -> str:
        return printable(f"{self.archive.path}/{self.names[index]}")

    def read(self, index: int) -> bytes:
        return self.archive.read(index)


def open_zips(
    root: Path,
    *,
    cache_mode: str = "no",
    rank: int = 0,
    world_size: int = 1,
    need_train: bool = True,
    classes: Sequence[str] | None = None,
) -> Sets:
    """Opens train.zip, train_map.txt, val.zip and val_map.txt.

    The classes are called after the top folders of the training images where each has its own folder, otherwise after
    their labels.

    Args:
        root: The folder that holds the four files.
        cache_mode: Which training images to keep in memory: "no", "full" for all, "part" for every world_size-th from
            `rank` on. As each epoch is shuffled over all ranks, "part" holds 1 / world_size of what a rank reads: it
            bounds the memory, and "full" is what spares reading. Unless "no", each rank also keeps all that it
            evaluates.
        rank: This process's rank.
        world_size: Number of ranks.
        need_train: False to evaluate; then the two training files may be missing.
        classes: A label map to use instead, such as a checkpoint's.

    Raises:
        DataError: A file is missing or unfit, labels leave a gap, or the two maps contradict each other.
    """
    if not os.path.isdir(root):
        raise DataError(f"{root}: is not a folder. Expected one with train.zip, train_map.txt, val.zip, val_map.txt.")
    val_names, val_labels = read_map(root / "val_map.txt")
    origin = "the label map that was given"
    train = None
    notes: tuple[str, ...] = ()
    if need_train or (classes is None and (root / "train_map.txt").exists()):
        names, labels = read_map(root / "train_map.txt")
        origin = origin if classes is not None else str(root / "train_map.txt")
        classes = classes if classes is not None else name_classes(names, labels, origin)
        if need_train:
            check_labels(root / "train_map.txt", names, labels, classes, origin)
            train = _open_zip(root / "train.zip", names, labels)
            first, step = {"no": (len(names), 1), "full": (0, 1), "part": (rank, world_size)}[cache_mode]
            train.archive.cache(np.arange(first, len(names), step))
            if cache_mode == "part" and world_size > 1:
                notes = (
                    f"DATA.CACHE_MODE part: each of the {world_size} processes keeps another 1/{world_size} of the "
                    f"training images in memory, but reads from all: 1 in {world_size} is found there. With full all "
                    f"are, at {world_size} times the memory.",
                )
    elif classes is None:
        origin = str(root / "val_map.txt")
        classes = name_classes(val_names, val_labels, origin)
    check_labels(root / "val_map.txt", val_names, val_labels, classes, origin)
    val = _open_zip(root / "val.zip", val_names, val_labels)
    if cache_mode != "no":
        val.archive.cache(np.arange(rank, len(val_names), world_size))
    return Sets(list(classes), train, val, notes)


def _open_zip(path: Path, names: Sequence[str], labels: np.ndarray) -> ZipImages:
    return ZipImages(ZipArchive(path, names), names, labels)


def _folder_of_label(names: Sequence[str], labels: np.ndarray) -> dict[int, str]:
    """Returns the top folder of each label's images; empty unless labels and folders correspond one to one."""
    pairs = {(label, name.partition("/")[0]) for name, label in zip(names, labels.tolist(), strict=True) if "/" in name}
    folders = dict(pairs)
    is_one_to_one = len(pairs) == len(folders) == len(set(folders.values())) == len(np.unique(labels))
    return folders if is_one_to_one else {}


def name_classes(names: Sequence[str], labels: np.ndarray, origin: str) -> list[str]:
    """Names numbered classes after the images' top folders, where these correspond, or else after their numbers.

    Raises:
        DataError: A number below the largest is not used.
    """
    used = np.unique(labels)
    if used[-1] != len(used) - 1:
        missing = int(np.flatnonzero(used != np.arange(len(used)))[0])
        raise DataError(f"{origin}: labels run from 0 to {used[-1]}, but no image has label {missing}. Renumber them.")
    folders = _folder_of_label(names, labels)
    return [folders.get(label, str(label)) for label in range(len(used))]


def check_labels(path: Path, names: Sequence[str], labels: np.ndarray, classes: Sequence[str], origin: str) -> None:
    """Raises a DataError where numbered images do not fit a label map, by number or by the names of their folders."""
    if labels.max() >= len(classes):
        raise DataError(
            f"{path}: label {labels.max()} is unknown to {origin}, which has {len(classes)} classes (0 to "
            f"{len(classes) - 1}). Renumber the map's labels as that one does."
        )
    if list(classes) == [str(label) for label in range(len(classes))]:
        return  # classes without names of their own
    folders = _folder_of_label(names, labels)
    check_known(folders.values(), classes, where=path, origin=origin)
    for label, folder in sorted(folders.items()):
        if classes[label] != folder:
            raise DataError(
                f"{path}: folder {folder!r} has label {label}, which is {classes[label]!r} in {origin}. Renumber the "
                "map's labels as that one does."
            )

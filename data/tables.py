"""Data sets listed in files: CSV or TSV of path and label, ImageNet-22K's map files, and CUB-200-2011.

Tables are read line by line into arrays, so that those of ten million images and more fit into memory.
"""

import csv
import json
import mmap
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data.labels import GIVEN, Table, check_known, collect_table, name_numbers, relabel
from data.listings import as_label, find_stems, read_lines
from data.sources import FolderImages, Names, Opened
from swin.errors import DataError
from swin.files import open_regular

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_HEADERS = ("label", "class", "target", "class_name", "category")
_MAP_22K = "ILSVRC2011fall_whole_map_{}.txt"
# In a JSON list, after what came before: [path, label, ...]. Possessive and bounded, so that no content makes it slow.
_PAIR = re.compile(
    rb'\s*+[\[,]\s*+\[\s*+"((?:[^"\\]|\\.){1,65536}+)"\s*+,\s*+"?(\d++)"?\s*+'
    rb'(?:,(?:[^\[\]"]|"(?:[^"\\]|\\.){0,65536}+"|\[[^\]]{0,65536}+\]){0,65536}+)?\]'
)
_END = re.compile(rb"\s*+\]\s*+\Z")
_CUB_FILES = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
_CUB_FLAGS = {"train": "1", "test": "0"}  # of each image, in the third of these files


def find_tables(root: Path) -> list[str]:
    """Return the names of a folder's tables, as train of train.csv or train.tsv."""
    return find_stems(root, tuple(_DELIMITERS))


def open_tables(root: Path, parts: Sequence[str], classes: Sequence[str] | None = None) -> Opened:
    """Open tables of `path,label` lines, paths relative to the folder that holds them.

    Labels are names of classes, sorted to number them; or, where all of the first table's are, numbers from 0.

    Args:
        root: Folder with the tables; a header line is allowed.
        parts: Their names, as train of train.csv or train.tsv.
        classes: A label map to use instead of the first table's.

    Raises:
        DataError: A table is missing, empty or malformed, or has labels unknown to the first or to the label map.
    """
    files = {part: _table_file(root, part) for part in parts}
    tables = {part: _read_table(file) for part, file in files.items()}
    texts = tables[parts[0]][2]
    if all(as_label(text) is not None for text in texts):
        numbered = {part: _numbered(files[part], *table) for part, table in tables.items()}
        return _as_opened(root, numbered, name_numbers(numbered, files, classes))
    origin = GIVEN if classes is not None else str(files[parts[0]])
    classes = list(classes) if classes is not None else sorted(texts)
    named = {
        part: (images, relabel(labels, own, classes, where=files[part], origin=origin))
        for part, (images, labels, own) in tables.items()
    }
    return _as_opened(root, named, classes)


def _table_file(root: Path, part: str) -> Path:
    files = [root / f"{part}{suffix}" for suffix in _DELIMITERS]
    return next((file for file in files if os.path.lexists(file)), files[0])


def _as_opened(root: Path, tables: dict[str, Table], classes: list[str]) -> Opened:
    return Opened(classes, {part: FolderImages(root, *table) for part, table in tables.items()})


def _read_table(file: Path) -> tuple[Names, np.ndarray, list[str]]:
    """Return paths, labels as indices into the list of label texts, and that list."""
    index_of: dict[str, int] = {}

    def pairs() -> Iterator[tuple[str, int]]:
        for row in rows:
            if not row or (not index_of and len(row) > 1 and row[1].strip().lower() in _HEADERS):
                continue
            if len(row) < 2 or not row[0].strip() or not row[1].strip():
                found = ",".join(row)[:80]
                raise DataError(f"{file}: found {found!r}, expected a path and a label, in line {rows.line_num}.")
            yield row[0].strip(), index_of.setdefault(row[1].strip(), len(index_of))

    rows = csv.reader(read_lines(file, newline=""), delimiter=_DELIMITERS[file.suffix])
    try:
        return *collect_table(file, pairs(), "a line `path,label` for each"), list(index_of)
    except csv.Error as error:
        raise DataError(f"{file}: line {rows.line_num} is malformed: {error}. Is a quote open?") from None


def _numbered(file: Path, names: Names, labels: np.ndarray, texts: list[str]) -> Table:
    numbers = [as_label(text) for text in texts]
    if None in numbers:
        wrong = texts[numbers.index(None)]
        raise DataError(f"{file}: label {wrong!r} is a name, but the training labels are numbers. Use one of them.")
    return names, np.array(numbers, dtype=np.int64)[labels]


def find_imagenet22k(root: Path) -> list[str]:
    """Return the parts of which a folder holds the map file of ImageNet-22K."""
    start, end = _MAP_22K.split("{}")
    return [stem.removeprefix(start) for stem in find_stems(root, (end,)) if stem.startswith(start)]


def open_imagenet22k(root: Path, parts: Sequence[str], classes: Sequence[str] | None = None) -> Opened:
    """Open ImageNet-22K by the official repository's map files, ILSVRC2011fall_whole_map_{train,val}.txt.

    They are JSON lists of [path, label] pairs, or lines of path, tab and label; paths are relative to `root`.

    Raises:
        DataError: A file is missing or malformed, or the labels contradict each other.
    """
    files = {part: root / _MAP_22K.format(part) for part in parts}
    tables = {part: _read_pairs(file) for part, file in files.items()}
    return _as_opened(root, tables, name_numbers(tables, files, classes))


def _read_pairs(file: Path) -> Table:
    try:
        with open(open_regular(file), "rb") as stream:
            is_json = stream.read(1) == b"["
        found = _json_pairs(file) if is_json else _line_pairs(file)
        pairs = _checked_pairs(file, found, "byte" if is_json else "line")
        return collect_table(file, pairs, "a JSON list of [path, label] pairs")
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read: {error}.") from None


def _checked_pairs(file: Path, found: Iterator[tuple[int, str, str]], unit: str) -> Iterator[tuple[str, int]]:
    for position, path, text in found:
        label = as_label(text)
        if not path or label is None:
            shown = f"{path}\t{text}".strip()[:80]
            raise DataError(
                f"{file}: found {shown!r} at {unit} {position}, expected a path and a label, a number: lines "
                "`path<TAB>label`, or a JSON list of [path, label]."
            )
        yield path, label


def _json_pairs(file: Path) -> Iterator[tuple[int, str, str]]:
    """Yield the byte where each pair of a JSON list starts, its path and its label."""
    with open(open_regular(file), "rb") as stream:
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    stop = 0
    while pair := _PAIR.match(content, stop):
        path = pair[1].decode("utf-8", "surrogateescape")
        yield stop, json.loads(f'"{path}"', strict=False) if "\\" in path else path, pair[2].decode()
        stop = pair.end()
    if not _END.match(content, stop):
        yield stop, content[stop : stop + 80].decode("utf-8", "surrogateescape"), ""


def _line_pairs(file: Path) -> Iterator[tuple[int, str, str]]:
    """Yield the number of each line, its path and its label."""
    for number, line in enumerate(read_lines(file), start=1):
        path, _, label = line.strip().partition("\t")
        yield number, path, label.strip("[] ").partition(",")[0]  # of several labels the first


def find_cub(root: Path) -> list[str]:
    """Return the parts of CUB-200-2011; none where a folder does not have its layout."""
    return list(_CUB_FLAGS) if all(os.path.lexists(root / name) for name in _CUB_FILES) else []


def open_cub(root: Path, parts: Sequence[str], classes: Sequence[str] | None = None) -> Opened:
    """Open CUB-200-2011 as it is distributed.

    Raises:
        DataError: Its files contradict each other, or its classes are unknown to the label map.
    """
    images, labels, is_train, names = (_read_numbered(root / name) for name in _CUB_FILES)
    if not images.keys() == labels.keys() == is_train.keys() or not set(labels.values()) <= names.keys():
        raise DataError(f"{root}: {', '.join(_CUB_FILES)} do not list the same images and classes. Unpack it again.")
    if not set(is_train.values()) <= {"0", "1"}:
        raise DataError(f"{root / _CUB_FILES[2]}: has values other than 0 and 1. Unpack it again.")
    classes = list(classes or names.values())
    check_known(names.values(), classes, where=root, origin=GIVEN)
    label_of = {name: label for label, name in enumerate(classes)}

    def select(flag: str) -> FolderImages:
        keys = [key for key in images if is_train[key] == flag]
        chosen = np.array([label_of[names[labels[key]]] for key in keys], dtype=np.int64)
        return FolderImages(root / "images", (images[key] for key in keys), chosen)

    return Opened(classes, {part: select(_CUB_FLAGS[part]) for part in parts})


def _read_numbered(file: Path) -> dict[str, str]:
    """Return the lines `number text` of a file by number."""
    found: dict[str, str] = {}
    for line in filter(str.strip, read_lines(file)):
        number, _, text = line.strip().partition(" ")
        if not text or number in found:
            raise DataError(f"{file}: found {line.strip()[:80]!r}, expected another number, then a space and text.")
        found[number] = text
    return found

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

from data.labels import GIVEN, Table, check_known, collect_table, name_numbers, relabel, tables_to_read
from data.listings import as_label, read_lines
from data.sources import FolderImages, Names, Sets, choose_part
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


def find_tables(root: Path, split: str = "val") -> dict[str, Path]:
    """Return train.csv or train.tsv of a folder, and the table of `split`, by these names."""
    files = ((name, root / f"{name}{suffix}") for name in ("train", split) for suffix in _DELIMITERS)
    return {name: file for name, file in files if os.path.lexists(file)}


def open_tables(
    root: Path, *, need_train: bool = True, classes: Sequence[str] | None = None, split: str = "val"
) -> Sets:
    """Open tables of `path,label` lines, paths relative to the folder that holds them.

    Labels are names of classes, sorted to number them; or, where all of train's are, numbers from 0.

    Args:
        root: Folder with train.csv or .tsv, and val.csv or .tsv; a header line is allowed.
        need_train, classes, split: See `data.build.open_sets`.

    Raises:
        DataError: A table is missing, empty or malformed, or has labels unknown to the other or to the label map.
    """
    found = find_tables(root, split)
    for name in ("train", split) if need_train else (split,):
        if name not in found:
            raise DataError(f"{root}: has a table of images for {', '.join(found)} only. Add {name}.csv.")
    files = tables_to_read(found, need_train, classes, split)
    tables = {name: _read_table(file) for name, file in files.items()}
    first = "train" if "train" in tables else split
    texts = tables[first][2]
    if all(as_label(text) is not None for text in texts):
        numbered = {name: _numbered(files[name], *table) for name, table in tables.items()}
        return _as_sets(root, numbered, name_numbers(numbered, files, classes), need_train, split)
    origin = GIVEN if classes is not None else str(files[first])
    classes = list(classes) if classes is not None else sorted(texts)
    named = {
        name: (images, relabel(labels, own, classes, where=files[name], origin=origin))
        for name, (images, labels, own) in tables.items()
    }
    return _as_sets(root, named, classes, need_train, split)


def _as_sets(root: Path, tables: dict[str, Table], classes: list[str], need_train: bool, split: str) -> Sets:
    train = FolderImages(root, *tables["train"]) if need_train else None
    return Sets(classes, train, FolderImages(root, *tables[split]))


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


def has_22k_map(root: Path, split: str) -> bool:
    """Tell whether a folder holds the map file of ImageNet-22K for this part."""
    return os.path.lexists(root / _MAP_22K.format(split))


def open_imagenet22k(
    root: Path, *, need_train: bool = True, classes: Sequence[str] | None = None, split: str = "val"
) -> Sets:
    """Open ImageNet-22K by the official repository's map files, ILSVRC2011fall_whole_map_{train,val}.txt.

    They are JSON lists of [path, label] pairs, or lines of path, tab and label; paths are relative to `root`.

    Raises:
        DataError: A file is missing or malformed, or the labels contradict each other.
    """
    files = {name: root / _MAP_22K.format(name) for name in ("train", split)}
    files = tables_to_read(files, need_train, classes, split)
    tables = {name: _read_pairs(file) for name, file in files.items()}
    return _as_sets(root, tables, name_numbers(tables, files, classes), need_train, split)


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


def is_cub(root: Path) -> bool:
    """Tell whether a folder has the layout of CUB-200-2011."""
    return all(os.path.lexists(root / name) for name in _CUB_FILES)


def open_cub(root: Path, *, need_train: bool = True, classes: Sequence[str] | None = None, split: str = "val") -> Sets:
    """Open CUB-200-2011 as it is distributed; its test images are the validation split.

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

    evaluated = choose_part({"val": "0", "test": "0", "train": "1"}, split, root)
    return Sets(classes, select("1") if need_train else None, select(evaluated))


def _read_numbered(file: Path) -> dict[str, str]:
    """Return the lines `number text` of a file by number."""
    found: dict[str, str] = {}
    for line in filter(str.strip, read_lines(file)):
        number, _, text = line.strip().partition(" ")
        if not text or number in found:
            raise DataError(f"{file}: found {line.strip()[:80]!r}, expected another number, then a space and text.")
        found[number] = text
    return found

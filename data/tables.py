"""Data sets listed in files: CSV or TSV of path and label, ImageNet-22K's map files, and CUB-200-2011.

Tables are read line by line into arrays, so that those of ten million images and more fit into memory.
"""

import csv
import json
import mmap
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data.archives import check_labels, name_classes
from data.datasets import FolderImages, Names, Sets, check_known
from data.listings import as_label, read_lines
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


def find_tables(root: Path) -> dict[str, Path]:
    """Returns train.csv or train.tsv, and val.csv or val.tsv, of a folder, by half."""
    files = ((half, root / f"{half}{suffix}") for half in ("train", "val") for suffix in _DELIMITERS)
    return {half: file for half, file in files if os.path.lexists(file)}


def open_tables(root: Path, *, need_train: bool = True, classes: Sequence[str] | None = None) -> Sets:
    """Opens tables of `path,label` lines, paths relative to the folder that holds them.

    Labels are names of classes, sorted to number them; or, where all of train's are, numbers from 0.

    Args:
        root: Folder with train.csv or .tsv, and val.csv or .tsv; a header line is allowed.
        need_train: False to evaluate; then the training table may be missing.
        classes: A label map to use instead, such as a checkpoint's.

    Raises:
        DataError: A table is missing, empty or malformed, or has labels unknown to the other or to the label map.
    """
    files = find_tables(root)
    for half in ("train", "val") if need_train else ("val",):
        if half not in files:
            raise DataError(f"{root}: has a table of images for {', '.join(files)} only. Add {half}.csv.")
    tables = {half: _read_table(file) for half, file in files.items() if half == "val" or need_train or not classes}
    origin = "the label map that was given" if classes else str(files.get("train", files["val"]))
    texts = tables.get("train", tables["val"])[2]
    if all(as_label(text) is not None for text in texts):
        numbered = {half: _numbered(files[half], *table) for half, table in tables.items()}
        classes = classes or name_classes(*numbered.get("train", numbered["val"]), origin)
        for half, (paths, numbers) in numbered.items():
            check_labels(files[half], paths, numbers, classes, origin)
    else:
        classes = classes or sorted(texts)
        numbered = {half: _by_name(files[half], *table, classes, origin) for half, table in tables.items()}
    sets = {half: FolderImages(root, paths, numbers) for half, (paths, numbers) in numbered.items()}
    return Sets(list(classes), sets.get("train") if need_train else None, sets["val"])


def _read_table(file: Path) -> tuple[Names, np.ndarray, list[str]]:
    """Returns paths, and labels as places in the list of label texts."""
    place_of: dict[str, int] = {}
    labels = array("q")

    def paths() -> Iterator[str]:
        for row in rows:
            if not row or (not labels and len(row) > 1 and row[1].strip().lower() in _HEADERS):
                continue
            if len(row) < 2 or not row[0].strip() or not row[1].strip():
                found = ",".join(row)[:80]
                raise DataError(f"{file}: found {found!r}, expected a path and a label, in line {rows.line_num}.")
            labels.append(place_of.setdefault(row[1].strip(), len(place_of)))
            yield row[0].strip()

    rows = csv.reader(read_lines(file, newline=""), delimiter=_DELIMITERS[file.suffix])
    try:
        names = Names(paths())
    except csv.Error as error:
        raise DataError(f"{file}: line {rows.line_num} is malformed: {error}. Is a quote open?") from None
    if not len(names):
        raise DataError(f"{file}: lists no images. Expected a line `path,label` for each.")
    return names, np.frombuffer(labels, dtype=np.int64), list(place_of)


def _numbered(file: Path, names: Names, labels: np.ndarray, texts: list[str]) -> tuple[Names, np.ndarray]:
    wrong = [text for text in texts if as_label(text) is None]
    if wrong:
        raise DataError(f"{file}: label {wrong[0]!r} is a name, but the training labels are numbers. Use one of them.")
    return names, np.array([as_label(text) for text in texts], dtype=np.int64)[labels]


def _by_name(
    file: Path, names: Names, labels: np.ndarray, texts: list[str], classes: Sequence[str], origin: str
) -> tuple[Names, np.ndarray]:
    check_known(texts, classes, where=file, origin=origin)
    label_of = {name: label for label, name in enumerate(classes)}
    return names, np.array([label_of[text] for text in texts], dtype=np.int64)[labels]


def open_imagenet22k(root: Path, *, need_train: bool = True, classes: Sequence[str] | None = None) -> Sets:
    """Opens ImageNet-22K by the official repository's map files, ILSVRC2011fall_whole_map_{train,val}.txt.

    They are JSON lists of [path, label] pairs, or lines of path, tab and label; paths are relative to `root`.

    Raises:
        DataError: A file is missing or malformed, or the labels contradict each other.
    """
    halves = ("train", "val") if need_train or classes is None else ("val",)
    files = {half: root / _MAP_22K.format(half) for half in halves}
    tables = {half: _read_pairs(file) for half, file in files.items() if need_train or file.exists()}
    origin = str(files["train"]) if classes is None and "train" in tables else "the label map that was given"
    classes = classes or name_classes(*tables.get("train", tables["val"]), origin)
    sets = {}
    for half, (names, labels) in tables.items():
        if str(files[half]) != origin:  # the table that gave the classes agrees with itself, and may be very long
            check_labels(files[half], names, labels, classes, origin)
        sets[half] = FolderImages(root, names, labels)
    return Sets(list(classes), sets.get("train") if need_train else None, sets["val"])


def _read_pairs(file: Path) -> tuple[Names, np.ndarray]:
    labels = array("q")

    def paths() -> Iterator[str]:
        for place, path, text in _json_pairs(file) if is_json else _line_pairs(file):
            label = as_label(text)
            if not path or label is None:
                found, unit = f"{path}\t{text}".strip()[:80], "byte" if is_json else "line"
                raise DataError(
                    f"{file}: found {found!r} at {unit} {place}, expected a path and a label, a number: lines "
                    "`path<TAB>label`, or a JSON list of [path, label]."
                )
            labels.append(label)
            yield path

    try:
        with open(open_regular(file), "rb") as stream:
            is_json = stream.read(1) == b"["
        names = Names(paths())
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read: {error}.") from None
    if not len(names):
        raise DataError(f"{file}: lists no images. Expected a JSON list of [path, label] pairs.")
    return names, np.frombuffer(labels, dtype=np.int64)


def _json_pairs(file: Path) -> Iterator[tuple[int, str, str]]:
    """Yields the byte where each pair of a JSON list starts, its path and its label."""
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
    """Yields the number of each line, its path and its label."""
    for number, line in enumerate(read_lines(file), start=1):
        path, _, label = line.strip().partition("\t")
        yield number, path, label.strip("[] ").partition(",")[0]  # of several labels the first


def is_cub(root: Path) -> bool:
    """Whether a folder has the layout of CUB-200-2011."""
    return all(os.path.lexists(root / name) for name in _CUB_FILES)


def open_cub(root: Path, *, need_train: bool = True, classes: Sequence[str] | None = None) -> Sets:
    """Opens CUB-200-2011 as it is distributed; its test images are the validation half.

    Raises:
        DataError: Its files contradict each other, or its classes are unknown to the label map.
    """
    images, labels, is_train, names = (_read_numbered(root / name) for name in _CUB_FILES)
    if not images.keys() == labels.keys() == is_train.keys() or not set(labels.values()) <= names.keys():
        raise DataError(f"{root}: {', '.join(_CUB_FILES)} do not list the same images and classes. Unpack it again.")
    if not set(is_train.values()) <= {"0", "1"}:
        raise DataError(f"{root / _CUB_FILES[2]}: has values other than 0 and 1. Unpack it again.")
    own = list(names.values())
    origin = "the label map that was given"
    check_known(own, classes or own, where=root, origin=origin)
    label_of = {name: label for label, name in enumerate(classes or own)}

    def half(flag: str) -> FolderImages:
        keys = [key for key in images if is_train[key] == flag]
        chosen = np.array([label_of[names[labels[key]]] for key in keys], dtype=np.int64)
        return FolderImages(root / "images", (images[key] for key in keys), chosen)

    return Sets(list(classes or own), half("1") if need_train else None, half("0"))


def _read_numbered(file: Path) -> dict[str, str]:
    """Returns the lines `number text` of a file by number."""
    found: dict[str, str] = {}
    for line in filter(str.strip, read_lines(file)):
        number, _, text = line.strip().partition(" ")
        if not text or number in found:
            raise DataError(
                f"{file}: found {line.strip()[:80]!r}, expected a number of its own, then a space and text."
            )
        found[number] = text
    return found

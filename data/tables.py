"""Data sets listed in files: CSV or TSV of path and label, ImageNet-22K's map files, and CUB-200-2011.

Tables are read line by line into arrays, so that those of ten million images and more fit into memory.
"""

import csv
import mmap
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data.archives import check_labels, name_classes
from data.datasets import FolderImages, Names, Sets, check_known
from swin.errors import DataError

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_HEADERS = ("label", "class", "target", "class_name", "category")
_MAP_22K = "ILSVRC2011fall_whole_map_{}.txt"
_PAIR = re.compile(rb'\[\s*"((?:[^"\\]|\\.)+)"\s*,\s*"?(\d+)')  # in a JSON list of [path, label, ...]
_CUB_FILES = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")


def find_tables(root: Path) -> dict[str, Path]:
    """Returns train.csv or train.tsv, and val.csv or val.tsv, of a folder, by half."""
    files = ((half, root / f"{half}{suffix}") for half in ("train", "val") for suffix in _DELIMITERS)
    return {half: file for half, file in files if file.is_file()}


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
    if all(text.isdecimal() for text in texts):
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
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            for row in csv.reader(lines, delimiter=_DELIMITERS[file.suffix]):
                if not row or (not labels and len(row) > 1 and row[1].strip().lower() in _HEADERS):
                    continue
                if len(row) < 2 or not row[0].strip() or not row[1].strip():
                    raise DataError(f"{file}: found {','.join(row)[:80]!r}, expected a path and a label.")
                labels.append(place_of.setdefault(row[1].strip(), len(place_of)))
                yield row[0].strip()

    try:
        names = Names(paths())
    except (OSError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read: {error}.") from None
    if not len(names):
        raise DataError(f"{file}: lists no images. Expected a line `path,label` for each.")
    return names, np.frombuffer(labels, dtype=np.int64), list(place_of)


def _numbered(file: Path, names: Names, labels: np.ndarray, texts: list[str]) -> tuple[Names, np.ndarray]:
    wrong = [text for text in texts if not text.isdecimal()]
    if wrong:
        raise DataError(f"{file}: label {wrong[0]!r} is a name, but the training labels are numbers. Use one of them.")
    return names, np.array([int(text) for text in texts], dtype=np.int64)[labels]


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

    def paths(content: mmap.mmap) -> Iterator[str]:
        if content[:1] == b"[":
            for pair in _PAIR.finditer(content):
                labels.append(int(pair[2]))
                yield pair[1].decode("utf-8", "surrogateescape").replace("\\/", "/")
        else:
            for line in iter(content.readline, b""):
                path, _, label = line.decode("utf-8", "surrogateescape").strip().partition("\t")
                label = label.strip("[] ").partition(",")[0]  # of several labels the first
                if not path or not label.isdecimal():
                    raise DataError(f"{file}: found {path[:80]!r}, expected `path<TAB>label`, the label a number.")
                labels.append(int(label))
                yield path

    try:
        with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            names = Names(paths(content))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read: {error}.") from None
    if not len(names):
        raise DataError(f"{file}: lists no images. Expected a JSON list of [path, label] pairs.")
    return names, np.frombuffer(labels, dtype=np.int64)


def is_cub(root: Path) -> bool:
    """Whether a folder has the layout of CUB-200-2011."""
    return all((root / name).is_file() for name in _CUB_FILES)


def open_cub(root: Path, *, need_train: bool = True, classes: Sequence[str] | None = None) -> Sets:
    """Opens CUB-200-2011 as it is distributed; its test images are the validation half.

    Raises:
        DataError: Its files contradict each other, or its classes are unknown to the label map.
    """
    images, labels, is_train, names = (_read_numbered(root / name) for name in _CUB_FILES)
    if not images.keys() == labels.keys() == is_train.keys() or not set(labels.values()) <= names.keys():
        raise DataError(f"{root}: {', '.join(_CUB_FILES)} do not list the same images and classes. Unpack it again.")
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
    lines: Iterable[str] = file.read_text(encoding="utf-8").splitlines()
    pairs = (line.strip().partition(" ") for line in lines if line.strip())
    return {number: text for number, _, text in pairs}

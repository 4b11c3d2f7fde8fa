"""Several right labels an image, as ImageNet-ReaL has them, from a JSON file."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.labels import check_known
from data.listings import read_json
from swin.errors import DataError, printable

_IMAGENET = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+")
_EXPECTED = (
    "Expected a list with the labels of each image, in the order of the sorted file names, or an object of file names "
    'and labels, as {"1.jpg": ["cat", "dog"]}'
)


def read_label_sets(file: Path, names: Sequence[str], classes: Sequence[str]) -> list[list[int]]:
    """Read the labels that are right for each image; an image with none is one to leave out.

    The file holds a list, one entry an image in the order of the sorted base names, as ImageNet-ReaL's real.json; the
    images of ImageNet's validation set are found by their number, so that a part of them will do. Or it holds an object
    by file name: a base name, or as much of the path's end as tells images apart. An entry is a label or a list of
    them, numbers or names of classes.

    Args:
        file: The JSON file.
        names: The images, as logs call them.
        classes: Names in the order of the labels.

    Raises:
        DataError: It cannot be read, has no entry for an image or one for several, or a label that is unknown.
    """
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as JSON: {error}. {_EXPECTED}.") from None
    if isinstance(content, list):
        entries = _by_order(file, content, names)
    elif isinstance(content, dict):
        entries = _by_name(file, content, names)
    else:
        raise DataError(f"{file}: holds {type(content).__name__}. {_EXPECTED}.")
    label_of = {name: label for label, name in enumerate(classes)}
    return [_labels(file, name, entry, label_of) for name, entry in zip(names, entries, strict=True)]


def _by_order(file: Path, content: list[Any], names: Sequence[str]) -> list[Any]:
    base_names = [os.path.basename(name) for name in names]
    numbers = [int(found[1]) for found in map(_IMAGENET.fullmatch, base_names) if found]
    if numbers and len(numbers) == len(names):
        if not 1 <= min(numbers) <= max(numbers) <= len(content):
            wrong = min(numbers) if min(numbers) < 1 else max(numbers)
            raise DataError(
                f"{file}: has {len(content)} entries, none for image {wrong} of ImageNet's validation set. {_EXPECTED}."
            )
        return [content[number - 1] for number in numbers]
    if len(content) != len(names):
        raise DataError(f"{file}: has {len(content)} entries for {len(names)} images. {_EXPECTED}.")
    if twice := [name for name, count in Counter(base_names).items() if count > 1]:
        raise DataError(
            f"{file}: is in the order of the file names, but {len(twice)} names, as {twice[0]}, are those of several "
            "images. Write an object of paths and labels instead."
        )
    rank_of = {name: rank for rank, name in enumerate(sorted(base_names))}
    return [content[rank_of[name]] for name in base_names]


def _by_name(file: Path, content: dict[str, Any], names: Sequence[str]) -> list[Any]:
    entries = {printable(key): entry for key, entry in content.items()}
    keys = [_longest_end(name, entries) for name in names]
    if missing := [name for name, key in zip(names, keys, strict=True) if key is None]:
        raise DataError(
            f"{file}: has no entry for {len(missing)} of {len(names)} images, the first {missing[0]}. Add each by its "
            "file name, with [] for an image to leave out."
        )
    found = [key for key in keys if key is not None]
    owners: dict[str, str] = {}
    for name, key in zip(names, found, strict=True):
        if owners.setdefault(key, name) != name:
            raise DataError(
                f"{file}: entry {key!r} is that of {owners[key]} and {name}. Write as much of the path as tells them "
                "apart."
            )
    return [entries[key] for key in found]


def _longest_end(name: str, entries: dict[str, Any]) -> str | None:
    """Return the longest end of a path that is a key, cut between folders."""
    while name not in entries:
        _, separator, name = name.partition("/")
        if not separator:
            return None
    return name


def _labels(file: Path, name: str, entry: Any, label_of: dict[str, int]) -> list[int]:
    found = set()
    for label in entry if isinstance(entry, list) else [entry]:
        if isinstance(label, str):
            if label not in label_of:
                check_known([label], list(label_of), where=f"{file}: {name}", origin="the model's classes")
            label = label_of[label]
        if type(label) is not int or not 0 <= label < len(label_of):
            raise DataError(
                f"{file}: {name} has label {str(label)[:80]!r}. Expected names of the {len(label_of)} classes, or "
                f"numbers from 0 to {len(label_of) - 1}."
            )
        found.add(label)
    return sorted(found)

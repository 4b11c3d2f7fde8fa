"""Label maps: which class each label means, and whether those of a data set, or of a checkpoint, agree."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from data.sources import Names
from swin.errors import DataError

GIVEN = "the label map that was given"
Table = tuple[Names, np.ndarray]  # names of images, and their labels, int64


def collect_table(file: Path, rows: Iterable[tuple[str, int]], expected: str) -> Table:
    """Collect images and their labels in arrays; raise a DataError, which says what was expected, if there are none."""
    labels = array("q")

    def names() -> Iterator[str]:
        for name, label in rows:
            labels.append(label)
            yield name

    found = Names.of(names())
    if not len(found):
        raise DataError(f"{file}: lists no images. Expected {expected}.")
    return found, np.frombuffer(labels, dtype=np.int64)


def check_known(found: Iterable[str], classes: Sequence[str], *, where: str | Path, origin: str) -> None:
    """Raise a DataError for the first class name that the label map does not have."""
    known = set(classes)
    for name in found:
        if name not in known:
            nearest = get_close_matches(name, classes, n=1, cutoff=0.0)
            hint = f"; the nearest of its {len(classes)} classes is {nearest[0][:80]!r}" if nearest else ""
            raise DataError(f"{where}: class {name[:80]!r} is unknown to {origin}{hint}. Rename or remove it.")


def relabel(
    labels: np.ndarray, own: Sequence[str], classes: Sequence[str], *, where: str | Path, origin: str = GIVEN
) -> np.ndarray:
    """Return labels of a label map for labels that count the names in `own`; raise a DataError where one is unknown."""
    check_known((own[label] for label in np.unique(labels).tolist()), classes, where=where, origin=origin)
    label_of = {name: label for label, name in enumerate(classes)}
    found: np.ndarray = np.array([label_of.get(name, -1) for name in own], dtype=np.int64)[labels]
    return found


def name_numbers(
    tables: Mapping[str, Table], files: Mapping[str, Path], classes: Sequence[str] | None = None
) -> list[str]:
    """Name the classes of numbered images, and check that all splits agree with that.

    They are called after the top folders of the first table's images, where labels and folders correspond; else after
    their numbers.

    Args:
        tables: Numbered images by part.
        files: Where each was read.
        classes: A label map to use instead.

    Raises:
        DataError: A number below the largest is not used, or is unknown to the label map or means another class there.
    """
    origin = GIVEN
    if classes is None:
        first = next(iter(tables))
        origin = str(files[first])
        classes = _folder_names(*tables[first], origin)
    for split, table in tables.items():
        if str(files[split]) != origin:  # the table that gave the classes agrees with itself, and may be very long
            _check_numbers(*table, files[split], classes, origin)
    return list(classes)


def _folder_names(names: Names, labels: np.ndarray, origin: str) -> list[str]:
    used = np.unique(labels)
    if used[-1] != len(used) - 1:
        missing = int(np.flatnonzero(used != np.arange(len(used)))[0])
        raise DataError(f"{origin}: labels run from 0 to {used[-1]}, but no image has label {missing}. Renumber them.")
    folders = _folder_of_label(names, labels)
    return [folders.get(label, str(label)) for label in range(len(used))]


def _folder_of_label(names: Names, labels: np.ndarray) -> dict[int, str]:
    """Return the top folder of each label's images; empty unless labels and folders correspond one to one."""
    pairs = {(label, name.partition("/")[0]) for name, label in zip(names, labels.tolist(), strict=True) if "/" in name}
    folders = dict(pairs)
    is_one_to_one = len(pairs) == len(folders) == len(set(folders.values())) == len(np.unique(labels))
    return folders if is_one_to_one else {}


def _check_numbers(names: Names, labels: np.ndarray, file: Path, classes: Sequence[str], origin: str) -> None:
    if labels.max() >= len(classes):
        raise DataError(
            f"{file}: label {labels.max()} is unknown to {origin}, which has {len(classes)} classes (0 to "
            f"{len(classes) - 1}). Renumber the map's labels as that one does."
        )
    if list(classes) == [str(label) for label in range(len(classes))]:
        return  # classes without names of their own
    folders = _folder_of_label(names, labels)
    check_known(folders.values(), classes, where=file, origin=origin)
    for label, folder in sorted(folders.items()):
        if classes[label] != folder:
            raise DataError(
                f"{file}: folder {folder!r} has label {label}, which is {classes[label]!r} in {origin}. Renumber the "
                "map's labels as that one does."
            )

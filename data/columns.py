"""Which columns of a table hold the images, labels, parts and groups; and the labels that a cell says."""

import json
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from swin.errors import DataError

# What columns are called, in lower case with underscores for spaces and hyphens; the first is what errors propose.
_NAMES = {
    "image": (
        *("image", "file", "path", "filename", "file_name", "filepath", "file_path", "img", "img_path", "image_path"),
        *("image_file", "image_name"),
    ),
    "label": (
        *("label", "labels", "class", "classes", "class_name", "class_label", "target", "targets"),
        *("category", "categories", "tags"),
    ),
    "split": ("split", "set", "subset", "part", "partition"),
}
_PATH = re.compile(r"[/\\]|\.\w{1,5}$")
_SEPARATORS = re.compile(r"[|;]")


class Columns(NamedTuple):
    """Indices of a table's columns; None for those that it does not have."""

    image: int
    label: int
    split: int | None = None
    group: int | None = None


def is_header(cells: Sequence[str]) -> bool:
    """Tell whether a table's first row names its columns: one by a known name, or all of them by a word."""
    if any(_normal(cell) in _NAMES["label"] for cell in cells[1:2]):
        return True
    if any(_PATH.search(cell.strip()) for cell in cells):
        return False
    known = any(_normal(cell) in names for cell in cells for names in _NAMES.values())
    return known or (len(cells) > 1 and not any(cell.strip().isdigit() for cell in cells))


def choose_columns(header: Sequence[str] | None, where: object, group_by: str, contents: Collection[int]) -> Columns:
    """Choose columns by their names, in any case; without a header the first two are the path and the label.

    Args:
        header: Names of the columns.
        where: What errors call the table.
        group_by: Name of the column with the groups, if it has one by this name.
        contents: Indices of the columns that hold images rather than paths.

    Raises:
        DataError: No column, or more than one, could be the image or the label.
    """
    if header is None:
        return Columns(0, 1)
    split = _choose("split", header, where)
    group = next((i for i, name in enumerate(header) if group_by and _normal(name) == _normal(group_by)), None)
    label = _choose("label", header, where)
    image = next(iter(contents)) if len(contents) == 1 else _choose("image", header, where)
    if image is None and label is not None:  # of two columns the other one
        others = [index for index in range(len(header)) if index not in (label, split, group)]
        image = others[0] if len(others) == 1 else None
    for kind, found in (("image", image), ("label", label)):
        if found is None:
            hint = " If its images have none, as a contest's test.csv, move it away, and name them by tools.predict."
            raise DataError(
                f"{where}: found the columns {', '.join(header)[:200]}, of which none is called {kind}. Rename the one "
                f"that is the {kind} to {kind}, or {', '.join(_NAMES[kind][1:])}.{hint if kind == 'label' else ''}"
            )
    assert image is not None
    assert label is not None
    return Columns(image, label, split, group)


def _choose(kind: str, header: Sequence[str], where: object) -> int | None:
    found = [index for index, name in enumerate(header) if _normal(name) in _NAMES[kind]]
    if len(found) > 1:
        shown = " and ".join(header[index] for index in found)[:200]
        raise DataError(
            f"{where}: found the columns {', '.join(header)[:200]}, of which {shown} may each be the {kind}. Rename "
            "all but one of these."
        )
    return found[0] if found else None


def _normal(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def cell_text(cell: Any) -> str:
    """Return the text of a cell; nothing for one without a value. Whole numbers that are stored as 3.0 are 3."""
    if isinstance(cell, str):
        return cell.strip()
    if cell is None or cell != cell:  # NaN
        return ""
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell)


def cell_labels(cell: Any) -> list[str]:
    """Return the labels of a cell that holds any number: a list, one written as JSON, or texts joined by | or ;.

    Raises:
        ValueError: It looks like a JSON list, but is none of texts and numbers.
    """
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        cell = json.loads(cell)
    if not isinstance(cell, list):
        return [text for part in _SEPARATORS.split(cell_text(cell)) if (text := part.strip())]
    if any(isinstance(item, (list, dict)) for item in cell):
        raise ValueError("it has lists in it")
    return [text for item in cell if (text := cell_text(item))]


def joined_labels(texts: Collection[str]) -> tuple[str, str] | None:
    """Return a label that joins others, and one of these that occurs by itself; None if there is no such label."""
    known = set(texts)
    for text in texts:
        pieces = {piece.strip() for piece in _SEPARATORS.split(text)}
        if len(pieces) > 1 and (alone := sorted(pieces & known)):
            return text, alone[0]
    return None

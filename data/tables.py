"""Data sets listed in tables: CSV, TSV, JSON lines, Parquet, and what Hugging Face's `datasets` writes.

Tables are read row by row into arrays, so that those of ten million images and more fit into memory.
"""

import os
import re
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.columns import Columns, cell_labels, cell_text, choose_columns, joined_labels
from data.folders import class_folders, find_folders
from data.labels import Labels, number_labels
from data.listings import list_folder, read_json
from data.parquet import COLUMN_SUFFIXES, ColumnImages, open_columns
from data.rows import TEXT_SUFFIXES, Rows, open_text
from data.sources import FolderImages, NameList, Names, Opened, Source
from swin.errors import DataError

_SUFFIXES = (*TEXT_SUFFIXES, ".parquet")
_SHARD = re.compile(r"(.+?)-\d+-of-\d+")


def find_tables(root: Path, usual: Sequence[str], *, group_by: str = "") -> list[str]:
    """Return the parts of a data set that is listed in tables; none where `root` is no such data set.

    They are the names of the tables, as train of train.csv, or of the folders with a metadata.csv each, if one of them
    is called as parts are. Else they are the values of the only table's column for the split, or "" without a column.

    Args:
        root: A table, or a folder with tables.
        usual: What parts are called, in lower case.
        group_by: See `open_tables`.

    Raises:
        DataError: The only table has no column that is called as an image's or a label's, or several.
    """
    files = _locate(root)
    if any(part.lower() in usual for part in files):
        if any(find_folders(root, usual)) and not _recognised(files, group_by)[0]:
            return []  # captions, say, in the metadata.csv of folders of classes
        return sorted(files)
    if not files or any(find_folders(root, usual)):
        return []
    named, refused = _recognised(files, group_by)
    if not named and len(class_folders(root)) > 1:
        return []  # these are the classes, and what lies beside them is about something else
    if not named:
        raise refused[0]
    if len(named) > 1:
        return sorted(named)
    rows, columns = next(iter(named.values()))
    if columns.split is None:
        return [""]
    return sorted({cell_text(cells[0]) for _, cells in rows.read([columns.split])} - {""})


def _recognised(
    files: Mapping[str, Sequence[Path]], group_by: str
) -> tuple[dict[str, tuple[Rows, Columns]], list[DataError]]:
    """Return the tables that list images, and why others do not."""
    named, refused = {}, []
    for part, shards in files.items():
        try:
            named[part] = _open(shards, group_by)
        except DataError as error:
            refused.append(error)
    return named, refused


def _open(files: Sequence[Path], group_by: str) -> tuple[Rows, Columns]:
    rows = open_columns(files) if files[0].suffix.lower() in COLUMN_SUFFIXES else open_text(files[0])
    return rows, choose_columns(rows.header, files[0], group_by, rows.contents)


def _locate(root: Path) -> dict[str, list[Path]]:
    """Return the files of each table by its name; a Parquet table may have several, its shards."""
    if os.path.isfile(root):
        return {"": [root]} if root.suffix.lower() in _SUFFIXES else {}
    tables = _saved_tables(root) or _tables_in(root) or _tables_in(root / "data", ".parquet")
    if tables:
        return tables
    folders = {name: _tables_in(root / name).get("metadata") for name in class_folders(root)}
    return {name: files for name, files in folders.items() if files}


def _tables_in(folder: Path, *suffixes: str) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for name in sorted(entry.name for entry in list_folder(folder, missing_ok=True)):
        file = folder / name
        if file.suffix.lower() in (suffixes or _SUFFIXES):
            shard = _SHARD.fullmatch(file.stem) if file.suffix.lower() == ".parquet" else None
            found[shard[1] if shard else file.stem].append(file)
    for files in found.values():
        if len(files) > 1 and not _SHARD.fullmatch(files[0].stem):
            raise DataError(f"{files[0]}: {files[1].name} lies beside it. Remove one of them, or rename it.")
    return dict(found)


def _saved_tables(root: Path) -> dict[str, list[Path]]:
    """Return the Arrow files of each part of what `save_to_disk` of Hugging Face's `datasets` wrote."""
    parts = [""] if os.path.lexists(root / "state.json") else class_folders(root)
    states = {part: root / part / "state.json" for part in parts if os.path.lexists(root / part / "state.json")}
    try:
        return {
            part: [state.parent / entry["filename"] for entry in read_json(state)["_data_files"]]
            for part, state in states.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{root}: its state.json cannot be read: {error!r}. Save the data set again.") from None


def open_tables(
    root: Path,
    parts: Sequence[str],
    classes: Sequence[str] | None = None,
    *,
    group_by: str = "",
    multi_label: bool = False,
) -> Opened:
    """Open tables with a row for each image: its path, or the image itself, and its label.

    Columns are found by their names, see `data.columns`; without a header they are path and label. Paths are relative
    to the folder of the table. Labels are names of classes, sorted to number them; or, where all of the first part's
    are, numbers from 0.

    Args:
        root: A table, or the folder with the tables.
        parts: Their names, see `find_tables`; "" for all rows.
        classes: A label map to use instead of the first part's.
        group_by: Name of the column with the groups of images, if there is one by this name.
        multi_label: Whether an image has any number of labels.

    Raises:
        DataError: A table is missing, empty or malformed, or has labels unknown to the first part or to the label map.
    """
    files = _locate(root)
    read: dict[str, _Part] = {}
    for part in parts:
        if part in files:
            read |= _read(*_open(files[part], group_by), [part], multi_label)
    if others := [part for part in parts if part not in files]:
        named, _ = _recognised(files, group_by)
        rows, columns = next(iter(named.values()), (None, Columns(0, 1)))
        if rows is None or len(named) > 1 or (columns.split is None and others != [""]):
            raise DataError(f"{root}: has a table of images for {', '.join(files)} only. Add {others[0]}.csv.")
        read |= _read(rows, columns, others, multi_label, by_split=others != [""])
    classes, labels = number_labels({part: read[part].labels() for part in parts}, classes)
    sources = {part: read[part].source(labels[part]) for part in parts}
    groups: dict[str, Sequence[str]] = {
        part: read[part].groups.names() for part in parts if read[part].columns.group is not None
    }
    return Opened(classes, sources, groups)


class _Part:
    """The rows of one part, as they are read."""

    def __init__(self, where: str, rows: Rows, columns: Columns, texts: dict[str, int], multi_label: bool) -> None:
        self.where, self.rows, self.columns, self.texts, self.multi_label = where, rows, columns, texts, multi_label
        self.names, self.groups = NameList(), NameList()
        self.numbers, self.codes, self.stops = array("q"), array("q"), array("q")
        self.holds_images = columns.image in rows.contents

    def add(self, number: int, path: str, labels: Sequence[str], group: str) -> None:
        self.numbers.append(number)
        self.names.append((f"{number:08d}/{path}" if path else f"{number:08d}") if self.holds_images else path)
        self.codes.extend([self.texts.setdefault(text, len(self.texts)) for text in labels])
        if self.multi_label:
            self.stops.append(len(self.codes))
        if self.columns.group is not None:
            self.groups.append(group)

    def labels(self) -> Labels:
        if not self.numbers:
            raise DataError(f"{self.where}: lists no images. Expected a line `path,label` for each.")
        names = Names.of("" for _ in self.numbers) if self.holds_images else self.names.names()
        stops = np.frombuffer(self.stops, dtype=np.int64) if self.multi_label else None
        texts, codes = list(self.texts), np.frombuffer(self.codes, dtype=np.int64)
        if not self.multi_label and (joined := joined_labels(texts)):
            raise DataError(
                f"{self.where}: label {joined[0]!r} seems to join several, as {joined[1]!r}. If an image may have "
                "several labels, set DATA.MULTI_LABEL True; else rename it."
            )
        return Labels(self.where, names, texts, codes, stops, self.rows.declared.get(self.columns.label))

    def source(self, labels: np.ndarray) -> Source:
        files, numbers = self.rows.files, np.frombuffer(self.numbers, dtype=np.int64)
        if self.holds_images:
            assert self.rows.header is not None
            return ColumnImages(files, self.rows.header[self.columns.image], numbers, self.names.names(), labels)
        return ListedImages(self.rows, self.names.names(), labels, numbers)


def _read(
    rows: Rows, columns: Columns, wanted: Sequence[str], multi_label: bool, *, by_split: bool = False
) -> dict[str, _Part]:
    """Read all rows as the one part that is wanted; or those of each that is, by the column for the split."""
    file, texts = str(rows.files[0]), dict[str, int]()
    parts = {part: _Part(f"{file}, {part}" if by_split else file, rows, columns, texts, multi_label) for part in wanted}
    part = next(iter(parts.values()))
    # In place of columns that are not there the image's is read.
    cells = rows.read([columns.image if column is None else column for column in columns])
    for number, (image, label, split, group) in cells:
        if by_split:
            if not cell_text(split):
                raise DataError(f"{rows.place(number)}: says no part. Write train, val or test there, or remove it.")
            if cell_text(split) not in parts:
                continue
            part = parts[cell_text(split)]
        try:
            labels = cell_labels(label) if multi_label else _one_label(label)
        except ValueError as error:
            raise DataError(f"{rows.place(number)}: label {str(label)[:80]!r} cannot be read: {error}.") from None
        path = cell_text(image)
        if not (path or part.holds_images) or not (labels or multi_label):
            shown = ",".join(map(cell_text, (image, label)))[:80]
            hint = " If images may have no label, or several, set DATA.MULTI_LABEL True." if path else ""
            raise DataError(f"{file}: found {shown!r}, expected a path and a label, in {rows.unit} {number}.{hint}")
        part.add(number, path, labels, cell_text(group))
    return parts


def _one_label(cell: object) -> list[str]:
    if isinstance(cell, list):
        raise ValueError("it is a list; set DATA.MULTI_LABEL True if an image may have several labels")
    text = cell_text(cell)
    return [text] if text else []


class ListedImages(FolderImages):
    """Image files that a table lists, by their paths relative to its folder.

    Args:
        rows: The table.
        names: The paths.
        labels: See `data.sources.Source`.
        numbers: int64 (N,), the lines, or the rows of a Parquet table, that list the images.
    """

    def __init__(self, rows: Rows, names: Names, labels: np.ndarray, numbers: np.ndarray) -> None:
        super().__init__(rows.files[0].parent, names, labels)
        self.table, self.unit, self.numbers = rows.files[0], rows.unit, numbers

    def read(self, index: int) -> bytes:
        try:
            return super().read(index)
        except DataError as error:
            raise DataError(f"{self.table}, {self.unit} {self.numbers[index]}: {error}") from None

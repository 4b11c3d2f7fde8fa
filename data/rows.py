"""The rows of tables in text: CSV, TSV, and JSON lines."""

import csv
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.columns import is_header
from data.listings import read_lines
from swin.errors import DataError

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
TEXT_SUFFIXES = (*_DELIMITERS, ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Rows:
    """A table, read row by row as often as it is asked for.

    Attributes:
        files: Its file, or its shards.
        header: Names of its columns, if it has them.
        read: From indices of columns to the number of each row, a line's from 1 where it is text, and these cells.
        declared: Names of all classes, by the index of the column for which the file declares them.
        contents: Indices of the columns that hold images; read, their cells are paths or None.
        unit: What the number of a row counts.
    """

    files: Sequence[Path]
    header: list[str] | None
    read: Callable[[Sequence[int]], Iterator[tuple[int, list[Any]]]]
    declared: Mapping[int, list[str]] = field(default_factory=dict)
    contents: Collection[int] = ()
    unit: str = "line"

    def place(self, number: int) -> str:
        """Return where a row is, as errors say it."""
        return f"{self.files[0]}, {self.unit} {number}"


def open_text(file: Path) -> Rows:
    """Open a table in text; raise a DataError where it, or when it is read a line of it, is malformed."""
    if file.suffix.lower() not in _DELIMITERS:
        return _open_json_lines(file)
    delimiter = _delimiter(file)
    first = next(_csv_rows(file, delimiter), (0, []))[1]
    header = first if is_header(first) else None

    def read(columns: Sequence[int]) -> Iterator[tuple[int, list[Any]]]:
        rows, last = _csv_rows(file, delimiter), max(columns)
        if header is not None:
            next(rows)
        for line, row in rows:
            if len(row) <= last:
                found = delimiter.join(row)[:80]
                expected = f"{len(header)} columns" if header and last > 1 else "a path and a label"
                raise DataError(f"{file}: found {found!r}, expected {expected}, in line {line}.")
            yield line, [row[column] for column in columns]

    return Rows([file], header and [name.strip() for name in header], read)


def _delimiter(file: Path) -> str:
    """Return what separates the cells: in a .csv a semicolon or a tab if its first line has no comma, but these."""
    first = next(read_lines(file), "")
    own = _DELIMITERS[file.suffix.lower()]
    return next((other for other in ";\t" if own == "," and "," not in first and other in first), own)


def _csv_rows(file: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the last line of each row that is not empty, and its cells."""
    rows = csv.reader(read_lines(file, newline=""), delimiter=delimiter)
    try:
        for row in rows:
            if any(row):
                yield rows.line_num, row
    except csv.Error as error:
        raise DataError(f"{file}: line {rows.line_num} is malformed: {error}. Is a quote open?") from None


def _open_json_lines(file: Path) -> Rows:
    header = list(next(_json_rows(file), (0, {}))[1])

    def read(columns: Sequence[int]) -> Iterator[tuple[int, list[Any]]]:
        names = [header[column] for column in columns]
        for line, row in _json_rows(file):
            yield line, [row.get(name) for name in names]

    return Rows([file], header, read)


def _json_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(read_lines(file), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise DataError(
                    f"{file}: found {line.strip()[:80]!r} in line {number}, expected a JSON object, as "
                    '{"file_name": "1.jpg", "label": "cat"}.'
                )
            yield number, row

"""Tables in Parquet, and in Arrow as Hugging Face's `datasets` saves them; the images are in them or beside them.

Needs pyarrow: pip install swin-trainer[parquet].
"""

import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from data.rows import Rows
from data.sources import Names
from swin.errors import ConfigError, DataError, printable
from swin.files import MAX_FILE_BYTES, open_regular, read_file

COLUMN_SUFFIXES = (".parquet", ".arrow")
_MAX_CACHE_BYTES = 256 << 20  # of row groups that a process keeps, beside the last


class ColumnFile:
    """A Parquet or Arrow file, in chunks that are read as a whole: row groups, or all of an Arrow file, in place.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.schema: Any
        try:
            if path.suffix.lower() == ".arrow":
                self.schema = self._arrow.schema
                self.sizes = [self._arrow.num_rows]
            else:
                self.schema = self._parquet.schema_arrow
                groups = [self._parquet.metadata.row_group(i) for i in range(self._parquet.num_row_groups)]
                self.sizes = [group.num_rows for group in groups]
                self._check(max((group.total_byte_size for group in groups), default=0))
        except (OSError, ValueError) as error:  # pyarrow's own errors are some of these
            raise _unreadable(path, error) from None

    @cached_property
    def _parquet(self) -> Any:
        os.close(open_regular(self.path))  # refuses a FIFO and the like
        return _import_pyarrow("parquet").ParquetFile(str(self.path))

    @cached_property
    def _arrow(self) -> Any:
        pyarrow = _import_pyarrow("ipc")
        os.close(open_regular(self.path))
        return pyarrow.open_stream(_import_pyarrow("lib").memory_map(str(self.path))).read_all()

    def _check(self, largest: int) -> None:
        if largest > MAX_FILE_BYTES:
            raise DataError(
                f"{self.path}: has a row group of {largest:,} bytes, which each read of an image would load. Write it "
                "with fewer rows a group, as row_group_size=100."
            )

    def read(self, chunk: int, columns: Sequence[str]) -> Any:
        """Return columns of a chunk as a pyarrow.Table; `struct.field` takes one field of a column."""
        try:
            if self.path.suffix.lower() == ".arrow":
                return self._arrow
            return self._parquet.read_row_group(chunk, columns=list(columns), use_threads=False)
        except (OSError, ValueError) as error:
            raise _unreadable(self.path, error) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read: {str(error)[:200]}. Copy or write it again.")


def _import_pyarrow(module: str) -> Any:
    try:
        from importlib import import_module

        return import_module(f"pyarrow.{module}")
    except ImportError:
        raise ConfigError(
            "Parquet and Arrow files are read by pyarrow, which is not installed. Run `pip install pyarrow`, or "
            "install this project with the extra `parquet`."
        ) from None


def open_columns(files: Sequence[Path]) -> Rows:
    """Open the shards of one table; its rows are numbered from 0 over all of them.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: A shard cannot be read, or has other columns than the first.
    """
    opened = [ColumnFile(file) for file in files]
    schema = opened[0].schema
    for file in opened[1:]:
        if file.schema.names != schema.names:
            raise DataError(
                f"{file.path}: its columns are {', '.join(file.schema.names)}, but those of {files[0]} are "
                f"{', '.join(schema.names)}. Write both again."
            )
    declared = _declared(schema)
    contents = [index for index, kind in enumerate(schema.types) if _holds_images(kind)]

    def read(columns: Sequence[int]) -> Iterator[tuple[int, list[Any]]]:
        # Of a column with images, only their paths, if it has any.
        wanted = {c: schema.names[c] for c in columns if c not in contents or _has_path(schema.types[c])}
        paths = [f"{name}.path" if column in contents else name for column, name in wanted.items()]
        rows = count()
        for file, chunk, size in _chunks(opened):
            table = file.read(chunk, paths)
            found = {column: _cells(table[name], declared.get(column)) for column, name in wanted.items()}
            for cells in zip(*(found.get(column, [None] * size) for column in columns), strict=True):
                yield next(rows), list(cells)

    return Rows(files, list(schema.names), read, declared, contents, "row")


def _chunks(files: Sequence[ColumnFile]) -> list[tuple[ColumnFile, int, int]]:
    """Return each file, number and size of the chunks of a table."""
    return [(file, chunk, size) for file in files for chunk, size in enumerate(file.sizes)]


def _holds_images(kind: Any) -> bool:
    return str(kind) in ("binary", "large_binary") or str(kind).startswith("struct<bytes:")


def _has_path(kind: Any) -> bool:
    return str(kind).startswith("struct<") and kind.get_field_index("path") >= 0


def _cells(column: Any, names: Sequence[str] | None) -> list[Any]:
    """Return the values of a column: of structs their path, and names for the numbers of classes."""
    if str(column.type).startswith("struct<"):
        column = _import_pyarrow("compute").struct_field(column, "path")
    values = column.to_pylist()
    return values if names is None else [_class_name(value, names) for value in values]


def _class_name(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_class_name(item, names) for item in value]
    return names[value] if value is not None and 0 <= value < len(names) else None  # -1 is an image without a label


def _declared(schema: Any) -> dict[int, list[str]]:
    """Return the names of the classes of Hugging Face's ClassLabel, or of lists of it, by the index of their column."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    found = {}
    for index, name in enumerate(schema.names):
        feature = features.get(name, {})
        feature = feature[0] if isinstance(feature, list) else feature
        feature = feature if "names" in feature else feature.get("feature", {})
        if feature.get("_type") == "ClassLabel":
            found[index] = list(feature["names"])
    return found


class ColumnImages:
    """Images in a column of Parquet or Arrow files, as bytes, or as paths beside the first file.

    Args:
        files: The shards.
        column: Name of the column, of bytes, or of structs of `bytes` and `path`.
        rows: int64 (N,), the rows to take, counted over all shards.
        names: One an image.
        labels: See `data.sources.Source`.
    """

    def __init__(self, files: Sequence[Path], column: str, rows: np.ndarray, names: Names, labels: np.ndarray) -> None:
        self.folder, self.column, self.rows, self.names, self.labels = files[0].parent, column, rows, names, labels
        chunks = _chunks([ColumnFile(file) for file in files])
        self._places = [(file.path, chunk) for file, chunk, _ in chunks]
        self._stops = np.cumsum([size for _, _, size in chunks])
        self._cache = _Chunks()

    def name(self, index: int) -> str:
        return printable(f"{self.folder}: {self.names[index]}")

    def read(self, index: int) -> bytes:
        row = int(self.rows[index])
        chunk = int(np.searchsorted(self._stops, row, side="right"))
        values = self._cache.get(*self._places[chunk], self.column)
        place = row - int(self._stops[chunk - 1] if chunk else 0)
        value = values[place].as_py() if place < len(values) else None  # of a damaged file
        content = value["bytes"] if isinstance(value, dict) else value
        if content is None and isinstance(value, dict) and value.get("path"):
            return read_file(os.path.join(self.folder, value["path"]))
        if content is None:
            raise DataError(f"{self.name(index)}: row {row} holds no image. Remove the row.")
        return content


class _Chunks:
    """Chunks of a column that a process has read last; each process for itself, as with `data.sources.OpenFiles`."""

    def __init__(self) -> None:
        self._pid = -1

    def get(self, path: Path, chunk: int, column: str) -> Any:
        if self._pid != os.getpid():  # forked: a stream of the parent's would share its position
            self._pid, self._bytes = os.getpid(), 0
            self._files: dict[Path, ColumnFile] = {}
            self._chunks: OrderedDict[tuple[Path, int], Any] = OrderedDict()  # last used last
        if (path, chunk) not in self._chunks:
            file = self._files[path] = self._files.get(path) or ColumnFile(path)
            values = self._chunks[path, chunk] = file.read(chunk, [column])[column]
            self._bytes += values.nbytes
            while self._bytes > _MAX_CACHE_BYTES and len(self._chunks) > 1:
                self._bytes -= self._chunks.popitem(last=False)[1].nbytes
        self._chunks.move_to_end((path, chunk))
        return self._chunks[path, chunk]

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Chunks, ()  # for workers that are not forked

"""Files of a run that this program writes: replaced at once, or appended to by whole records; and their errors."""

import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from swin.errors import ConfigError

Row = dict[str, Any]
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(what: Path | str) -> Iterator[None]:
    """Turn an OSError into the error for a file or folder of a run that cannot be written: which, why, what to do."""
    try:
        yield
    except OSError as error:
        remedy = "free disk space or change --output" if error.errno in _NO_SPACE else "change --output"
        raise ConfigError(f"{what} cannot be written ({error.strerror or error}); {remedy}.") from None


def encode(text: str) -> bytes:
    """Encode as UTF-8; a lone surrogate, of a file name that is not UTF-8, becomes the escape that JSON has for it."""
    return text.encode("utf-8", "backslashreplace")


def timestamp() -> str:
    """Return the time with its zone, for a file."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


def temporary_path(path: Path) -> Path:
    """Where this process writes a file before it is renamed to `path`; see `RunFolder.remove_leftovers`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def make_folder(folder: Path) -> None:
    """Make a folder and those that it is in, if absent; raise a ConfigError where that fails."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a temporary file, which takes the place of another at the end, unless something fails.

    A reader, or a crash of this program, finds the old file or the new one but no part. It is not synced: unlike a
    checkpoint it can be written again.

    Raises:
        ConfigError: it cannot be written; the old file is left as it was.
    """
    temporary = temporary_path(path)
    with writing(path):
        try:
            yield temporary
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file, see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Any, *, indent: int | None = 2) -> None:
    """Write a JSON file, see `replacing`; without `indent` in one line."""
    write_atomically(path, encode(json.dumps(content, indent=indent, ensure_ascii=False) + "\n"))


class RecordFile:
    """A file that whole records are appended to, each given to the system at once: a killed process loses none.

    The first failure is raised as a ConfigError and closes the file; after that nothing is written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path):
            _refuse_special(path)
            self._file = path.open("ab")

    def write(self, record: bytes) -> None:
        """Append a record."""
        if self._file.closed:
            return
        with writing(self._path):
            try:
                self._file.write(record)
                self._file.flush()
            except OSError:
                with suppress(OSError):
                    self._file.close()
                raise

    def close(self) -> None:
        """Close the file; a network file system may report only now what it could not write."""
        with writing(self._path):
            self._file.close()


class Metrics:
    """A run's metrics.jsonl; nothing is written before `open`.

    Attributes:
        last_eval: the row of the last evaluation; empty if there is none.
    """

    def __init__(self) -> None:
        self.last_eval: Row = {}
        self._rows: RecordFile | None = None

    def open(self, run_dir: Path, step: int, evaluated: bool, go_back: Callable[[int, Sequence[Row]], None]) -> None:
        """Cut what is there back to `step`, and to before its evaluation unless `evaluated`; then go on from there.

        Where rows are cut, `go_back` is called with the samples of the first and the rows at or after it that are kept.
        """
        self.close()
        path = run_dir / "metrics.jsonl"
        with writing(path):
            _refuse_special(path)
            content = path.read_bytes() if path.exists() else b""
        kept, cut = _split_rows(content, step, evaluated)
        # Before the file is cut: if this process is killed in between, the next one finds the same rows to cut.
        first = min((row["samples"] for row in cut if "samples" in row), default=None)
        if first is not None:
            go_back(first, [row for _, row in kept if row.get("samples", -1) >= first])
        lines = b"".join(line + b"\n" for line, _ in kept)
        if lines != content:
            write_atomically(path, lines)
        self.last_eval = next((row for _, row in reversed(kept) if row["kind"] == "eval"), {})
        self._rows = RecordFile(path)

    def add(self, row: Row) -> Row | None:
        """Append a row, and return it as it is written: what is not finite is null. None if no file is open."""
        if self._rows is None:
            return None
        row = _to_json(row)
        self._rows.write(encode(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n"))
        if row["kind"] == "eval":
            self.last_eval = row
        return row

    def close(self) -> None:
        """Close the file."""
        if self._rows is not None:
            self._rows.close()


def _refuse_special(path: Path) -> None:
    """Refuse a pipe, which opening would wait for, a folder or a device."""
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is not a regular file; move it away or change --output.")


def _split_rows(content: bytes, step: int, evaluated: bool) -> tuple[list[tuple[bytes, Row]], list[Row]]:
    """Metrics up to an update, as lines and rows, and the rows after it; lines that are no rows, as torn ones, go."""
    kept, cut = [], []
    for line in content.splitlines():
        try:
            row = json.loads(line)
            is_kept = row["step"] < step or (row["step"] == step and (row["kind"] != "eval" or evaluated))
        except (ValueError, KeyError, TypeError):
            continue
        if is_kept:
            kept.append((line, row))
        else:
            cut.append(row)
    return kept, cut


def _to_json(value: Any) -> Any:
    """Turn tensors, NumPy values and paths into what JSON holds; numbers that are not finite become None."""
    if isinstance(value, dict):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if hasattr(value, "tolist"):
        return _to_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int | str | None) else str(value)

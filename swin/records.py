"""Files of a run that this program writes: replaced at once, or appended to by whole records; and their errors."""

import errno
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from swin.errors import ConfigError

Row = dict[str, Any]
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PROGRESS = ("epoch", "step", "samples", "position")  # fields that say where a row is, not how it went


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


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that a reader, or a crash of this program, finds the old or the new one but no part.

    It is not synced: unlike a checkpoint it can be written again.

    Raises:
        ConfigError: it cannot be written; the old file is left as it was.
    """
    temporary = temporary_path(path)
    with writing(path):
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise


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


class EventFile:
    """TensorBoard's numbers. SummaryWriter would write them in a thread, which a full disk ends with a traceback."""

    def __init__(self, folder: Path, hide_from: int | None) -> None:
        """Start a new file of events in a folder, which is made if absent.

        Numbers of earlier files from `hide_from` samples on are not to be shown.
        """
        with writing(folder):
            folder.mkdir(exist_ok=True)
        # TensorBoard reads the files in the order of their names.
        self.file = RecordFile(folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}")
        self._writer = RecordWriter(self.file)
        self._add(Event(file_version="brain.Event:2"))
        if hide_from is not None:
            self._add(Event(step=hide_from, session_log=SessionLog(status=SessionLog.START)))

    def draw(self, row: Row) -> None:
        """Add the numbers of a row of the metrics, at its samples."""
        values = [
            Summary.Value(tag=f"{row['kind']}/{name}", simple_value=value)
            for name, value in row.items()
            if name not in _PROGRESS and isinstance(value, int | float)
        ]
        self._add(Event(step=row["samples"], summary=Summary(value=values)))

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())


class Metrics:
    """A run's metrics.jsonl and the curves of its tensorboard/; nothing is written before `open`.

    Attributes:
        files: what is open.
    """

    def __init__(self) -> None:
        self.files: list[RecordFile] = []

    def open(self, run_dir: Path, step: int, evaluated: bool) -> None:
        """Cut what is there back to `step`, and to before its evaluation unless `evaluated`; then go on from there."""
        for file in self.files:
            file.close()
        path = run_dir / "metrics.jsonl"
        with writing(path):
            _refuse_special(path)
            content = path.read_bytes() if path.exists() else b""
        kept, cut = _split_rows(content, step, evaluated)
        # TensorBoard hides all that was drawn from a position on, so rows kept there are drawn again. It comes before
        # the file: if this process is killed in between, the next one finds the same rows to cut.
        first = min((row["samples"] for row in cut if "samples" in row), default=None)
        self._events = EventFile(run_dir / "tensorboard", first)
        self.files = [self._events.file]
        for _, row in kept:
            if first is not None and row.get("samples", -1) >= first:
                self._events.draw(row)
        lines = b"".join(line + b"\n" for line, _ in kept)
        if lines != content:
            write_atomically(path, lines)
        self._rows = RecordFile(path)
        self.files.append(self._rows)

    def add(self, row: Row) -> None:
        """Append a row to the file and its numbers to the curves; what is not finite becomes null, and is not drawn."""
        if self.files:
            row = _to_json(row)
            self._rows.write(encode(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n"))
            self._events.draw(row)


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

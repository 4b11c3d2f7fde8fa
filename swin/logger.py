"""What a run says: console, log.txt, metrics.jsonl and TensorBoard events, continued where a stopped run left off."""

import json
import math
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from termcolor import colored
from tqdm import tqdm

from swin.errors import ConfigError
from swin.run_folder import cannot_write, encode, write_atomically

_ANSI_CODES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PROGRESS = ("epoch", "step", "samples", "position")  # fields that say where a row is, not how it went


class Logger:
    """Writes messages and metrics from the main process; the others only remember their warnings for it.

    At first there is only the console. From `open` on, log.txt and the metrics are written too.

    Every method raises ConfigError when a file cannot be written, once: that file is then left alone, so that the
    error itself can still be reported.

    Attributes:
        warnings: On a process other than the main one, what `warning` was called with.
    """

    def __init__(self, *, is_main: bool) -> None:
        """Start on the console.

        Args:
            is_main: Whether this process writes at all.
        """
        self.warnings: list[str] = []
        self._is_main = is_main
        self._is_terminal = sys.stdout is not None and sys.stdout.isatty()
        self._bar: tqdm | None = None
        self._shown: set[str] = set()
        self._early_lines: list[bytes] = []
        self._log: _RecordFile | None = None
        self._metrics: _RecordFile | None = None
        self._board: _EventFile | None = None

    def open(self, run_dir: Path, *, step: int, evaluated: bool = True, has_metrics: bool = True) -> None:
        """Append to the files of a run from here on, after cutting its metrics back to where it is resumed.

        A run that goes back to an earlier checkpoint opens them again.

        Args:
            run_dir: The run's folder, which exists.
            step: Updates done; rows of later updates, of a process that was killed, go.
            evaluated: Whether the evaluation after that update is done too; else its row goes.
            has_metrics: Whether there will be metrics, and not only messages.
        """
        if not self._is_main:
            return
        if self._log is None:
            self._log = _RecordFile(run_dir / "log.txt")
            for line in self._early_lines:
                self._log.write(line)
        if has_metrics:
            self._open_metrics(run_dir, step, evaluated)

    def info(self, message: str) -> None:
        """Write a message to the console and log.txt."""
        self._write(message, "INFO", None)

    def warning(self, message: str) -> None:
        """Write a message that asks for attention to the console and log.txt; on other processes, remember it."""
        if self._is_main:
            self._shown.add(message)
        else:
            self.warnings.append(message)
        self._write(f"warning: {message}", "WARNING", "yellow")

    def show_warnings(self, by_rank: Sequence[Sequence[str]]) -> None:
        """Write what other processes warned of, each message once and only if this one has not written it.

        Args:
            by_rank: `warnings` of every process.
        """
        for rank, messages in enumerate(by_rank):
            for message in messages:
                if message not in self._shown:
                    self._shown.add(message)
                    self._write(f"warning: process {rank}: {message}", "WARNING", "yellow")

    def error(self, message: str) -> None:
        """Write what ended the run to standard error and log.txt; if log.txt fails now, the run's own error counts."""
        with suppress(ConfigError):
            self._write(f"error: {message}", "ERROR", "red", is_error=True)

    def metrics(self, kind: str, **fields: Any) -> None:
        """Append one line to metrics.jsonl, and its numbers to TensorBoard at `fields["samples"]`.

        NaN and infinities, which JSON lacks, become null and are left out of TensorBoard. Where the run is (`epoch`,
        `step`, `samples`, `position`) is not drawn.

        Args:
            kind: `train` or `eval`.
            fields: Numbers, 0-d tensors, strings, lists or dicts; among them `step`, and `samples`: the samples done
                over all epochs.
        """
        if self._metrics is None or self._board is None:
            return
        row = _plain({"kind": kind, **fields})
        self._metrics.write(encode(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n"))
        self._board.draw(row)

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Show how far an epoch or evaluation is, as a bar on a terminal and not at all elsewhere.

        Args:
            done: Steps done; the bar goes away when this reaches `total`.
            total: Steps in all.
            text: What is being done.
        """
        if not (self._is_main and self._is_terminal):
            return
        if self._bar is None or self._bar.total != total or done < self._bar.n:
            self._close_bar()
            self._bar = tqdm(desc=text, total=total, initial=done, file=sys.stdout, leave=False, dynamic_ncols=True)
        self._bar.set_description_str(text, refresh=False)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._close_bar()

    def close(self) -> None:
        """Close everything; what a network file system reports only now is written to standard error."""
        self._close_bar()
        for file in (self._log, self._metrics, self._board):
            try:
                if file is not None:
                    file.close()
            except ConfigError as error:
                self._print(f"error: {error}", sys.stderr)

    def _open_metrics(self, run_dir: Path, step: int, evaluated: bool) -> None:
        if self._metrics and self._board:
            self._metrics.close()
            self._board.close()
        path = run_dir / "metrics.jsonl"
        content = _read(path)
        kept, cut = _split_rows(content, step, evaluated)
        # TensorBoard hides all that was drawn from a position on, so rows kept there are drawn again. It comes before
        # the file: if this process is killed in between, the next one finds the same rows to cut.
        first = min((row["samples"] for row in cut if "samples" in row), default=math.inf)
        self._board = _EventFile(run_dir / "tensorboard", None if first == math.inf else int(first))
        for _, row in kept:
            if row.get("samples", -1) >= first:
                self._board.draw(row)
        lines = b"".join(line + b"\n" for line, _ in kept)
        if lines != content:
            write_atomically(path, lines)
        self._metrics = _RecordFile(path)

    def _write(self, message: str, level: str, color: str | None, *, is_error: bool = False) -> None:
        if not self._is_main:
            return
        plain = _ANSI_CODES.sub("", message)
        console = (colored(message, color) if color else message) if self._is_terminal else plain
        self._print(console, sys.stderr if is_error else sys.stdout)
        self._record(plain, level)

    def _record(self, message: str, level: str) -> None:
        line = encode(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {level} {message}\n")
        if self._log is None:
            self._early_lines.append(line)
        else:
            self._log.write(line)

    def _print(self, text: str, stream: TextIO | None) -> None:
        if stream is None:  # started without one, as by `>&-`
            return
        encoding = stream.encoding or "utf-8"
        try:
            # tqdm puts the line above a live bar.
            tqdm.write(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)
            stream.flush()
        except OSError as error:
            # Its reader has gone (`| head`), or it is a file on a full disk. Training goes on, and what Python still
            # holds for the stream, which it would fail to flush at its end, goes nowhere.
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
            self._record(f"warning: the console is gone ({error.strerror}); going on without it", "WARNING")

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _RecordFile:
    """A file that whole records are appended to, each given to the system at once: a killed process loses none.

    The first failure is raised as a ConfigError and closes the file; after that nothing is written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            _refuse_special(path)
            self._file = path.open("ab")
        except OSError as error:
            raise cannot_write(path, error) from None

    def write(self, record: bytes) -> None:
        if self._file.closed:
            return
        try:
            self._file.write(record)
            self._file.flush()
        except OSError as error:
            with suppress(OSError):
                self._file.close()
            raise cannot_write(self._path, error) from None

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise cannot_write(self._path, error) from None


class _EventFile:
    """TensorBoard's numbers. SummaryWriter would write them in a thread, which a full disk ends with a traceback."""

    def __init__(self, folder: Path, hide_from: int | None) -> None:
        """Start a new file of events in a folder.

        Args:
            folder: made if absent.
            hide_from: samples from which on earlier files' numbers are not to be shown; None for never.
        """
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from None
        # TensorBoard reads the files in the order of their names.
        self._file = _RecordFile(folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}")
        self._writer = RecordWriter(self._file)
        self._add(Event(file_version="brain.Event:2"))
        if hide_from is not None:
            self._add(Event(step=hide_from, session_log=SessionLog(status=SessionLog.START)))

    def draw(self, row: dict[str, Any]) -> None:
        """Add the numbers of a row of the metrics."""
        values = [
            Summary.Value(tag=f"{row['kind']}/{name}", simple_value=value)
            for name, value in row.items()
            if name not in _PROGRESS and isinstance(value, int | float)
        ]
        self._add(Event(step=row["samples"], summary=Summary(value=values)))

    def close(self) -> None:
        self._file.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())


def _refuse_special(path: Path) -> None:
    """Refuse a pipe, which opening would wait for, a folder or a device."""
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is not a regular file; move it away or change --output.")


def _read(path: Path) -> bytes:
    try:
        _refuse_special(path)
        return path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise cannot_write(path, error) from None


def _split_rows(content: bytes, step: int, evaluated: bool) -> tuple[list[tuple[bytes, dict]], list[dict]]:
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


def _plain(value: Any) -> Any:
    """Turn tensors, NumPy values and paths into what JSON holds; numbers that are not finite become None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int | str | None) else str(value)

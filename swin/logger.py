"""What a run says: on the console, in log.txt and as metrics, continued where a stopped run left off."""

import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from termcolor import colored
from tqdm import tqdm

from swin.errors import ConfigError
from swin.records import Metrics, RecordFile, encode
from swin.trackers import Tracker, Trackers
from swin.trackers.base import curves

_ANSI_CODES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Logger:
    """Writes messages and metrics from the main process; the others only keep their warnings for it.

    At first there is only the console. From `open` on, log.txt and the metrics are written too. Every method raises
    ConfigError when a file cannot be written, once: that file is then left alone, so that the error can be reported.

    Attributes:
        warnings: On a process other than the main one, what `warning` was called with.
    """

    def __init__(self, *, is_main: bool) -> None:
        """Start on the console."""
        self.warnings: list[str] = []
        self._is_main = is_main
        self._is_terminal = sys.stdout is not None and sys.stdout.isatty()
        self._bar: tqdm[Any] | None = None
        self._shown: set[str] = set()
        self._early_lines: list[bytes] = []
        self._log: RecordFile | None = None
        self._metrics = Metrics()
        self._trackers: Trackers | None = None

    def open(
        self,
        run_dir: Path,
        *,
        step: int,
        evaluated: bool = True,
        trackers: Sequence[str] = ("tensorboard",),
        name: str = "",
    ) -> None:
        """Append to the files of a run's existing folder from here on; one that goes back opens them again.

        Its metrics are cut back first: rows after `step` updates, of a process that was killed, go, and so does that
        of the evaluation after them unless it was `evaluated`.

        Args:
            run_dir: The run's folder.
            step: Updates that are done.
            evaluated: Whether the evaluation after them is done.
            trackers: Names as in LOGGERS, of what shows the run; taken when it is opened first.
            name: What they call the run.
        """
        if not self._is_main:
            return
        if self._log is None:
            self._log = RecordFile(run_dir / "log.txt")
            for line in self._early_lines:
                self._log.write(line)
        if self._trackers is None:
            self._trackers = Trackers(trackers, run_dir, name, self.warning)
            for place in self._trackers.places:
                self.info(place)
        self._metrics.open(
            run_dir, step, evaluated, lambda first, rows: self._track(lambda it: it.go_back(first, rows))
        )

    def info(self, message: str) -> None:
        """Write a message to the console and log.txt."""
        self._write(message, "INFO", None)

    def warning(self, message: str) -> None:
        """Write a message that asks for attention to the console and log.txt; on other processes, keep it."""
        if self._is_main:
            self._shown.add(message)
        else:
            self.warnings.append(message)
        self._write(f"warning: {message}", "WARNING", "yellow")

    def show_warnings(self, by_rank: Sequence[Sequence[str]]) -> None:
        """Write the `warnings` of every process, each message once and only if this one has not written it."""
        for rank, messages in enumerate(by_rank):
            for message in messages:
                if message not in self._shown:
                    self._shown.add(message)
                    self._write(f"warning: process {rank}: {message}", "WARNING", "yellow")

    def error(self, message: str) -> None:
        """Write what ended the run to standard error and log.txt; if log.txt fails now, the run's own error counts."""
        with suppress(ConfigError):
            self._write(f"error: {message}", "ERROR", "red")

    def metrics(self, kind: str, **fields: Any) -> None:
        """Append one line to metrics.jsonl, and have the trackers draw its numbers at `fields["samples"]`.

        NaN and infinities, which JSON lacks, become null and are not drawn, nor are counts and where the run is.

        Args:
            kind: `train` or `eval`.
            fields: Numbers, 0-d tensors, strings, lists or dicts; among them `step`, and `samples` over all epochs.
        """
        row = self._metrics.add({"kind": kind, **fields})
        if row is not None:
            self._track(lambda it: it.scalars(row))

    def text(self, name: str, markdown: str, samples: int) -> None:
        """Have the trackers show a text, at a run's `samples`."""
        self._track(lambda it: it.text(name, markdown, samples))

    def image(self, name: str, image_HWC: np.ndarray, samples: int) -> None:
        """Have the trackers show a picture, uint8 with C = 3, at a run's `samples`."""
        self._track(lambda it: it.image(name, image_HWC, samples))

    def hparams(self, config: Mapping[str, Any], *, done: bool = False) -> None:
        """Have the trackers show the config, by dotted keys; when training is `done`, with its last evaluation."""
        row = {**self._metrics.last_eval, "kind": "final"}
        self._track(lambda it: it.hparams(config, curves(row) if done else None))

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Show how far an epoch is, as a bar on a terminal until `total` is reached, and not at all elsewhere."""
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
        """Close everything; what a network file system reports only now is written to standard error.

        After that there is only the console again, until it is opened for another run.
        """
        self._close_bar()
        for close in (self._trackers and self._trackers.close, self._log and self._log.close, self._metrics.close):
            try:
                if close:
                    close()
            except ConfigError as error:
                self._print(f"error: {error}", sys.stderr)
        self._log, self._trackers, self._metrics = None, None, Metrics()
        self._early_lines.clear()

    def _track(self, do: Callable[[Tracker], None]) -> None:
        if self._trackers is not None:
            self._trackers.each(do)

    def _write(self, message: str, level: str, color: str | None) -> None:
        if not self._is_main:
            return
        plain = _ANSI_CODES.sub("", message)
        console = (colored(message, color) if color else message) if self._is_terminal else plain
        self._print(console, sys.stderr if level == "ERROR" else sys.stdout)
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

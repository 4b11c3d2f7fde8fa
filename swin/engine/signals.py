"""Stopping politely: a signal asks, the training loop saves and ends."""

import signal
import time
from types import FrameType, TracebackType
from typing import Any

# Launchers repeat a signal that the terminal or the scheduler has already sent to every process; a second Ctrl-C later
# than this comes from a person who does not want to wait.
_REPEAT_SEC = 3.0
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]


class StopRequest:
    """Context in which SIGTERM, SIGINT and SIGUSR1 (which SLURM can send before a job's end) set `requested`.

    A second Ctrl-C some seconds after the first ends the program at once, as it would have without this context.
    """

    def __init__(self) -> None:
        self.requested = False
        self.name = ""
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested = True
            self.name = signal.Signals(number).name
            self._since = time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since > _REPEAT_SEC:
            raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

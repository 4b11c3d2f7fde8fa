"""Stopping politely: a signal asks, and the run saves and ends."""

import signal
import time
from types import FrameType
from typing import Any

from swin.errors import RunStoppedError

# Launchers repeat a signal that the terminal or the scheduler has already sent to every process; a second Ctrl-C later
# than this comes from a person who does not want to wait.
_REPEAT_SEC = 3.0
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]


class StopRequest:
    """Context in which SIGTERM, SIGINT and SIGUSR1 (which SLURM can send before a job's end) do not kill.

    Before training, when there is nothing to save, they raise RunStoppedError at once. After `defer` they only set
    `requested`; a second Ctrl-C some seconds after the first then ends the program, as without this context.
    """

    def __init__(self) -> None:
        self.requested = False
        self.name = ""
        self._is_deferred = False
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def defer(self) -> None:
        """From here on, where training or the way out begins: signals wait for who looks at `requested`."""
        self._is_deferred = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_first, self.requested = not self.requested, True
        if is_first:
            self.name, self._since = signal.Signals(number).name, time.monotonic()
        if self._is_deferred:
            if number == signal.SIGINT and not is_first and time.monotonic() - self._since > _REPEAT_SEC:
                raise KeyboardInterrupt
        elif is_first:  # a launcher's repetition must not interrupt the way out
            raise RunStoppedError(f"stopped by {self.name} before training began; there was nothing to save")

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

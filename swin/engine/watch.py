"""What a run reports of its data: images that were replaced, and a device that waits."""

import itertools
import os
import time
from collections.abc import Callable, Iterator

from swin.batches import Batch, TrainBatches
from swin.distributed import gather
from swin.errors import DataError
from swin.logger import Logger

_WATCHED_LINES, _GREATEST_WAIT = 5, 0.1  # log lines to judge the waiting by, and the fraction of time that is too much


def timed(batches: Iterator[Batch], note: Callable[[float], None]) -> Iterator[Batch]:
    """Yield the same batches, and have the seconds noted that their consumer waits for each."""
    begin = time.perf_counter()
    for batch in batches:
        note(time.perf_counter() - begin)
        yield batch
        begin = time.perf_counter()


class DataWatch:
    """Warns of images that were replaced on any process, each once, and of a device that waits for data, once.

    Attributes:
        failures: why this process replaced images since they were last reported.
        unreadable: why images were replaced on any process so far, each reason once.
        waited_sec: seconds of waiting since the last log line.
    """

    def __init__(self, loader: TrainBatches, logger: Logger) -> None:
        self.loader, self.logger = loader, logger
        self.failures: list[str] = []
        self.unreadable: dict[str, None] = {}
        self._waits: list[float] = []
        self.waited_sec = 0.0

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the same batches, and count the time that their consumer waits for them."""
        self.waited_sec = 0.0
        return timed(batches, self._note_wait)

    def _note_wait(self, seconds: float) -> None:
        self.waited_sec += seconds

    def report_failures(self) -> None:
        """Collect what was replaced on all processes; all of them call it together.

        Raises:
            DataError: more images than DATA.MAX_ERRORS are unreadable.
        """
        for reason in itertools.chain(*gather(list(dict.fromkeys(self.failures)))):
            if reason not in self.unreadable:
                self.logger.warning(f"skipped, and the next image taken: {reason}")
                self.unreadable[reason] = None
        self.failures.clear()
        if self.loader.max_errors is not None and len(self.unreadable) > self.loader.max_errors:
            raise DataError(
                f"{len(self.unreadable)} images cannot be read, more than DATA.MAX_ERRORS {self.loader.max_errors}; "
                f"the last: {list(self.unreadable)[-1]} `python -m tools.check_dataset` lists all of them.",
                is_shared=True,
            )

    def log_wait(self, wait: float) -> None:
        """Take the fraction of the time since the last log line that was spent waiting for data."""
        self._waits.append(wait)
        # Not the first line: until then workers were starting.
        mean = sum(self._waits[1:]) / _WATCHED_LINES
        if len(self._waits) == 1 + _WATCHED_LINES and mean > _GREATEST_WAIT:
            cpus, workers = os.cpu_count() or 1, self.loader.num_workers
            more = f"raise DATA.NUM_WORKERS (now {workers})" if workers < cpus else "use a machine with more CPUs"
            self.logger.warning(
                f"{mean:.0%} of the time went into waiting for data with {workers} workers a process and {cpus} "
                f"CPUs. To train faster, {more}, pack the images smaller (python -m tools.pack_dataset --short-side "
                "256), or choose a lighter AUG.AUTO_AUGMENT."
            )

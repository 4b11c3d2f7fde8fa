"""What a run says about its data: images that were replaced, and a device that waits."""

import os

from swin.batches import TrainBatches
from swin.distributed import gather
from swin.errors import DataError
from swin.logger import Logger

_WATCHED_LINES, _GREATEST_WAIT = 5, 0.1  # log lines to judge the waiting by, and the share of time that is too much


class DataWatch:
    """Warns of images that were replaced on any process, each once, and of a device that waits for data, once.

    Attributes:
        failures: why this process replaced images since they were last told.
        unreadable: why images were replaced on any process so far, each reason once.
    """

    def __init__(self, loader: TrainBatches, logger: Logger) -> None:
        self.loader, self.logger = loader, logger
        self.failures: list[str] = []
        self.unreadable: dict[str, None] = {}
        self.shares: list[float] = []

    def tell_failures(self) -> None:
        """Collect what was replaced on all processes; all of them call it together.

        Raises:
            DataError: more images than DATA.MAX_ERRORS are unreadable.
        """
        for reasons in gather(list(dict.fromkeys(self.failures))):
            for reason in reasons:
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

    def log_wait(self, data_wait: float) -> None:
        """Take the share of time since the last log line that was spent waiting for data."""
        self.shares.append(data_wait)
        # Not the first line: until then workers were starting.
        share = sum(self.shares[1:]) / _WATCHED_LINES
        if len(self.shares) == 1 + _WATCHED_LINES and share > _GREATEST_WAIT:
            cpus, workers = os.cpu_count() or 1, self.loader.num_workers
            more = f"raise DATA.NUM_WORKERS (now {workers})" if workers < cpus else "use a machine with more CPUs"
            self.logger.warning(
                f"{share:.0%} of the time went into waiting for data with {workers} workers a process and {cpus} "
                f"CPUs. To train faster, {more}, pack the images smaller (python -m tools.pack_dataset --short-side "
                "256), or choose a lighter AUG.AUTO_AUGMENT."
            )

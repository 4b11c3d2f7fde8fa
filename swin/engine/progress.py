"""How far a run is, in samples: what the order of the samples, the learning rate and the logs follow; and in time."""

import time
from dataclasses import dataclass

from swin.config import Config
from swin.phases import Phases, build_phases
from swin.schedule import Schedule, build_schedule


@dataclass
class Progress:
    """Where a run stands between two updates, however these are divided into processes and micro-batches.

    After another total batch a run goes on where it was: the schedule is laid out once, for the total batch that the
    run began with.

    Attributes:
        num_samples: samples of an epoch, over all processes.
        total_batch: samples of an update when the run began.
        total_samples: samples of the whole run; where it ends may lie within an epoch.
        epoch: the epoch at hand, from 0.
        position: samples of that epoch which are done.
        step: updates done since the start; a count for people, of which nothing follows but random numbers.
    """

    num_samples: int
    total_batch: int
    total_samples: int
    epoch: int = 0
    position: int = 0
    step: int = 0

    @property
    def samples(self) -> int:
        """Samples done since the start."""
        return self.epoch * self.num_samples + self.position

    @property
    def is_over(self) -> bool:
        """Whether all samples of the run are done."""
        return self.samples >= self.total_samples

    @property
    def last_epoch(self) -> int:
        """The epoch of the last update: the one at hand if it has begun, else the one before; -1 at the start."""
        return self.epoch - (self.position == 0)

    @property
    def total_epochs(self) -> float:
        """Epochs of the whole run, perhaps broken."""
        return self.total_samples / self.num_samples

    @property
    def updates_per_epoch(self) -> int:
        """Updates of an epoch at the total batch that the run began with, the smaller one at its end included."""
        return -(-self.num_samples // self.total_batch)

    @property
    def total_updates(self) -> int:
        """Updates of the whole run at the total batch that it began with."""
        epochs, rest = divmod(self.total_samples, self.num_samples)
        return epochs * self.updates_per_epoch - (-rest // self.total_batch)

    def samples_after(self, updates: int) -> int:
        """Return the samples of the first updates of a run at the total batch that it began with."""
        epochs, rest = divmod(updates, self.updates_per_epoch)
        return epochs * self.num_samples + rest * self.total_batch

    @property
    def update(self) -> float:
        """Where the schedule stands, in updates of `total_batch`: a whole number as long as the total batch stays."""
        return self.epoch * self.updates_per_epoch + self.position / self.total_batch

    def advance(self, position: int) -> None:
        """Count an update that ended at a position of the epoch."""
        self.step += 1
        self.position = position

    def finish_epoch(self) -> None:
        """Go on to the beginning of the next epoch, if the one at hand is done."""
        if self.position >= self.num_samples:
            self.epoch, self.position = self.epoch + 1, 0


def lay_out(cfg: Config, progress: Progress) -> tuple[Phases, Schedule]:
    """Lay a configured run out over its length and first total batch: the sizes of its images, and its rates."""
    batch, updates = progress.total_batch, progress.total_updates
    lengths = {"num_samples": progress.num_samples, "total_samples": progress.total_samples}
    phases = build_phases(cfg, total_batch=batch, **lengths)
    return phases, build_schedule(cfg, effective_batch=batch, total_updates=updates, phases=phases)


class Stopwatch:
    """Counts the seconds that are spent inside of its `with` blocks.

    Attributes:
        before_sec: those of blocks that have ended, here or in an earlier start of the run.
    """

    def __init__(self) -> None:
        self.before_sec = 0.0
        self._begin: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds so far, those of the block at hand included."""
        return self.before_sec + (0.0 if self._begin is None else time.monotonic() - self._begin)

    def __enter__(self) -> None:
        self._begin = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.before_sec, self._begin = self.seconds, None

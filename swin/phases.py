"""The phases of a run: in each of them training images have one size, and batches grow as images shrink."""

import bisect
from dataclasses import dataclass
from typing import NamedTuple

from swin.config import Config
from swin.preprocess import as_size

_ROUNDING = 1e-9  # of sums of shares: 0.1 + 0.2 is more than 0.3


class Phase(NamedTuple):
    """A part of a run, which lasts until the next one begins."""

    begin: float  # fraction of the run that is done before it
    img_size: tuple[int, int]  # (H, W) in pixels
    growth: float = 1.0  # how many times as many images an update has, as for `grow_batch`


@dataclass(frozen=True)
class Phases:
    """The phases of a run, each of which begins where an epoch does."""

    phases: list[Phase]
    num_samples: int  # of an epoch
    total_samples: int  # of the run, whose end may lie within an epoch
    total_batch: int  # samples of an update before it grows, over all processes and micro-batches, when the run began

    def of_epoch(self, epoch: int) -> Phase:
        """Return the phase in which an epoch's first sample lies; that of the last one after the run's end."""
        return [phase for phase in self.phases if phase.begin <= self._done(epoch)][-1]

    def _done(self, epoch: int) -> float:
        """Return the fraction of the run that is done before an epoch, and a little more."""
        return epoch * self.num_samples / self.total_samples + _ROUNDING

    def of_update(self, update: float) -> Phase:
        """Return the phase of an update, perhaps broken, of `total_batch` samples."""
        return self.of_epoch(int(update // -(-self.num_samples // self.total_batch)))

    def spans(self) -> list[tuple[range, Phase]]:
        """Return the epochs of each phase that has any."""
        count = -(-self.total_samples // self.num_samples)
        first = [bisect.bisect_left(range(count), phase.begin, key=self._done) for phase in self.phases]
        found = zip(map(range, first, [*first[1:], count]), self.phases, strict=True)
        return [(epochs, phase) for epochs, phase in found if epochs]

    def count_updates(self, total_batch: int) -> int:
        """Return the updates of the whole run, of so many samples before they grow."""
        count = 0
        for epochs, phase in self.spans():
            size, end = grow_batch(total_batch, phase.growth), min(self.total_samples, epochs.stop * self.num_samples)
            whole, rest = divmod(end - epochs.start * self.num_samples, self.num_samples)
            count += whole * -(-self.num_samples // size) - (-rest // size)
        return count


def build_phases(cfg: Config, *, total_batch: int, num_samples: int, total_samples: int) -> Phases:
    """Return the phases of a configured run; without a schedule one, of DATA.IMG_SIZE.

    A batch grows by the pixels that images lack to DATA.IMG_SIZE, in quarters of itself, and to an epoch at most.

    Args:
        cfg: the config.
        total_batch, num_samples, total_samples: as in `Phases`.
    """
    full, phases, begin = as_size(cfg.DATA.IMG_SIZE), list[Phase](), 0.0
    for share, img_size in (*cfg.DATA.IMG_SIZE_SCHEDULE, (1.0, full)):
        if begin < 1 - _ROUNDING:
            height, width = as_size(img_size)
            most = min(full[0] * full[1] / (height * width), num_samples / total_batch)
            phases.append(Phase(begin, (height, width), max(1.0, int(4 * most) / 4)))
        begin += share
    return Phases(phases, num_samples, total_samples, total_batch)


def grow_batch(batch: int, growth: float) -> int:
    """Return a batch so many times as large, rounded down; an even one stays even, since mixing deals in pairs."""
    unit = 2 - batch % 2
    return int(batch * growth) // unit * unit

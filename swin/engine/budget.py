"""A run of so many minutes (TRAIN.MINUTES): how long it is, found once, before its first update."""

import bisect
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from swin.config import Config
from swin.distributed import from_main
from swin.engine.measure import TrainingTime, count_turns, kept, time_evaluation, time_saving, time_training
from swin.engine.progress import Progress
from swin.engine.trainer import Trainer

_SHARE, _MOST_SEC = 0.05, 20.0  # of the budget, for timing the training; the warm-up takes about as long


@dataclass(frozen=True)
class Prices:
    """What a run takes, as it was measured.

    Attributes:
        training: the updates.
        evaluation_sec: seconds of an evaluation.
        save_sec: seconds of a checkpoint, where a run waits for it.
    """

    training: TrainingTime
    evaluation_sec: float
    save_sec: float

    def predict(self, cfg: Config, progress: Progress, total_samples: int, *, has_val: bool) -> float:
        """Return the seconds that a run still takes, from where it stands to so many samples in all.

        A checkpoint is waited for before each evaluation, and the last one. Others are written while training goes on.
        """
        done, until = progress.epoch, total_samples / progress.num_samples
        evaluations = count_turns(done, until, cfg.EVAL_FREQ) * has_val
        epochs = count_turns(done, until, 1)
        updates_sec = (total_samples - progress.samples) * self.training.image_sec + epochs * self.training.epoch_sec
        return updates_sec + evaluations * (self.evaluation_sec + self.save_sec) + self.save_sec


def fix_length(trainer: Trainer, folder: Path | None) -> None:
    """Measure a run, put everything back as it was, and fix how many samples fit into what is left of its minutes.

    All processes call it together; the main one decides. The run ends with a whole update, one from here at the least.
    The time that measuring takes is the run's.

    Args:
        trainer: The run, where it goes on from.
        folder: Where a checkpoint may be written for a moment; see `time_saving`.
    """
    cfg, progress, budget_sec = trainer.cfg, trainer.progress, 60 * trainer.cfg.TRAIN.MINUTES
    with trainer.clock:
        begin = trainer.clock.seconds
        seconds = min(_SHARE * max(0.0, budget_sec - begin), _MOST_SEC)
        with kept(trainer.state):
            training = time_training(trainer, seconds)
            prices = Prices(training, time_evaluation(trainer, seconds / 4), time_saving(trainer, folder))
        left_sec = budget_sec - trainer.clock.seconds
        find = partial(find_length, prices, cfg, progress, has_val=trainer.data.val is not None)
        total_samples = from_main(lambda: find(left_sec))
        measuring_sec = trainer.clock.seconds - begin
    trainer.set_length(total_samples)
    minutes, images = (
        f"TRAIN.MINUTES {cfg.TRAIN.MINUTES:g}",
        progress.num_samples / training.of_epoch(progress.num_samples),
    )
    trainer.logger.info(
        f"measured in {measuring_sec:.1f} s, for {minutes}: {images:.0f} images/s in training, "
        f"{prices.evaluation_sec:.2f} s an evaluation, {prices.save_sec:.2f} s a checkpoint; {left_sec:.1f} s are left"
    )
    if total_samples == find(0.0):
        trainer.logger.warning(
            f"one update is all that {minutes} leave time for, after {begin:.1f} s of training and "
            f"{measuring_sec:.1f} s of measuring: raise it, or set TRAIN.EPOCHS and TRAIN.MINUTES 0."
        )


def find_length(prices: Prices, cfg: Config, progress: Progress, seconds: float, *, has_val: bool) -> int:
    """Return the samples of the longest run whose rest takes no more than some seconds; an update more at least."""
    first = int(progress.update) + 1
    most = first + int(max(0.0, seconds) / (progress.total_batch * prices.training.image_sec)) + 1

    def ending_after(updates: int) -> float:
        return prices.predict(cfg, progress, progress.samples_after(updates), has_val=has_val)

    updates = bisect.bisect_right(range(first, most), seconds, key=ending_after) + first - 1
    return progress.samples_after(max(first, updates))

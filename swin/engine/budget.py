"""What a run takes by measured prices; and how long one of so many minutes (TRAIN.MINUTES) is, found once."""

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from swin.config import Config
from swin.distributed import from_main
from swin.engine.measure import TrainingTime, count_turns, kept, time_evaluation, time_saving, time_training
from swin.engine.progress import Progress
from swin.engine.trainer import Trainer
from swin.phases import Phases, grow_batch

_SHARE, _MOST_SEC = 0.05, 20.0  # of the budget, for timing the training; the warm-up takes about as long


class Forecast(NamedTuple):
    """What a run still takes, and how often it evaluates and waits for a checkpoint."""

    updates_sec: float
    evaluations_sec: float
    saves_sec: float
    num_evaluations: int
    num_saves: int

    @property
    def seconds(self) -> float:
        """Seconds of all."""
        return self.updates_sec + self.evaluations_sec + self.saves_sec


@dataclass(frozen=True)
class Prices:
    """What a run takes, as it was measured.

    Attributes:
        training: the updates on images of each size (H, W).
        evaluation_sec: seconds of an evaluation.
        save_sec: seconds of a checkpoint, where a run waits for it.
    """

    training: Mapping[tuple[int, int], TrainingTime]
    evaluation_sec: float
    save_sec: float

    def predict(self, cfg: Config, progress: Progress, phases: Phases, *, has_val: bool) -> Forecast:
        """Return what a run takes from where it stands to the end that its phases have.

        A checkpoint is waited for before each evaluation, and the last one. Others are written while training goes on.
        """
        num_samples, updates_sec = phases.num_samples, 0.0
        for epochs, phase in phases.spans():
            begin = max(progress.samples, epochs.start * num_samples)
            end = min(phases.total_samples, epochs.stop * num_samples)
            if begin < end:
                begun, price = -(-end // num_samples) - begin // num_samples, self.training[phase.img_size]
                updates_sec += (end - begin) * price.image_sec + begun * price.epoch_sec
        evaluations = count_turns(progress.epoch, phases.total_samples / num_samples, cfg.EVAL_FREQ) * has_val
        saves = evaluations + 1
        return Forecast(updates_sec, evaluations * self.evaluation_sec, saves * self.save_sec, evaluations, saves)


def fix_length(trainer: Trainer, folder: Path | None) -> None:
    """Measure a run, put everything back as it was, and fix how many samples fit into what is left of its minutes.

    All processes call it together; the main one decides. The run ends with a whole update, one from here at the least.
    The time that measuring takes is the run's. Images of each size are measured, since only the length that is found
    says which sizes are to come: the longer a run is, the later its large images.

    Args:
        trainer: The run, where it goes on from.
        folder: Where a checkpoint may be written for a moment; see `time_saving`.
    """
    cfg, progress, budget_sec = trainer.cfg, trainer.progress, 60 * trainer.cfg.TRAIN.MINUTES
    phases = {phase.img_size: phase for phase in trainer.phases.phases}
    with trainer.clock:
        begin = trainer.clock.seconds
        seconds = min(_SHARE * max(0.0, budget_sec - begin), _MOST_SEC)
        with kept(trainer.state):
            training = {size: time_training(trainer, seconds / len(phases), phase=phases[size]) for size in phases}
            prices = Prices(training, time_evaluation(trainer, seconds / 4), time_saving(trainer, folder))
        left_sec = budget_sec - trainer.clock.seconds
        find = partial(find_length, prices, cfg, progress, trainer.phases, has_val=trainer.data.val is not None)
        total_samples = from_main(lambda: find(left_sec))
        measuring_sec = trainer.clock.seconds - begin
    trainer.set_length(total_samples)
    minutes = f"TRAIN.MINUTES {cfg.TRAIN.MINUTES:g}"
    speeds = [
        f"{progress.num_samples / price.of_epoch(progress.num_samples):.0f} images/s"
        + (f" of {height} x {width}" if len(training) > 1 else "")
        for (height, width), price in training.items()
    ]
    trainer.logger.info(
        f"measured in {measuring_sec:.1f} s, for {minutes}: {', '.join(speeds)} in training, "
        f"{prices.evaluation_sec:.2f} s an evaluation, {prices.save_sec:.2f} s a checkpoint; {left_sec:.1f} s are left"
    )
    if total_samples == find(0.0):
        trainer.logger.warning(
            f"one update is all that {minutes} leave time for, after {begin:.1f} s of training and "
            f"{measuring_sec:.1f} s of measuring: raise it, or set TRAIN.EPOCHS and TRAIN.MINUTES 0."
        )


def find_length(
    prices: Prices, cfg: Config, progress: Progress, phases: Phases, seconds: float, *, has_val: bool
) -> int:
    """Return the samples of a run whose rest fits into some seconds, and with an update more does not.

    One update is done at the least. Where an update more moves an epoch to smaller images, that can save time, so that
    several lengths are such; one of them is found.
    """
    first, epoch_sec = int(progress.update) + 1, min(price.image_sec for price in prices.training.values())
    epoch_sec *= progress.num_samples
    most = first + (int(max(0.0, seconds) / epoch_sec) + 2) * progress.updates_per_epoch

    def of_length(updates: int) -> Phases:
        return _end_update(replace(phases, total_samples=progress.samples_after(updates)), progress)

    def rest_sec(updates: int) -> float:
        return prices.predict(cfg, progress, of_length(updates), has_val=has_val).seconds

    updates = bisect.bisect_right(range(first, most), seconds, key=rest_sec) + first - 1
    return of_length(max(first, updates)).total_samples


def _end_update(phases: Phases, progress: Progress) -> Phases:
    """Lengthen a run to the end of its last update, which has more images where these are small."""
    epoch, num_samples = (phases.total_samples - 1) // phases.num_samples, phases.num_samples
    begin = max(epoch * num_samples, progress.samples)
    size = grow_batch(phases.total_batch, phases.of_epoch(epoch).growth)
    end = begin - (begin - phases.total_samples) // size * size
    return replace(phases, total_samples=min(end, (epoch + 1) * num_samples))

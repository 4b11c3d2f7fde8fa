"""The owner of a training run: epochs of updates, and when to log, save, evaluate, go back and stop."""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from swin.batches import Data
from swin.config import config_to_dict
from swin.distributed import explain_timeout, from_main, is_collective_error
from swin.engine.best import begin_best
from swin.engine.build import Job, build_state
from swin.engine.checkpoint import BEST, LAST, CheckpointWriter
from swin.engine.evaluate import describe_data, evaluate, keep_table
from swin.engine.picture import draw_objective
from swin.engine.progress import Progress, Stopwatch, lay_out
from swin.engine.resume import known_length, read_agreed
from swin.engine.step import StepTotals, train_step
from swin.engine.teach import build_objective
from swin.engine.update_log import UpdateLog
from swin.engine.watch import DataWatch
from swin.errors import ConfigError, NonFiniteError, ProcessGroupError, RunStoppedError
from swin.models import Backbone
from swin.optim import set_lr
from swin.records import encode, write_atomically


class Trainer:
    """A training run, from wherever it stands to its end.

    Attributes:
        state: what an update uses and changes.
        total_batch: samples of an update now, over all processes and micro-batches.
        progress: how far the run is, laid out for the total batch that it began with.
        clock: the seconds that it has trained, evaluations and saves included.
        is_length_known: whether it is known where the run ends; TRAIN.MINUTES has to be measured once.
        phases, schedule: the sizes of its images, and the planned learning rate of each update of that total batch.
        best: the best evaluation so far.
        evaluated: whether the evaluation that is due where the run stands is done.
        rollbacks: returns to an earlier checkpoint so far; each halves the learning rate.
        good: in the main process, the checkpoint that this run wrote last or continues from; None if there is none yet.
    """

    def __init__(self, job: Job, model: Backbone, data: Data) -> None:
        """Stand at the beginning of a run; the model holds its initial weights."""
        assert data.train is not None
        self.cfg, self.dist, self.data, self.batches = job.cfg, job.dist, data, data.train
        self.logger, self.stop, self.folder = job.logger, job.stop, job.folder
        self.state = build_state(self.cfg, model, data, job.precision, self.dist, build_objective(job, model, data))
        self.total_batch = self.cfg.DATA.BATCH_SIZE * self.dist.world_size * self.cfg.TRAIN.ACCUMULATION_STEPS
        self.writer = CheckpointWriter(self.folder.path / "checkpoints", self.cfg.SAVE_KEEP)
        self.last = self.writer.folder / LAST
        self.good: Path | None = None
        self.watch, self.totals = DataWatch(data.train, self.logger), StepTotals(self.dist.device)
        self.best = begin_best(self.cfg.TRAIN.MONITOR, self.cfg.TRAIN.PATIENCE, multi_label=data.multi_label)
        self.evaluated, self.rollbacks = True, 0
        self.is_save_due, self.saved_at, self.clock = False, time.monotonic(), Stopwatch()
        progress = Progress(data.train.num_samples, self.total_batch, self._find_length({}), self.cfg.TRAIN.START_EPOCH)
        progress.step = progress.epoch * progress.updates_per_epoch
        self._start_at(progress)
        self.log = UpdateLog(self.logger, self.watch, progress)

    def _start_at(self, progress: Progress) -> None:
        self.progress = progress
        self.phases, self.schedule = lay_out(self.cfg, progress)

    def _find_length(self, content: Mapping[str, Any]) -> int:
        """Return the samples of the whole run, for now those of TRAIN.EPOCHS where they are not known."""
        known = known_length(content, self.cfg, self.batches.num_samples)
        self.is_length_known = known is not None
        return known or self.cfg.TRAIN.EPOCHS * self.batches.num_samples

    def set_length(self, total_samples: int) -> None:
        """Fix the samples of the whole run, which the schedule spans."""
        self._start_at(replace(self.progress, total_samples=total_samples))
        self.is_length_known = True

    @property
    def is_at_end(self) -> bool:
        """Whether nothing is left to train."""
        return self.progress.is_over or self.best.is_over

    @property
    def lr(self) -> float:
        """Learning rate of the next update."""
        return self.schedule(self.progress.update) * self.lr_factor

    @property
    def lr_factor(self) -> float:
        """What the returns to an earlier checkpoint have left of the planned learning rate."""
        return 0.5**self.rollbacks

    def checkpoint(self) -> dict[str, Any]:
        """Return the run as tensors and plain values, see `swin.engine.checkpoint.read_checkpoint`."""
        set_lr(self.state.optimizer, self.lr)  # of the next update, whether or not this process made the last one
        return {
            **self.state.state_dict(),
            **vars(self.progress),
            "epoch": self.progress.epoch - 1,
            "seconds": self.clock.seconds,
            "skipped": self.log.skipped,
            "rollbacks": self.rollbacks,
            **self.best.state_dict(),
            "evaluated": self.evaluated,
            "classes": list(self.data.classes),
            "config": config_to_dict(self.cfg),
        }

    def restore(self, content: dict[str, Any], source: Path) -> None:
        """Stand where a checkpoint was written; nothing of it stays referenced.

        Raises:
            CheckpointError: parts are missing, or shapes differ from the config's.
            ConfigError: it was written in the middle of an epoch of other data.
        """
        position, num_samples = content.get("position", 0), self.batches.num_samples
        if (position and content.get("num_samples", num_samples) != num_samples) or position >= num_samples:
            raise ConfigError(
                f"checkpoint {source} was written after {position} samples of an epoch of "
                f"{content.get('num_samples', 'other data')}, and the data has {num_samples} now: which are left "
                "cannot be known. Use the same data, or --resume with the checkpoint of a whole epoch."
            )
        self.state.load_state_dict(content, source)
        self.good = source
        total_batch = content.get("total_batch", self.total_batch)
        progress = Progress(num_samples, total_batch, self._find_length(content), content["epoch"] + 1, position)
        progress.step = content.get("step", progress.epoch * progress.updates_per_epoch)
        self._start_at(progress)
        self.log.skipped, self.rollbacks = content.get("skipped", 0), content.get("rollbacks", 0)
        self.evaluated = content.get("evaluated", True)
        if changed := self.best.load_state_dict(content):
            self.logger.warning(changed)

    def _save(self, *, is_best: bool = False) -> None:
        """Begin to write the run as it stands, unless updates have ceased to be finite."""
        if self.dist.is_main and self._is_sound():
            epoch = self.progress.last_epoch if self._is_turn(self.cfg.SAVE_FREQ) else None
            self.writer.write(self.checkpoint(), epoch=epoch, is_best=is_best)
            self.good = self.last
            self.is_save_due, self.saved_at = False, time.monotonic()
            self.write_status()

    def _save_if_due(self) -> None:
        """Save between the epochs' ends; a disk that is slower than that is asked for gets what it can take."""
        if self.is_save_due and self.dist.is_main and not (self.writer.is_busy or self.writer.error):
            self._save()

    def _is_sound(self) -> bool:
        """Whether the last update was finite. A single overflow is how a loss scaler finds its scale."""
        return self.totals.streak.item() <= self.state.scaler.is_enabled()

    def write_status(self) -> None:
        """Write status.json: the run goes on, and where it stands."""
        at, sec = self.progress, round(self.clock.seconds, 1)
        self.folder.write_status(
            "running", epoch=at.epoch, position=at.position, samples=at.samples, step=at.step, seconds=sec
        )

    def run(self) -> None:
        """Train to the end, evaluate and save.

        Raises:
            RunStoppedError: a signal asked to stop; last.pth holds the state at that update.
            NonFiniteError: too many non-finite updates in a row; nothing was saved since they began.
            ProcessGroupError: another process ended, or did not answer in time.
        """
        self.stop.defer()
        try:
            with self.clock:
                self._train_to_end()
        except RunStoppedError as error:
            self.writer.wait_on_all(self.dist)
            saved = f"everything is saved in {self.last}, and the same command continues from there"
            if not self._is_sound():
                saved = f"the last updates were not finite and are not saved; {self._describe_good()}"
            raise RunStoppedError(f"{error}; {saved}.") from None
        except RuntimeError as error:
            if not is_collective_error(error):
                raise
            raise ProcessGroupError(explain_timeout(error, self.dist.rank, self.progress.step)) from error

    def _train_to_end(self) -> None:
        self._evaluate_if_due()  # what a kill kept a run from doing
        while not self.is_at_end:
            self._train_epoch_or_roll_back()
        self.writer.wait_on_all(self.dist)
        if not self._is_sound():
            raise NonFiniteError(
                f"the run's last updates were not finite, so that its end is not saved; {self._describe_good()}."
            )

    def _train_epoch_or_roll_back(self) -> None:
        try:
            self._train_epoch()
        except NonFiniteError as error:
            good, allowed = from_main(lambda: self.good), self.cfg.TRAIN.ROLLBACK
            if self.rollbacks >= allowed or good is None:
                raise
            done, total_samples = self.rollbacks + 1, self.progress.total_samples
            self.restore(read_agreed(good, self.dist), good)
            self.set_length(total_samples)
            self.rollbacks, self.totals = done, StepTotals(self.dist.device)
            self.logger.open(self.folder.path, step=self.progress.step, evaluated=self.evaluated)
            self.logger.warning(
                f"{error} Going back to {good} (TRAIN.ROLLBACK {done} of {allowed}); from "
                f"there the learning rate is {self.lr_factor:g} of the planned one."
            )
        else:
            self._finish_epoch()

    def _train_epoch(self) -> None:
        """Update from where the run stands to the end of the epoch."""
        cfg, progress, totals = self.cfg, self.progress, self.totals
        self.state.network.train()
        phase = self.phases.of_epoch(progress.epoch)
        batches = self.watch.timed(self.batches.epoch(progress.epoch, progress.position, phase))
        # Reading the device's counters would make a GPU wait, so there it is done every few updates only.
        check_steps = 1 if self.dist.device.type == "cpu" else min(cfg.PRINT_FREQ, cfg.TRAIN.MAX_NONFINITE)
        are_asked = False
        self.log.begin(progress)
        while True:
            first, lr, stop = progress.position, self.lr, self.stop.requested or self.writer.error is not None
            progress.advance(train_step(self.state, progress.step, batches, lr, totals, self.watch.failures, stop))
            is_end = progress.position >= progress.num_samples or progress.is_over
            is_log = progress.step % cfg.PRINT_FREQ == 0 or is_end
            if is_log or progress.step % check_steps == 0:
                self._check_finite(first)
                are_asked = bool(totals.asked[0] > 0)
            if is_log:
                self.log.tell(progress, totals, lr)
            self.is_save_due |= cfg.SAVE_FREQ_STEPS > 0 and progress.step % cfg.SAVE_FREQ_STEPS == 0
            self.is_save_due |= 0 < cfg.SAVE_MINUTES * 60 <= time.monotonic() - self.saved_at
            if is_end:
                return
            # Alone, a process need not wait for the next update to know.
            if are_asked or (self.dist.world_size == 1 and self.stop.requested):
                if not self.writer.error:
                    self._save()
                raise RunStoppedError(
                    f"stopped by {self.stop.name or 'a signal to another process'} at step {progress.step} (epoch "
                    f"{progress.epoch}, sample {progress.position} of {progress.num_samples})"
                )
            self._save_if_due()

    def _check_finite(self, first: int) -> None:
        """Wait for the device, and see how many updates in a row were not finite; the last one began at `first`."""
        streak, progress = int(self.totals.streak.item()), self.progress
        if streak < self.cfg.TRAIN.MAX_NONFINITE:
            return
        self.writer.wait_on_all(self.dist)
        listing, files = self.folder.path / "nonfinite_batch.txt", self.batches.files
        span = progress.epoch, first, progress.position - first
        from_main(lambda: write_atomically(listing, encode("\n".join(files(*span)) + "\n")))
        raise NonFiniteError(
            f"loss or gradients were not finite in {streak} updates in a row up to step {progress.step} (epoch "
            f"{progress.epoch}); {self._describe_good()}; the samples of the last such update are listed in {listing}. "
            "Lower TRAIN.BASE_LR, lengthen TRAIN.WARMUP_EPOCHS, or rule out the number format with --disable_amp."
        )

    def _describe_good(self) -> str:
        good = from_main(lambda: self.good)
        return f"the last good checkpoint is {good}" if good else "no checkpoint had been written yet"

    def _finish_epoch(self) -> None:
        """Save, evaluate, and then mark the best, as often as the config says and after the last epoch always."""
        self.progress.finish_epoch()
        self.evaluated = self.data.val is None or not self._is_turn(self.cfg.EVAL_FREQ)
        if self._is_turn(self.cfg.SAVE_FREQ) or not self.evaluated:
            self.writer.wait_on_all(self.dist)
            self._save()
        else:
            self._save_if_due()
        self._evaluate_if_due()
        if self._is_turn(self.cfg.EVAL_FREQ) and self.dist.is_main:
            draw_objective(self)

    def _is_turn(self, every: int) -> bool:
        return self.progress.is_over or (self.progress.position == 0 and self.progress.epoch % every == 0)

    def _evaluate_if_due(self) -> None:
        if self.evaluated or self.data.val is None:
            return
        self.writer.wait_on_all(self.dist)  # a crash in the evaluation then loses nothing
        state, progress = self.state, self.progress
        with state.ema.applied(state.model) if state.ema else nullcontext():
            result, predictions = evaluate(
                state.model, self.data, state.precision, self.dist, stop=self.stop, show=self.logger.progress
            )
        is_best, self.evaluated = self.best.take(result.fields(), is_saved=self._is_sound()), True
        epoch = progress.last_epoch
        self.logger.info(f"epoch {epoch}{result} {self.best}")
        self.logger.metrics("eval", epoch=epoch, step=progress.step, samples=progress.samples, **result.fields())
        if is_best and predictions is not None:
            about = {"checkpoint": str(self.writer.folder / BEST), "epoch": epoch, **describe_data(self.cfg)}
            keep_table(predictions.described(**about), self.folder.path, self.logger)
        self._save(is_best=is_best)

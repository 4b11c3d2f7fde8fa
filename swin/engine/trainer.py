"""The owner of a training run: epochs of updates, and when to log, save, evaluate, go back and stop."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from swin.batches import Batch, Data
from swin.config import Config, config_to_dict
from swin.distributed import Distributed, all_reduce_sum, explain_timeout, from_main, is_collective_error
from swin.engine.build import build_state
from swin.engine.checkpoint import LAST
from swin.engine.evaluate import evaluate
from swin.engine.precision import Precision
from swin.engine.progress import Progress
from swin.engine.resume import read_agreed
from swin.engine.saving import CheckpointWriter
from swin.engine.signals import StopRequest
from swin.engine.state import TrainState
from swin.engine.step import StepTotals, train_step
from swin.engine.watch import DataWatch
from swin.errors import CheckpointError, ConfigError, NonFiniteError, ProcessGroupError, RunStoppedError
from swin.logger import Logger
from swin.models import SwinTransformer
from swin.optim import set_lr
from swin.run_folder import RunFolder, encode, write_atomically
from swin.schedule import Schedule, build_schedule


@dataclass(frozen=True)
class Cadence:
    """How long to train and how often to do what.

    Attributes:
        epochs: of the whole run.
        print_steps: updates between two log lines.
        save_epochs, eval_epochs: epochs between two checkpoints, and between two evaluations.
        save_steps, save_minutes: updates, and minutes, between two further checkpoints; 0 for none.
        max_nonfinite: non-finite updates in a row after which training ends.
        max_rollbacks: how often it goes back to its last checkpoint instead.
    """

    epochs: int
    print_steps: int
    save_epochs: int
    eval_epochs: int
    save_steps: int
    save_minutes: float
    max_nonfinite: int
    max_rollbacks: int


def build_cadence(cfg: Config) -> Cadence:
    """The cadence of a config."""
    return Cadence(
        epochs=cfg.TRAIN.EPOCHS,
        print_steps=cfg.PRINT_FREQ,
        save_epochs=cfg.SAVE_FREQ,
        eval_epochs=cfg.EVAL_FREQ,
        save_steps=cfg.SAVE_FREQ_STEPS,
        save_minutes=cfg.SAVE_MINUTES,
        max_nonfinite=cfg.TRAIN.MAX_NONFINITE,
        max_rollbacks=cfg.TRAIN.ROLLBACK,
    )


class _WaitTimer:
    """Iterator that adds up the seconds its consumer waited."""

    def __init__(self, items: Iterator[Batch]) -> None:
        self.items = items
        self.waited_sec = 0.0

    def __iter__(self) -> "_WaitTimer":
        return self

    def __next__(self) -> Batch:
        begin = time.perf_counter()
        item = next(self.items)
        self.waited_sec += time.perf_counter() - begin
        return item


class Trainer:
    """A training run, from wherever it stands to its end.

    Attributes:
        state: what an update uses and changes.
        progress: how far the run is, laid out for the total batch that it began with.
        total_batch: samples of an update now.
        best: highest accuracy (%) of any evaluation so far.
        skipped: updates left out because loss or gradients were not finite.
        evaluated: whether the evaluation that is due where the run stands is done.
        rollbacks: returns to an earlier checkpoint so far; each halves the learning rate.
        good: in the main process, the checkpoint that this run wrote last or continues from; None if there is none yet.
    """

    def __init__(
        self,
        state: TrainState,
        data: Data,
        *,
        total_batch: int,
        cadence: Cadence,
        make_schedule: Callable[[Progress], Schedule],
        logger: Logger,
        stop: StopRequest,
        folder: RunFolder,
        save_keep: int,
        config: dict[str, Any],
    ) -> None:
        """Stand at the beginning of a run.

        Args:
            state: before the first update.
            data: with a training set.
            total_batch: samples of an update, over all processes and micro-batches.
            cadence: how long to train and how often to do what.
            make_schedule: lays out the learning rate for a run's `num_samples` and `total_batch`.
            logger: where it is told; its run folder is opened later.
            stop: asks for an early end.
            folder: the run's. Only the main process writes it.
            save_keep: numbered checkpoints to leave.
            config: goes into every checkpoint.
        """
        assert data.train is not None
        self.state, self.data, self.batches, self.dist = state, data, data.train, state.dist
        self.total_batch, self.cadence, self.config = total_batch, cadence, config
        self.logger, self.stop, self.folder = logger, stop, folder
        self.writer = CheckpointWriter(folder.path / "checkpoints", save_keep)
        self.last = self.writer.folder / LAST
        self.watch = DataWatch(data.train, logger)
        self.totals = StepTotals(self.dist.device)
        self.make_schedule = make_schedule
        self.good: Path | None = None
        self.best, self.skipped, self.evaluated, self.rollbacks = 0.0, 0, True, 0
        self.is_save_due, self.saved_at = False, time.monotonic()
        self._lay_out(Progress(data.train.num_samples, total_batch))

    @classmethod
    def from_config(
        cls,
        cfg: Config,
        model: SwinTransformer,
        data: Data,
        *,
        precision: Precision,
        dist: Distributed,
        logger: Logger,
        stop: StopRequest,
        folder: RunFolder,
    ) -> "Trainer":
        """The run that a config describes, before its first update; the model holds its initial weights."""
        trainer = cls(
            build_state(cfg, model, data, precision, dist),
            data,
            total_batch=cfg.DATA.BATCH_SIZE * dist.world_size * cfg.TRAIN.ACCUMULATION_STEPS,
            cadence=build_cadence(cfg),
            make_schedule=lambda progress: build_schedule(
                cfg, effective_batch=progress.total_batch, updates_per_epoch=progress.updates_per_epoch
            ),
            logger=logger,
            stop=stop,
            folder=folder,
            save_keep=cfg.SAVE_KEEP,
            config=config_to_dict(cfg),
        )
        trainer.progress.epoch = cfg.TRAIN.START_EPOCH
        trainer.progress.step = cfg.TRAIN.START_EPOCH * trainer.progress.updates_per_epoch
        return trainer

    def _lay_out(self, progress: Progress) -> None:
        self.progress, self.schedule = progress, self.make_schedule(progress)

    @property
    def lr(self) -> float:
        """Learning rate of the next update."""
        return self.schedule(self.progress.update) * self.lr_factor

    @property
    def lr_factor(self) -> float:
        """What the returns to an earlier checkpoint have left of the planned learning rate."""
        return 0.5**self.rollbacks

    def checkpoint(self) -> dict[str, Any]:
        """The run as tensors and plain values, see `swin.engine.checkpoint.read_checkpoint`."""
        set_lr(self.state.optimizer, self.lr)  # of the next update, whether or not this process made the last one
        return {
            **self.state.state_dict(),
            "epoch": self.progress.epoch - 1,
            "position": self.progress.position,
            "step": self.progress.step,
            "num_samples": self.progress.num_samples,
            "total_batch": self.progress.total_batch,
            "skipped": self.skipped,
            "rollbacks": self.rollbacks,
            "max_accuracy": self.best,
            "evaluated": self.evaluated,
            "classes": list(self.data.classes),
            "config": self.config,
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
        progress = Progress(num_samples, content.get("total_batch", self.total_batch))
        progress.epoch, progress.position = content["epoch"] + 1, position
        progress.step = content.get("step", progress.epoch * progress.updates_per_epoch)
        self._lay_out(progress)
        self.skipped, self.rollbacks = content.get("skipped", 0), content.get("rollbacks", 0)
        self.best, self.evaluated = float(content.get("max_accuracy", 0.0)), content.get("evaluated", True)

    def _save(self, epoch: int | None = None, *, is_best: bool = False) -> None:
        """Begin to write the run as it stands, unless updates have ceased to be finite."""
        if self.dist.is_main and self._is_sound():
            self.writer.write(self.checkpoint(), epoch=epoch, is_best=is_best)
            self.good = self.last
            self.is_save_due, self.saved_at = False, time.monotonic()
            self.tell_status()

    def _save_if_due(self) -> None:
        """Save between the epochs' ends; a disk that is slower than that is asked for gets what it can take."""
        if self.is_save_due and self.dist.is_main and not (self.writer.is_busy or self.writer.has_failed):
            self._save()

    def _is_sound(self) -> bool:
        """Whether the last update was finite. A single overflow is how a loss scaler finds its scale."""
        return self.totals.streak.item() <= (self.state.scaler is not None)

    def _settle(self) -> None:
        """Wait on all processes, however long it takes, until the main one has written its checkpoint.

        Raises:
            CheckpointError: it could not be written.
        """
        waiting = True
        while waiting:
            error, waiting = None, False
            try:
                waiting = self.dist.is_main and not self.writer.wait(1.0 if self.dist.world_size > 1 else None)
            except CheckpointError as raised:
                error = raised
            # A collective a second, none of which lasts as long as DIST_TIMEOUT.
            flags = torch.tensor([float(waiting), float(error is not None)], device=self.dist.device)
            waiting, has_failed = (count > 0 for count in all_reduce_sum(flags).tolist())
            if has_failed:
                raise CheckpointError(str(error or "the main process could not write its checkpoint."), is_shared=True)

    def tell_status(self) -> None:
        """Write status.json: the run goes on, and where it stands."""
        progress = self.progress
        self.folder.write_status(
            "running", epoch=progress.epoch, position=progress.position, samples=progress.samples, step=progress.step
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
            self._evaluate_if_due()  # what a kill kept a run from doing
            while self.progress.epoch < self.cadence.epochs:
                self._train_epoch_or_roll_back()
            self._settle()
            if not self._is_sound():
                raise NonFiniteError(
                    f"the run's last updates were not finite, so that its end is not saved; {self._tell_good()}."
                )
        except RunStoppedError as error:
            self._settle()
            saved = f"everything is saved in {self.last}, and the same command continues from there"
            if not self._is_sound():
                saved = f"the last updates were not finite and are not saved; {self._tell_good()}"
            raise RunStoppedError(f"{error}; {saved}.") from None
        except RuntimeError as error:
            if not is_collective_error(error):
                raise
            raise ProcessGroupError(explain_timeout(error, self.dist.rank, self.progress.step)) from error

    def _train_epoch_or_roll_back(self) -> None:
        try:
            self._train_epoch()
        except NonFiniteError as error:
            good = from_main(lambda: self.good)
            if self.rollbacks >= self.cadence.max_rollbacks or good is None:
                raise
            done = self.rollbacks + 1
            self.restore(read_agreed(good, self.dist), good)
            self.rollbacks, self.totals = done, StepTotals(self.dist.device)
            if self.dist.is_main:
                self.logger.open(self.folder.path, step=self.progress.step, evaluated=self.evaluated)
            self.logger.warning(
                f"{error} Going back to {good} (TRAIN.ROLLBACK {done} of {self.cadence.max_rollbacks}); from "
                f"there the learning rate is {self.lr_factor:g} of the planned one."
            )
            return
        self._finish_epoch()

    def _train_epoch(self) -> None:
        """Updates from where the run stands to the end of the epoch."""
        progress, totals, cadence = self.progress, self.totals, self.cadence
        self.state.network.train()
        batches = _WaitTimer(self.batches.epoch(progress.epoch, progress.position))
        # Reading the device's counters would make a GPU wait, so there it is done every few updates only.
        is_cpu = self.dist.device.type == "cpu"
        check_steps = 1 if is_cpu else min(cadence.print_steps, cadence.max_nonfinite)
        begin, logged, are_asked = time.perf_counter(), replace(progress), False
        while progress.position < progress.num_samples:
            first, lr, stop = progress.position, self.lr, self.stop.requested or self.writer.has_failed
            position = train_step(self.state, progress.step, batches, lr, totals, self.watch.failures, stop)
            progress.advance(position)
            is_end = position >= progress.num_samples
            is_log = progress.step % cadence.print_steps == 0 or is_end
            if is_log or progress.step % check_steps == 0:
                self._check_finite(first)
                are_asked = bool(totals.asked[0] > 0)
            if is_log:
                self._log(lr, logged, time.perf_counter() - begin, batches.waited_sec)
                begin, logged, batches.waited_sec = time.perf_counter(), replace(progress), 0.0
            self.is_save_due |= cadence.save_steps > 0 and progress.step % cadence.save_steps == 0
            self.is_save_due |= 0 < cadence.save_minutes * 60 <= time.monotonic() - self.saved_at
            # Alone, a process need not wait for the next update to know.
            if (are_asked or (self.dist.world_size == 1 and self.stop.requested)) and not is_end:
                if not self.writer.has_failed:
                    self._save()
                raise RunStoppedError(
                    f"stopped by {self.stop.name or 'a signal to another process'} at step {progress.step} (epoch "
                    f"{progress.epoch}, sample {position} of {progress.num_samples})"
                )
            if not is_end:
                self._save_if_due()

    def _check_finite(self, first: int) -> None:
        """Wait for the device, and see how many updates in a row were not finite; the last one began at `first`."""
        streak, progress = int(self.totals.streak.item()), self.progress
        if streak < self.cadence.max_nonfinite:
            return
        self._settle()
        listing = self.folder.path / "nonfinite_batch.txt"

        def write_listing() -> None:
            files = self.batches.files(progress.epoch, first, progress.position - first)
            write_atomically(listing, encode("\n".join(files) + "\n"))

        from_main(write_listing)
        raise NonFiniteError(
            f"loss or gradients were not finite in {streak} updates in a row up to step {progress.step} (epoch "
            f"{progress.epoch}); {self._tell_good()}; the samples of the last such update are listed in {listing}. "
            "Lower TRAIN.BASE_LR, lengthen TRAIN.WARMUP_EPOCHS, or rule out the number format with --disable_amp."
        )

    def _tell_good(self) -> str:
        good = from_main(lambda: self.good)
        return f"the last good checkpoint is {good}" if good else "no checkpoint had been written yet"

    def _log(self, lr: float, logged: Progress, elapsed_sec: float, waited_sec: float) -> None:
        """Tell of the updates since the progress that was logged last, and forget them."""
        progress, totals = self.progress, self.totals
        loss_sum, samples, norm_sum, finite = totals.values.tolist()
        self.skipped += progress.step - logged.step - int(finite)
        if totals.asked[1] > 0:
            self.watch.tell_failures()
        totals.reset()
        data_wait = waited_sec / elapsed_sec
        self.watch.log_wait(data_wait)
        if not finite:
            return
        row = {"loss": loss_sum / samples, "lr": lr, "grad_norm": norm_sum / finite}
        speed = (progress.samples - logged.samples) / elapsed_sec
        num_unreadable = len(self.watch.unreadable)
        unreadable = f" unreadable {num_unreadable}" if num_unreadable else ""
        eta_min = (self.cadence.epochs * progress.num_samples - progress.samples) / speed / 60
        self.logger.info(
            f"epoch {progress.epoch} [{progress.position}/{progress.num_samples}] step {progress.step} "
            f"loss {row['loss']:.4f} lr {lr:.3e} grad_norm {row['grad_norm']:.3f} {speed:.0f} images/s "
            f"data_wait {data_wait:.0%} skipped {self.skipped}{unreadable} eta {eta_min:.1f} min"
        )
        where = {"epoch": progress.epoch, "step": progress.step, "samples": progress.samples}
        more = {"images_per_sec": speed, "data_wait": data_wait, "skipped": self.skipped, "unreadable": num_unreadable}
        self.logger.metrics("train", **where, **row, **more)
        self.logger.progress(progress.position, progress.num_samples, f"epoch {progress.epoch} loss {row['loss']:.3f}")

    def _finish_epoch(self) -> None:
        """Save, evaluate, and then mark the best, as often as the cadence says and after the last epoch always."""
        self.progress.finish_epoch()
        self.evaluated = self.data.val is None or not self._is_turn(self.cadence.eval_epochs)
        if self._is_turn(self.cadence.save_epochs) or not self.evaluated:
            self._settle()
            self._save(self._numbered)
        else:
            self._save_if_due()
        self._evaluate_if_due()

    def _is_turn(self, every: int) -> bool:
        return self.progress.epoch % every == 0 or self.progress.epoch == self.cadence.epochs

    @property
    def _numbered(self) -> int | None:
        """The number that a checkpoint at the end of an epoch is kept under, None if it is not kept."""
        return self.progress.epoch - 1 if self._is_turn(self.cadence.save_epochs) else None

    def _evaluate_if_due(self) -> None:
        if self.evaluated or self.data.val is None:
            return
        self._settle()  # a crash in the evaluation then loses nothing
        averaged = self.state.ema.applied(self.state.model) if self.state.ema else nullcontext()
        with averaged:
            result = evaluate(
                self.state.model,
                self.data.val,
                normalise=self.data.normalise,
                precision=self.state.precision,
                dist=self.dist,
                stop=self.stop,
            )
        is_best = result.acc1 > self.best and self._is_sound()  # what is not saved is not the best to beat
        self.best, self.evaluated = result.acc1 if is_best else self.best, True
        epoch, progress = self.progress.epoch - 1, self.progress
        self.logger.info(f"epoch {epoch}{result} best {self.best:.3f}")
        self.logger.metrics("eval", epoch=epoch, step=progress.step, samples=progress.samples, **result.fields())
        self._save(self._numbered, is_best=is_best)

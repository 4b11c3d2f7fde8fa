"""The training run: epochs of updates, and when to log, save, evaluate and stop."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from swin.distributed import explain_timeout, is_collective_error
from swin.engine.checkpoint import LAST, save_epoch, write_checkpoint
from swin.engine.evaluate import EvalResult
from swin.engine.signals import StopRequest
from swin.engine.state import TrainState
from swin.engine.step import StepSetup, StepTotals, train_step
from swin.errors import NonFiniteError, ProcessGroupError, RunStoppedError
from swin.records import Records


class TrainLoader(Protocol):
    """What training needs of a data loader."""

    @property
    def num_samples(self) -> int:
        """Samples of one epoch, over all processes."""

    @property
    def updates_per_epoch(self) -> int:
        """Updates of one epoch, the smaller one at its end included."""

    def epoch(self, epoch: int, position: int = 0) -> Iterator[Any]:
        """Micro-batches of an epoch from a position on."""

    @property
    def num_workers(self) -> int:
        """Processes that read ahead for this one."""

    @property
    def unreadable(self) -> list[str]:
        """Why images were replaced by others so far, each reason once."""

    def files(self, epoch: int, position: int, count: int) -> list[str]:
        """Names of the samples at the given places of an epoch."""


@dataclass(frozen=True)
class TrainPlan:
    """How long to train, and what to do along the way.

    `*_freq` count epochs or, where they say so, updates; 0 is never.

    Attributes:
        schedule: learning rate of an update, by its number.
        max_nonfinite: non-finite updates in a row after which training ends.
        checkpoints: folder of the checkpoints.
        config, classes: go into every checkpoint.
        evaluate: measures the model as it is; None where there is no validation set.
    """

    epochs: int
    schedule: Callable[[int], float]
    effective_batch: int
    max_nonfinite: int
    print_freq_steps: int
    save_freq: int
    save_freq_steps: int
    save_keep: int
    eval_freq: int
    checkpoints: Path
    config: dict[str, Any]
    classes: list[str]
    evaluate: Callable[[], EvalResult] | None


_WATCHED_LINES, _GREATEST_WAIT = 5, 0.1  # log lines to judge the waiting by, and the share of time that is too much


class _WaitTimer:
    """Iterator that adds up the seconds its consumer waited."""

    def __init__(self, items: Iterator[Any]) -> None:
        self.items = items
        self.waited_sec = 0.0

    def __iter__(self) -> "_WaitTimer":
        return self

    def __next__(self) -> Any:
        begin = time.perf_counter()
        item = next(self.items)
        self.waited_sec += time.perf_counter() - begin
        return item


class _DataWatch:
    """Warns of images that were replaced, and, once, of a device that waits for data."""

    def __init__(self, loader: TrainLoader, records: Records) -> None:
        self.loader, self.records = loader, records
        self.shares: list[float] = []
        self.num_told = 0

    def log(self, data_wait: float) -> None:
        """Take the share of time since the last log line that was spent waiting."""
        for reason in self.loader.unreadable[self.num_told :]:
            self.records.warning(f"skipped, and the next image taken: {reason}")
        self.num_told = len(self.loader.unreadable)
        self.shares.append(data_wait)
        # Not the first line: until then workers were starting.
        share = sum(self.shares[1:]) / _WATCHED_LINES
        if len(self.shares) == 1 + _WATCHED_LINES and share > _GREATEST_WAIT:
            cpus, workers = os.cpu_count() or 1, self.loader.num_workers
            more = f"raise DATA.NUM_WORKERS (now {workers})" if workers < cpus else "use a machine with more CPUs"
            self.records.warning(
                f"{share:.0%} of the time went into waiting for data with {workers} workers a process and {cpus} "
                f"CPUs. To train faster, {more}, pack the images smaller (python -m tools.pack_dataset --short-side "
                "256), or choose a lighter AUG.AUTO_AUGMENT."
            )


def train(setup: StepSetup, state: TrainState, loader: TrainLoader, plan: TrainPlan, records: Records) -> None:
    """Train from wherever `state` stands to the plan's end.

    Raises:
        RunStoppedError: a signal asked to stop; last.pth holds the state at that update.
        NonFiniteError: too many non-finite updates in a row; no checkpoint was written since they began.
    """
    watch = _DataWatch(loader, records)
    with StopRequest() as stop:
        for epoch in range(state.epoch, plan.epochs):
            setup.network.train()
            try:
                _train_epoch(setup, state, loader, plan, records, stop, watch)
                state.epoch, state.position = epoch + 1, 0
                _finish_epoch(setup, state, plan, records, epoch)
            except RuntimeError as error:
                if not is_collective_error(error):
                    raise
                raise ProcessGroupError(explain_timeout(error, setup.dist.rank, state.step)) from error


def _train_epoch(
    setup: StepSetup,
    state: TrainState,
    loader: TrainLoader,
    plan: TrainPlan,
    records: Records,
    stop: StopRequest,
    watch: _DataWatch,
) -> None:
    """Updates from `state.position` to the end of `state.epoch`."""
    batches = _WaitTimer(loader.epoch(state.epoch, state.position))
    totals = StepTotals(setup.dist.device)
    # Reading the device's stop flag would make a GPU wait, so there it is read with each log line. Alone, a process
    # need not agree with others; on a CPU the flag is at hand.
    alone, is_cpu = setup.dist.world_size == 1, setup.dist.device.type == "cpu"
    begin, logged_position, logged_step = time.perf_counter(), state.position, state.step
    while state.position < loader.num_samples:
        lr = plan.schedule(state.step)
        state.position = train_step(setup, state, batches, lr, totals, stop.requested)
        is_end = state.position >= loader.num_samples
        is_log = state.step % plan.print_freq_steps == 0 or is_end
        if is_log:
            elapsed = time.perf_counter() - begin
            row = _read_totals(state, totals, state.step - logged_step)
            _check_finite(setup, state, totals, loader, plan)
            if row is not None:
                speed = (state.position - logged_position) / elapsed
                _log(state, loader, plan, records, {**row, "lr": lr}, speed, batches.waited_sec / elapsed)
            watch.log(batches.waited_sec / elapsed)
            begin, logged_position, logged_step = time.perf_counter(), state.position, state.step
            batches.waited_sec = 0.0
        should_stop = stop.requested if alone else (is_cpu or is_log) and bool(totals.stop > 0)
        if is_log:
            totals.reset()
        is_save = plan.save_freq_steps > 0 and state.step % plan.save_freq_steps == 0
        if should_stop or (is_save and not is_end):
            _save(setup, state, plan)
        if should_stop:
            raise RunStoppedError(
                f"stopped by {stop.name or 'a signal to another process'} at step {state.step} (epoch {state.epoch}, "
                f"sample {state.position} of {loader.num_samples}); everything is saved in "
                f"{plan.checkpoints / LAST}, and the same command continues from there."
            )


def _read_totals(state: TrainState, totals: StepTotals, updates: int) -> dict[str, float] | None:
    """Means since the last log line, None if no update was finite. Waits for the device."""
    loss_sum, samples, norm_sum, finite = totals.values.tolist()
    state.skipped += updates - int(finite)
    return {"loss": loss_sum / samples, "grad_norm": norm_sum / finite} if finite else None


def _check_finite(
    setup: StepSetup, state: TrainState, totals: StepTotals, loader: TrainLoader, plan: TrainPlan
) -> None:
    streak = int(totals.streak.item())
    if streak < plan.max_nonfinite:
        return
    last = max(state.position - plan.effective_batch, 0)
    listing = plan.checkpoints.parent / "nonfinite_batch.txt"
    if setup.dist.is_main:
        files = loader.files(state.epoch, last, state.position - last)
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("\n".join(files) + "\n")
    saved = plan.checkpoints / LAST
    good = f"the last good checkpoint is {saved}" if saved.is_file() else "no checkpoint had been written yet"
    raise NonFiniteError(
        f"loss or gradients were not finite in {streak} updates in a row up to step {state.step} (epoch "
        f"{state.epoch}); {good}; the samples of the last such update are listed in {listing}. Lower "
        "TRAIN.BASE_LR, lengthen TRAIN.WARMUP_EPOCHS, or rule out the number format with --disable_amp."
    )


def _log(
    state: TrainState,
    loader: TrainLoader,
    plan: TrainPlan,
    records: Records,
    row: dict[str, float],
    images_per_sec: float,
    data_wait: float,
) -> None:
    remaining = (plan.epochs - state.epoch) * loader.num_samples - state.position
    unreadable = f" unreadable {len(loader.unreadable)}" if loader.unreadable else ""
    eta_min = remaining / images_per_sec / 60
    records.info(
        f"epoch {state.epoch} [{state.position}/{loader.num_samples}] step {state.step} loss {row['loss']:.4f} "
        f"lr {row['lr']:.3e} grad_norm {row['grad_norm']:.3f} {images_per_sec:.0f} images/s "
        f"data_wait {data_wait:.0%} skipped {state.skipped}{unreadable} eta {eta_min:.1f} min"
    )
    fields = {"epoch": state.epoch, "step": state.step, **row, "images_per_sec": images_per_sec, "data_wait": data_wait}
    records.metrics("train", **fields, skipped=state.skipped, unreadable=len(loader.unreadable))
    records.progress(state.position, loader.num_samples, f"epoch {state.epoch} loss {row['loss']:.3f}")


def _save(setup: StepSetup, state: TrainState, plan: TrainPlan) -> None:
    if setup.dist.is_main:
        write_checkpoint(plan.checkpoints / LAST, state.checkpoint(config=plan.config, classes=plan.classes))


def _finish_epoch(setup: StepSetup, state: TrainState, plan: TrainPlan, records: Records, epoch: int) -> None:
    """Evaluate and save after `epoch`, as often as the plan says and after the last one always."""
    is_last = epoch + 1 == plan.epochs
    is_best = False
    if plan.evaluate and plan.eval_freq and ((epoch + 1) % plan.eval_freq == 0 or is_last):
        result = evaluate_state(state, plan.evaluate)
        is_best = result.acc1 > state.best
        state.best = max(state.best, result.acc1)
        records.info(f"epoch {epoch}{result} best {state.best:.3f}")
        records.metrics("eval", epoch=epoch, step=state.step, **result.fields())
    is_numbered = is_last or (plan.save_freq > 0 and (epoch + 1) % plan.save_freq == 0)
    if setup.dist.is_main and (is_numbered or is_best):
        content = state.checkpoint(config=plan.config, classes=plan.classes)
        save_epoch(plan.checkpoints, epoch, content, numbered=is_numbered, is_best=is_best, keep=plan.save_keep)


def evaluate_state(state: TrainState, evaluate: Callable[[], EvalResult]) -> EvalResult:
    """Evaluate the averaged weights if there are any, else the model's own."""
    if state.ema is None:
        return evaluate()
    with state.ema.applied(state.model):
        return evaluate()

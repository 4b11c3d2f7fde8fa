"""How fast a run trains, evaluates and saves: by doing it for some seconds, and leaving the run as it was."""

import itertools
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from swin.distributed import from_main, gather
from swin.engine.checkpoint import copy_to_cpu, write_checkpoint
from swin.engine.evaluate import evaluate
from swin.engine.state import TrainState
from swin.engine.step import StepTotals, train_step
from swin.engine.throughput import synchronize
from swin.engine.trainer import Trainer
from swin.engine.watch import timed
from swin.phases import Phase, grow_batch
from swin.records import temporary_path

_MOST_WARM_UPS = 20  # each of twice the updates of the one before


@dataclass(frozen=True)
class TrainingTime:
    """What training takes, loading and decoding of images included.

    Attributes:
        image_sec: seconds for each image, over all processes.
        epoch_sec: seconds more for each epoch, whose first images are waited for.
        wait: fraction of the time in which the device waits for images.
    """

    image_sec: float
    epoch_sec: float
    wait: float

    def of_epoch(self, num_samples: int) -> float:
        """Return the seconds of an epoch of so many images."""
        return self.epoch_sec + num_samples * self.image_sec


@dataclass
class _Span:
    """Updates that were timed, from the beginning of epochs, when no image is read ahead yet, to their end."""

    images: int = 0
    epochs: int = 0
    sec: float = 0.0
    first_waits_sec: float = 0.0  # for the first batch of each epoch
    later_waits_sec: float = 0.0
    batches: int = 0

    def summarize(self) -> TrainingTime:
        """Take what the first batch of an epoch is waited for longer than another one as the price of an epoch."""
        usual_sec = self.later_waits_sec / max(1, self.batches - self.epochs)
        epoch_sec = max(0.0, self.first_waits_sec / self.epochs - usual_sec)
        image_sec = max(1e-9, self.sec - self.epochs * epoch_sec) / self.images
        return TrainingTime(image_sec, epoch_sec, (self.first_waits_sec + self.later_waits_sec) / self.sec)


@contextmanager
def kept(state: TrainState) -> Iterator[None]:
    """Give a state, and the process's random numbers, back at the end of a `with` block as they were at its beginning.

    By the way that a resumed run takes, which goes on bit for bit. The copy lies in the memory of the CPU.
    """
    content = copy_to_cpu(state.state_dict())
    device = state.dist.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
    state.load_state_dict(content, Path("in memory"))


def time_training(trainer: Trainer, seconds: float, *, phase: Phase | None = None) -> TrainingTime:
    """Train on the run's own batches for about so many seconds, after a warm-up of half as long; see `kept`.

    What is timed begins where an epoch does: then workers have read nothing ahead, and what they read ahead later they
    read in the time that is measured. These are whole epochs where they are short, else the end of one. The main
    process decides for all; all call it together.

    Args:
        trainer: The run; its weights, moments and averages change.
        seconds: To train, after the warm-up; one update at least.
        phase: Which says how large images and updates are; default: that of the epoch at hand.
    """
    phase = phase or trainer.phases.of_epoch(trainer.progress.epoch)
    per_epoch = -(-trainer.batches.num_samples // grow_batch(trainer.total_batch, phase.growth))
    begin, updates = time.perf_counter(), 1
    for _ in range(_MOST_WARM_UPS):
        span = _time_updates(trainer, phase, min(updates, per_epoch), 1)
        done_sec = time.perf_counter() - begin
        if from_main(lambda: updates > 1 and done_sec > seconds / 2):  # noqa: B023
            break
        updates *= 2
    speed = min(updates, per_epoch) / span.sec
    wanted = from_main(lambda: max(1, round(seconds * speed)))
    return _time_updates(trainer, phase, min(wanted, per_epoch), max(1, round(wanted / per_epoch))).summarize()


def _time_updates(trainer: Trainer, phase: Phase, updates: int, epochs: int) -> _Span:
    """Time the last updates of some epochs, all as in a phase; the device is waited for at the end only."""
    device, progress, span, steps = trainer.dist.device, trainer.progress, _Span(), itertools.count()
    num_samples, totals = trainer.batches.num_samples, StepTotals(device)
    trainer.state.network.train()
    synchronize(device)
    begin = time.perf_counter()
    for number in range(progress.epoch, progress.epoch + epochs):
        waits: list[float] = []
        position = first = max(0, num_samples - updates * grow_batch(trainer.total_batch, phase.growth))
        batches = timed(trainer.batches.epoch(number, position, phase), waits.append)
        while position < num_samples:
            position = train_step(trainer.state, progress.step + next(steps), batches, trainer.lr, totals, [])
        span.images += num_samples - first
        span.epochs += 1
        span.batches += len(waits)
        span.first_waits_sec += waits[0]
        span.later_waits_sec += sum(waits[1:])
    synchronize(device)
    span.sec = time.perf_counter() - begin
    return span


def time_evaluation(trainer: Trainer, seconds: float) -> float:
    """Return the seconds of an evaluation, from those of a part that takes about as long as is given; 0 without one."""
    if trainer.data.val is None:
        return 0.0
    next(iter(trainer.data.val))  # starts the workers, which a run does once
    _evaluate_part(trainer, 0.0)
    done, sec = _evaluate_part(trainer, seconds)
    own = len(range(trainer.dist.rank, trainer.data.val.num_samples, trainer.dist.world_size))
    expected_sec = max(gather(sec * own / max(1, done)))
    if expected_sec > max(gather(seconds)):
        return expected_sec
    state = trainer.state
    for _ in range(2):  # the first one may import what makes its figures
        begin = time.perf_counter()
        with state.ema.applied(state.model) if state.ema else nullcontext():
            evaluate(state.model, trainer.data, state.precision, trainer.dist)
        sec = time.perf_counter() - begin
    return max(gather(sec))


@torch.inference_mode()
def _evaluate_part(trainer: Trainer, seconds: float) -> tuple[int, float]:
    """Classify this process's validation images for some seconds, a batch at least; returns how many, and the time."""
    state, device, done, begin = trainer.state, trainer.dist.device, 0, time.perf_counter()
    assert trainer.data.val is not None
    was_training = state.model.training
    state.model.eval()
    for batch in trainer.data.val:
        with state.precision.autocast():
            state.model(trainer.data.normalise(batch.images.to(device)))
        synchronize(device)
        done += len(batch.images)
        if time.perf_counter() - begin > seconds:
            break
    state.model.train(was_training)
    return done, time.perf_counter() - begin


def time_saving(trainer: Trainer, folder: Path | None = None) -> float:
    """Return the seconds in which the main process copies and writes a checkpoint, which is removed again.

    Where no folder is given, or it is not there, it is written where the system has temporary files.
    """

    def save() -> float:
        place = folder if folder and folder.is_dir() else Path(tempfile.gettempdir())
        file, begin = temporary_path(place / "measured.pth"), time.perf_counter()
        try:
            write_checkpoint(file, copy_to_cpu(trainer.checkpoint()))
            return time.perf_counter() - begin
        finally:
            file.unlink(missing_ok=True)

    return from_main(save)


def count_turns(after: int, until: float, every: int) -> int:
    """Return how often something is done in the epochs of a run from one whole number of epochs on, at its end too.

    Args:
        after: Epochs that are done.
        until: Epochs of the run, perhaps broken.
        every: Epochs between two times.
    """
    whole = math.floor(until)
    return max(0, whole // every - after // every) + (whole % every > 0 or until > whole)

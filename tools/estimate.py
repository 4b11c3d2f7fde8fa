"""Estimate what a whole run takes, in hours and memory, from some of its updates.

python -m tools.estimate --cfg swin_tiny --data-path FOLDER [flags and --opts of main.py] [--updates 20]
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from swin.config import Config
from swin.distributed import gather, shutdown
from swin.engine.budget import Prices
from swin.engine.measure import time_evaluation, time_saving, time_training
from swin.engine.trainer import Trainer
from swin.phases import grow_batch
from tools.arguments import command, positive
from tools.trial import begin_trial, make_trial, parse_trial, peak_memory, show_warnings, trial_parser

PARTS = 5  # of the measurement, each of which says by itself what the run takes


@dataclass(frozen=True)
class Estimate:
    """What a run takes: the mean of what the parts of a measurement say.

    Attributes:
        seconds: of training, evaluations and checkpoints included.
        error_sec: half of the 95% interval of that.
        updates_sec, evaluations_sec, saves_sec: what `seconds` is made of.
        num_evaluations, num_saves: how many there are; saves that training does not wait for are left out.
        images_per_sec: in training.
        test_sec: seconds of the evaluation of the test part after the run; 0 without one.
        memory_bytes: greatest memory of a process: on CUDA of its device, else its workers included.
    """

    seconds: float
    error_sec: float
    updates_sec: float
    evaluations_sec: float
    saves_sec: float
    num_evaluations: int
    num_saves: int
    images_per_sec: float
    test_sec: float
    memory_bytes: int


def measure(trainer: Trainer, updates: int, say: Callable[[str], None]) -> Estimate:
    """Measure a run in parts, one after the other, and tell from their differences how sure the estimate is.

    A part trains for its share of the updates at every size of images to come, evaluates and saves. Source of the
    interval: Student's t.
    """
    parts = []
    for number in range(PARTS):
        say(f"measuring, part {number + 1} of {PARTS} ...")
        parts.append(_measure_part(trainer, -(-updates // PARTS)))
    memory = max(gather(peak_memory(trainer.dist.device)))
    return combine(trainer, parts, memory)


def _measure_part(trainer: Trainer, updates: int) -> Prices:
    """Measure once what the rest of a run is made of."""
    training, train_sec = {}, 0.0
    for epochs, phase in trainer.phases.spans():
        if epochs.stop > trainer.progress.epoch and phase.img_size not in training:
            images = updates * grow_batch(trainer.total_batch, phase.growth)
            seconds = images * time_training(trainer, 0.0, phase=phase).image_sec
            training[phase.img_size] = time_training(trainer, seconds, phase=phase)
            train_sec += images * training[phase.img_size].image_sec
    return Prices(training, time_evaluation(trainer, train_sec), time_saving(trainer))


def combine(trainer: Trainer, parts: Sequence[Prices], memory_bytes: int) -> Estimate:
    """Work out what the rest of a run takes by each part, and the mean of all."""
    progress, cfg, data, phases = trainer.progress, trainer.cfg, trainer.data, trainer.phases
    found = [part.predict(cfg, progress, phases, has_val=data.val is not None) for part in parts]
    totals = np.array([each.seconds for each in found])
    error = stats.t.ppf(0.975, len(totals) - 1) * totals.std(ddof=1) / np.sqrt(len(totals))
    updates_sec, evaluations_sec, saves_sec = np.array([each[:3] for each in found]).mean(0).tolist()
    left = progress.total_samples - progress.samples
    test = data.test.num_samples / data.val.num_samples if data.test and data.val else 0.0
    return Estimate(
        seconds=float(totals.mean()),
        error_sec=float(error),
        updates_sec=updates_sec,
        evaluations_sec=evaluations_sec,
        saves_sec=saves_sec,
        num_evaluations=found[0].num_evaluations,
        num_saves=found[0].num_saves,
        images_per_sec=left / max(updates_sec, 1e-9),
        test_sec=test * float(np.mean([part.evaluation_sec for part in parts])),
        memory_bytes=memory_bytes,
    )


def describe(found: Estimate, trainer: Trainer, start_sec: float) -> str:
    """Say what a run takes, what that is made of, and what it leaves out."""
    progress, cfg = trainer.progress, trainer.cfg
    share = found.error_sec / max(found.seconds, 1e-9)
    lines = [
        f"{cfg.MODEL.NAME}: {progress.total_epochs:g} epochs of {progress.num_samples:,} images, {trainer.total_batch} "
        f"an update, on {trainer.dist.device} in {trainer.dist.world_size} processes",
        f"time: {as_time(found.seconds)} ± {as_time(found.error_sec)} ({share:.1%}, 95% of {PARTS} parts): updates "
        f"{as_time(found.updates_sec)} at {found.images_per_sec:.1f} images/s, {found.num_evaluations} evaluations "
        f"{as_time(found.evaluations_sec)}, {found.num_saves} checkpoints that are waited for "
        f"{as_time(found.saves_sec)}",
        f"memory: {found.memory_bytes / 1e9:.2f} GB a process"
        + (" on its device" if trainer.dist.device.type == "cuda" else ", its workers included"),
        f"on top: the start, {as_time(start_sec)} without imports; "
        + (f"the test part, {as_time(found.test_sec)}; " if found.test_sec else "")
        + "the report",
    ]
    if cfg.TRAIN.PATIENCE:
        lines.append("less where TRAIN.PATIENCE ends the run early")
    if cfg.DATA.FOLDS:
        lines.append(f"each of the {cfg.DATA.FOLDS} folds takes as much time")
    return "\n".join(lines)


def as_time(seconds: float) -> str:
    """Write a time in the unit that people would use."""
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Config]:
    """Read the command line: the tool's own options, and the run's config."""
    parser = trial_parser("estimate", (__doc__ or "").split("\n\n")[0])
    parser.add_argument("--updates", type=positive, default=20, metavar="N", help="that are timed (default: 20)")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="of what is printed (default: text)")
    return parse_trial(parser, argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options, cfg = parse(argv)
    dist = begin_trial(cfg)
    try:
        begin = time.perf_counter()
        trainer = make_trial(cfg, dist)
        start_sec = time.perf_counter() - begin
        show_warnings(trainer)
        found = measure(trainer, options.updates, lambda text: print(text, file=sys.stderr) if dist.is_main else None)
        if dist.is_main:
            facts: dict[str, Any] = {**asdict(found), "start_sec": start_sec, "device": str(dist.device)}
            print(json.dumps(facts) if options.format == "json" else describe(found, trainer, start_sec))
    finally:
        shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())

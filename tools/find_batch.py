"""Find the largest micro-batch that fits into memory, with as many images an update and the same learning rates.

python -m tools.find_batch --cfg swin_base --data-path FOLDER [flags and --opts of main.py] [--share 0.85]
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np
import torch

from swin.config import Config
from swin.distributed import select_device
from swin.engine.measure import time_evaluation, time_saving, time_training
from swin.errors import ConfigError
from tools.arguments import command, number_type
from tools.start.measure import find_memory
from tools.trial import WITHOUT_BUDGET, begin_trial, load_trial, make_trial, parse_trial, peak_memory, trial_parser

TRAIN_SEC, EVAL_SEC = 2.0, 0.5  # of a try, after a warm-up of updates
_MOST_GROWTH = 8  # from a micro-batch that fits to the next that is tried, on a device where too much kills
_FASTER = 1.05  # what another micro-batch has to be worth before it is named


@dataclass(frozen=True)
class Try:
    """How training with a micro-batch went.

    Attributes:
        batch: images of a process at a time.
        num_bytes: greatest memory; None where it ran out.
        images_per_sec: in training; 0 where memory ran out.
    """

    batch: int
    num_bytes: int | None
    images_per_sec: float = 0.0


def list_batches(total: int) -> list[int]:
    """Return the micro-batches into which a process's images of an update can be divided, ascending.

    Where the images are even in number so are these, since mixing deals in pairs within a micro-batch.
    """
    return [batch for batch in range(1, total + 1) if total % batch == 0 and (batch % 2 == 0 or total % 2)]


def search(
    attempt: Callable[[int], Try], batches: Sequence[int], start: int, room: int
) -> tuple[int | None, list[Try]]:
    """Find the largest batch whose memory is no more than there is room for.

    What a larger batch takes is foretold from the tries before, by a straight line through the two largest that fit,
    so that little is tried that does not fit.

    Args:
        attempt: Tries a batch.
        batches: That may be tried, ascending.
        start: Of them, the first to try.
        room: Bytes.

    Returns:
        The batch, None where not even the smallest fits, and the tries in their order.
    """
    tries: list[Try] = []
    batch: int | None = start
    while batch is not None:
        tries.append(attempt(batch))
        batch = _choose(tries, batches, room)
    return max((each.batch for each in tries if _fits(each, room)), default=None), tries


def _fits(tried: Try, room: int) -> bool:
    return tried.num_bytes is not None and tried.num_bytes <= room


def _choose(tries: Sequence[Try], batches: Sequence[int], room: int) -> int | None:
    """Return the next batch to try; None where nothing is left that might fit."""
    fitting = sorted((each for each in tries if _fits(each, room)), key=lambda each: each.batch)
    limit = min((each.batch for each in tries if not _fits(each, room)), default=batches[-1] + 1)
    if not fitting:
        below = [batch for batch in batches if batch < limit]
        return max((batch for batch in below if batch <= limit / 4), default=min(below, default=None))
    largest = fitting[-1]
    above = [batch for batch in batches if largest.batch < batch < limit and batch <= _MOST_GROWTH * largest.batch]
    promising = [batch for batch in above if _foretell(fitting, batch) <= room]
    if not promising and len(fitting) == 1:  # a second one says how much is the program's own
        return min(above, default=None) if largest.batch == batches[0] or not above else batches[0]
    return max(promising, default=None)


def _foretell(fitting: Sequence[Try], batch: int) -> float:
    """Return the bytes that a batch will take; from a single try as if all of them grew with the batch."""
    known = [(each.batch, each.num_bytes or 0) for each in fitting[-2:]]
    (first, low), (last, high) = ((0, 0), *known)[-2:]
    return high + max(0.0, (high - low) / (last - first)) * (batch - last)


def try_batch(others: Sequence[str], batch: int, accumulation: int, share: float) -> Try:
    """Train, evaluate and save with a micro-batch in this process, which should be a new one.

    Two micro-batches an update are enough, since from the second on there are gradients beside the activations.

    Args:
        others: The command line of `main.py`.
        batch: Images at a time.
        accumulation: Micro-batches of an update.
        share: Of a CUDA device's memory that may be taken.

    Raises:
        SwinError: What would refuse the run itself.
    """
    cfg = load_trial(
        [*others, "--batch-size", str(batch), "--accumulation-steps", str(min(2, accumulation))], opts=WITHOUT_BUDGET
    )
    dist = begin_trial(cfg)
    if dist.device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(share, dist.device)
    try:
        trainer = make_trial(cfg, dist)
        times = [time_training(trainer, TRAIN_SEC, phase=phase) for _, phase in trainer.phases.spans()]
        time_evaluation(trainer, EVAL_SEC)
        time_saving(trainer)
    except (torch.OutOfMemoryError, MemoryError):
        return Try(batch, None)
    return Try(batch, peak_memory(dist.device), 1 / float(np.mean([timed.image_sec for timed in times])))


def try_in_process(others: Sequence[str], batch: int, accumulation: int, share: float) -> Try:
    """Do as `try_batch` in a process of its own, whose memory begins anew, and whose end for lack of it is no harm."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(try_batch, others, batch, accumulation, share).result()
        except BrokenProcessPool:  # killed by the system, as for want of memory
            return Try(batch, None)


def describe(best: int, tries: Sequence[Try], total: int, room: int) -> str:
    """Say what was tried and found, with the flags to type."""
    lines = [f"{'batch':>7} {'x accumulation':>15} {'memory':>10} {'images/s':>9}"]
    for each in sorted(tries, key=lambda each: each.batch):
        memory = "too much" if each.num_bytes is None else f"{each.num_bytes / 1e9:.2f} GB"
        speed = f"{each.images_per_sec:.1f}" if each.num_bytes is not None else "-"
        lines.append(f"{each.batch:>7} {total // each.batch:>15} {memory:>10} {speed:>9}")
    lines.append(f"the largest micro-batch in {room / 1e9:.2f} GB, at {total} images of a process an update as before:")
    lines.append(f"\n    --batch-size {best} --accumulation-steps {total // best}\n")
    speeds = {each.batch: each.images_per_sec for each in tries if _fits(each, room)}
    fastest = max(speeds, key=speeds.__getitem__)
    if speeds[fastest] > _FASTER * speeds[best]:
        lines.append(
            f"of those tried, --batch-size {fastest} --accumulation-steps {total // fastest} was the fastest, at "
            f"{speeds[fastest] / speeds[best]:.2f} times the speed"
        )
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Config]:
    """Read the command line: the tool's own options, and the run's config."""
    parser = trial_parser("find_batch", (__doc__ or "").split("\n\n")[0])
    share = number_type("share above 0, and 1 at most", lambda number: 0 < number <= 1)
    parser.add_argument("--share", type=share, default=0.85, help="of the memory that may be taken (default: 0.85)")
    return parse_trial(parser, argv, opts=WITHOUT_BUDGET)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options, cfg = parse(argv)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError("tools.find_batch tries one process by itself: start it without torchrun.")
    device = select_device(cfg.DEVICE)
    total = cfg.DATA.BATCH_SIZE * cfg.TRAIN.ACCUMULATION_STEPS
    room, batches = int(options.share * find_memory(device)), list_batches(total)
    start = max((batch for batch in batches if batch <= cfg.DATA.BATCH_SIZE / 4), default=batches[0])

    def attempt(batch: int) -> Try:
        print(f"trying {batch} images at a time ...", file=sys.stderr)
        return try_in_process(options.others, batch, total // batch, options.share)

    best, tries = search(attempt, batches, start, room)
    if best is None:
        raise ConfigError(
            f"not even {batches[0]} images at a time fit into {room / 1e9:.2f} GB: recompute activations with "
            "--use-checkpoint, or take smaller images or a smaller model."
        )
    print(describe(best, tries, total, room))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The training loop's update against a bare update written out: on a batch that is at hand, and on the loader's."""

import argparse
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from data.loaders import TrainLoader
from data.prepare import Prepare
from data.sources import ArrayImages
from swin.batches import Batch
from swin.distributed import Distributed
from swin.engine.precision import Precision
from swin.engine.state import TrainState
from swin.engine.step import StepTotals, train_step
from swin.engine.throughput import time_action
from swin.losses import make_loss
from swin.models import Backbone
from swin.objective import Objective
from swin.optim import make_optimizer
from swin.preprocess import Normalise
from tools.benchmark.models import CLIP_GRAD, LEARNING_RATE, SMOOTHING, make_batch, make_model, make_update
from tools.benchmark.timing import Result, interleave, make_result, ratio


def run_loop(args: argparse.Namespace, device: torch.device, precision: Precision) -> Result:
    """Training speed of the loop, with a batch at hand and with a loader of images in memory, and of a bare update."""
    ours = make_model(args, device)
    images, labels = make_batch(args, ours, device)
    count = len(images)
    state = TrainState(
        model=ours,
        optimizer=make_optimizer(ours, name="adamw", lr=LEARNING_RATE, weight_decay=0.05),
        scaler=precision.make_scaler(),
        ema=None,
        objective=Objective(make_loss(smoothing=SMOOTHING)),
        prepare=lambda *_: (images, labels),
        precision=precision,
        dist=Distributed(0, 1, 0, device),
        clip_grad=CLIP_GRAD,
        seed=0,
    )
    loaded_state = replace(state, prepare=Prepare(Normalise([0.5] * 3, [0.5] * 3)))
    loaded = _loaded_batches(args, ours, device)
    batch = Batch(images, labels, torch.empty(0, 6), [], list(range(count)), count, True, 0)
    totals, steps = StepTotals(device), itertools.count()
    update = make_update(make_model(args, device), precision)
    actions: dict[str, Callable[[], object]] = {
        "bare": lambda: update(images, labels),
        "loop": lambda: train_step(state, next(steps), itertools.repeat(batch), LEARNING_RATE, totals, []),
        "loader": lambda: train_step(loaded_state, next(steps), loaded, LEARNING_RATE, totals, []),
    }
    runs = {name: partial(time_action, action, count, device) for name, action in actions.items()}
    speeds = interleave(runs, rounds=args.rounds, warmup=args.warmup)
    ratios = {f"{name}_to_bare": ratio(speeds[name], speeds["bare"]) for name in ("loop", "loader")}
    return make_result(speeds, ratios)


def _loaded_batches(args: argparse.Namespace, model: Backbone, device: torch.device) -> Iterator[Batch]:
    """Batches without end from a loader of images in memory, whose workers only copy them."""
    count = 16 * args.batch_size
    images_NHWC = np.random.default_rng(0).integers(0, 256, (count, *model.img_size, 3), dtype=np.uint8)
    source = ArrayImages(images_NHWC, np.arange(count) % model.num_classes, map(str, range(count)))
    loader = TrainLoader(
        source,
        transform=_keep_as_is,
        seed=0,
        batch_size=args.batch_size,
        num_workers=min(8, os.cpu_count() or 1) if device.type == "cuda" else 0,
        pin_memory=device.type == "cuda",
    )
    return itertools.chain.from_iterable(map(loader.epoch, itertools.count()))


def _keep_as_is(content: bytes | np.ndarray, name: str) -> tuple[Tensor, tuple[()]]:
    assert isinstance(content, np.ndarray), name
    return torch.from_numpy(content).permute(2, 0, 1), ()

"""How fast a config trains and evaluates on this device, and the memory that it takes: by doing it for some seconds."""

import itertools
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from data import build_data
from swin.config import Config
from swin.config.flags import run_path
from swin.create import build_model
from swin.distributed import Distributed
from swin.engine.build import Job, build_precision
from swin.engine.run import make_trainer
from swin.engine.signals import StopRequest
from swin.engine.step import train_step
from swin.engine.throughput import synchronize
from swin.engine.trainer import Trainer
from swin.logger import Logger
from swin.models import count_flops, count_parameters
from swin.run_folder import RunFolder
from tools.benchmark.memory import activation_bytes

TRAIN_SEC, EVAL_SEC = 8.0, 3.0  # that a measurement takes, after a warm-up of half as long and of two updates at least
_WRITTEN_BYTES_PER_SEC = 300e6  # of a checkpoint; no measurement, and an error of ten changes a plan by seconds


@dataclass(frozen=True)
class Speed:
    """What was measured of a config: loading and decoding of images count.

    Attributes:
        train: training images a second.
        compute: training images a second if loading took no time.
        val: images a second in evaluation.
        save_sec: seconds in which a checkpoint is written.
    """

    train: float
    compute: float
    val: float
    save_sec: float


@dataclass(frozen=True)
class Cost:
    """What a model takes, before it is trained: multiply-adds of an image, bytes by itself, and for each image."""

    flops: int
    model_bytes: int
    image_bytes: int

    def bytes_for(self, batch: int) -> int:
        """Return the bytes that training with a batch takes: about, and the program itself not counted."""
        return self.model_bytes + batch * self.image_bytes


def find_cost(cfg: Config, num_classes: int, dist: Distributed) -> Cost:
    """Find what the model of a config takes, from a forward pass of two images."""
    model = build_model(cfg, num_classes)
    height, width = model.img_size
    images = torch.randn(2, cfg.MODEL.SWIN.IN_CHANS, height, width, device=dist.device)
    precision = build_precision(cfg, dist)
    flops = count_flops(model, height, width)
    kept = activation_bytes(model.to(dist.device), images, precision)
    # Weights, their average, gradients, AdamW's two moments; an image's share of what the passes make for a moment.
    return Cost(flops, 20 * count_parameters(model), 2 * kept)


def find_memory(device: torch.device) -> int:
    """Return the bytes that a device has free, or that this machine or container has in all."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no container, or one without a limit: "max"
            total = min(total, int(Path(file).read_text()))
    return total


def measure(cfg: Config, dist: Distributed) -> tuple[Speed, list[str]]:
    """Train as the config says for some seconds, and evaluate; nothing is written.

    Returns:
        The speed, and the warnings that the run would begin with.
    """
    torch.manual_seed(cfg.SEED)
    logger = Logger(is_main=False)  # silent
    folder = RunFolder(run_path(cfg))
    job = Job(cfg, dist, build_precision(cfg, dist), logger, StopRequest(), folder, build_data, is_dry=True)
    trainer = make_trainer(job)
    train, compute = _time_training(trainer)
    val = _time_evaluation(trainer)
    save_sec = 16 * count_parameters(trainer.state.model) / _WRITTEN_BYTES_PER_SEC
    return Speed(train, compute, val, save_sec), logger.warnings


def _time_training(trainer: Trainer) -> tuple[float, float]:
    """Return training images a second, with the time that loading takes and without it."""
    device, done, updates, waited = trainer.dist.device, 0, 0, 0.0
    trainer.state.network.train()
    begin = start = time.perf_counter()
    is_warm = False
    for epoch in itertools.count():
        batches = trainer.watch.timed(trainer.batches.epoch(epoch))
        position = 0
        while position < trainer.batches.num_samples:
            trainer.watch.waited_sec, before = 0.0, position
            position = train_step(trainer.state, updates, batches, trainer.lr, trainer.totals, [])
            synchronize(device)
            updates, done, now = updates + 1, done + position - before, time.perf_counter()
            waited += trainer.watch.waited_sec
            if not is_warm and updates >= 2 and now - start > TRAIN_SEC / 2:
                is_warm, done, waited, begin = True, 0, 0.0, now
            elif is_warm and now - begin > TRAIN_SEC:
                return done / (now - begin), done / max(now - begin - waited, 1e-9)
    raise AssertionError


@torch.inference_mode()
def _time_evaluation(trainer: Trainer) -> float:
    assert trainer.data.val is not None
    state, device, done = trainer.state, trainer.dist.device, 0
    state.model.eval()
    next(iter(trainer.data.val))  # starts the workers, which a run does once
    begin = time.perf_counter()
    for batch in trainer.data.val:
        with state.precision.autocast():
            state.model(trainer.data.normalise(batch.images.to(device)))
        synchronize(device)
        done += len(batch.images)
        if time.perf_counter() - begin > EVAL_SEC:
            break
    return done / (time.perf_counter() - begin)

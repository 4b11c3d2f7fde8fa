"""How fast a config trains and evaluates on this device, and the memory that it takes."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from swin.config import Config
from swin.create import build_model
from swin.distributed import Distributed
from swin.engine.build import build_precision
from swin.engine.measure import time_evaluation, time_saving, time_training
from swin.models import count_flops, count_parameters
from tools.benchmark.memory import activation_bytes
from tools.trial import make_trial

TRAIN_SEC, EVAL_SEC = 8.0, 3.0  # that a measurement takes, after a warm-up


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
    images = torch.randn(2, cfg.architecture.IN_CHANS, height, width, device=dist.device)
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
    trainer = make_trial(cfg, dist)
    assert trainer.data.val is not None
    training = time_training(trainer, TRAIN_SEC)
    train = trainer.batches.num_samples / training.of_epoch(trainer.batches.num_samples)
    val = trainer.data.val.num_samples / time_evaluation(trainer, EVAL_SEC)
    return Speed(train, train / max(1 - training.wait, 1e-9), val, time_saving(trainer)), trainer.logger.warnings

"""Inference speed of a model on its own, without data loading."""

import time

import torch
from torch import nn

from swin.engine.precision import Precision


def synchronize(device: torch.device) -> None:
    """Wait for the device's queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@torch.inference_mode()
def measure_throughput(
    model: nn.Module, images: torch.Tensor, precision: Precision, *, warmup: int = 10, rounds: int = 30
) -> float:
    """Median images per second over `rounds` forward passes of one batch (b, C, H, W), after `warmup` of them."""
    was_training = model.training
    model.eval()
    seconds = []
    for index in range(warmup + rounds):
        synchronize(images.device)
        begin = time.perf_counter()
        with precision.autocast():
            model(images)
        synchronize(images.device)
        if index >= warmup:
            seconds.append(time.perf_counter() - begin)
    model.train(was_training)
    return len(images) / sorted(seconds)[len(seconds) // 2]

"""How fast a model is in inference, and the memory that it takes."""

import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from swin.engine.precision import Precision

MAX_ROUNDS = 30
MIN_ROUNDS = 5
# Seconds that `measure_throughput` gives its rounds, where MIN_ROUNDS do not take longer.
TIME_LIMIT = 30
SUMMARY = "{median:.1f} ({lowest:.1f} to {highest:.1f})"


def measure_throughput(model: nn.Module, images: Tensor, precision: Precision) -> tuple[list[float], int]:
    """Images per second in each round of inference on one batch (B, C, H, W), after a warm-up, and `peak_bytes`."""

    def infer() -> None:
        with torch.inference_mode(), precision.autocast():
            model(images)

    was_training = model.training
    model.eval()
    time_action(infer, len(images), images.device)  # compiles, and makes room
    estimate = time_action(infer, len(images), images.device)
    rounds = max(MIN_ROUNDS, min(MAX_ROUNDS, int(TIME_LIMIT * estimate / len(images))))
    warmup = rounds // 3
    speeds = [time_action(infer, len(images), images.device) for _ in range(warmup + rounds)]
    model.train(was_training)
    return speeds[warmup:], peak_bytes(images.device)


def summarize(speeds: Sequence[float]) -> dict[str, float | None]:
    """Figures over rounds, for JSON; a single round has no standard deviation."""
    return {
        "median": statistics.median(speeds),
        "mean": statistics.mean(speeds),
        "stdev": statistics.stdev(speeds) if len(speeds) > 1 else None,
        "lowest": min(speeds),
        "highest": max(speeds),
    }


def time_action(
    action: Callable[[], object], images: int, device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Run an action, which handles `images` images, to its end on the device; returns images per second."""
    synchronize(device)
    begin = clock()
    action()
    synchronize(device)
    return images / (clock() - begin)


def synchronize(device: torch.device) -> None:
    """Wait for the device's queued work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_bytes(device: torch.device) -> int:
    """Greatest memory in use so far: the device's by tensors on CUDA, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":  # whose ru_maxrss begins with the parent's
        with open("/proc/self/status", encoding="utf-8") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    import resource  # not on every platform

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

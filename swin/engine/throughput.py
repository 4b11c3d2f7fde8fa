"""How fast a model is, on its own: medians of interleaved rounds, beside the floor, and memory.

The floor is the time of the model's linear layers alone, on inputs of the right shapes: what is left when everything
between the matrix products costs nothing.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from swin.engine.precision import Precision

Action = Callable[[], object]

MAX_ROUNDS = 30
MIN_ROUNDS = 5
# Seconds that `measure_throughput` gives the model's own rounds, where MIN_ROUNDS do not take longer.
TIME_LIMIT = 30


@dataclass(frozen=True)
class Timing:
    """Images per second in each round."""

    speeds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.speeds)

    def fields(self) -> dict[str, float]:
        """For JSON."""
        return {"median": self.median, "lowest": min(self.speeds), "highest": max(self.speeds)}

    def ratio(self, other: "Timing") -> float:
        """Median of the rounds' ratios to another: a machine that is slow for a while is so for both."""
        return statistics.median(ours / theirs for ours, theirs in zip(self.speeds, other.speeds, strict=True))

    def __str__(self) -> str:
        return f"{self.median:.1f} ({min(self.speeds):.1f} to {max(self.speeds):.1f})"


@dataclass(frozen=True)
class Throughput:
    """Inference speed of a model, that of its linear layers alone, and the memory it took.

    Attributes:
        model: images a second.
        floor: images a second.
        peak_bytes: the device's memory, on a CPU the process's, at its greatest.
    """

    model: Timing
    floor: Timing
    peak_bytes: int

    @property
    def share_of_floor(self) -> float:
        """Of the floor's speed, the part that the model reaches."""
        return self.model.ratio(self.floor)

    def fields(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "images_per_sec": {"model": self.model.fields(), "floor": self.floor.fields()},
            "rounds": len(self.model.speeds),
            "share_of_floor": self.share_of_floor,
            "peak_bytes": self.peak_bytes,
        }

    def __str__(self) -> str:
        return (
            f"throughput {self.model} images/s over {len(self.model.speeds)} rounds, {self.share_of_floor:.0%} of its "
            f"linear layers alone, peak memory {self.peak_bytes / 2**20:.0f} MiB"
        )


class Floor(nn.Module):
    """The linear layers and the patch embedding of a model, each on random numbers of its input's shape."""

    def __init__(self, model: nn.Module, images: Tensor, dtype: torch.dtype | None) -> None:
        super().__init__()
        shapes: dict[nn.Module, tuple[int, ...]] = {}
        layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
        hooks = [
            layer.register_forward_pre_hook(lambda module, inputs: shapes.update({module: tuple(inputs[0].shape)}))
            for layer in layers
        ]
        with torch.no_grad():
            model.forward(images[:1])  # without torch.compile, to which the hooks are unknown
        for hook in hooks:
            hook.remove()
        self.layers = nn.ModuleList(layers)
        inputs = {
            (first, *rest): torch.randn(first * len(images), *rest, device=images.device, dtype=dtype)
            for first, *rest in set(shapes.values())
        }
        self.inputs = [inputs[shapes[layer]] for layer in layers]

    def forward(self, images: Tensor) -> Tensor:
        """The last layer's output; while gradients are on, each layer is also differentiated, one after another."""
        output = images
        for layer, saved in zip(self.layers, self.inputs, strict=True):
            needs_grad = torch.is_grad_enabled() and isinstance(layer, nn.Linear)
            output = layer(saved.detach().requires_grad_(needs_grad))
            if torch.is_grad_enabled():
                output.backward(output.detach())
        return output


def synchronize(device: torch.device) -> None:
    """Wait for the device's queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def interleave(
    actions: Mapping[str, Action], images: int, *, rounds: int, warmup: int, device: torch.device
) -> dict[str, Timing]:
    """Time each action in turn, round after round; each handles `images` images."""
    speeds: dict[str, list[float]] = {name: [] for name in actions}
    for index in range(warmup + rounds):
        for name, action in actions.items():
            synchronize(device)
            begin = time.perf_counter()
            action()
            synchronize(device)
            if index >= warmup:
                speeds[name].append(images / (time.perf_counter() - begin))
    return {name: Timing(tuple(values)) for name, values in speeds.items()}


def measure_throughput(model: nn.Module, images: Tensor, precision: Precision) -> Throughput:
    """Inference speed of a model on one batch (B, C, H, W), and of its linear layers in turn with it, warmed up."""
    device, was_training = images.device, model.training

    def infer(network: nn.Module) -> None:
        with torch.inference_mode(), precision.autocast():
            network(images)

    model.eval()
    alone = interleave({"model": lambda: infer(model)}, len(images), rounds=2, warmup=1, device=device)["model"]
    peak = peak_bytes(device)
    rounds = max(MIN_ROUNDS, min(MAX_ROUNDS, int(TIME_LIMIT * alone.median / len(images))))
    floor = Floor(model, images, precision.dtype)
    actions = {"model": lambda: infer(model), "floor": lambda: infer(floor)}
    timings = interleave(actions, len(images), rounds=rounds, warmup=rounds // 3, device=device)
    model.train(was_training)
    return Throughput(timings["model"], timings["floor"], peak)


def peak_bytes(device: torch.device) -> int:
    """Greatest memory in use so far: the device's by tensors on CUDA, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":  # whose ru_maxrss begins with the parent's
        with open("/proc/self/status", encoding="utf-8") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    import resource  # not on every platform

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

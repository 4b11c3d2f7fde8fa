"""Speed of the model against other libraries' and its own linear layers, in inference and in training."""

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swin import create_model
from swin.engine.build import compile_model
from swin.engine.precision import Precision
from swin.engine.throughput import peak_bytes, time_action
from swin.errors import ConfigError
from swin.models import Backbone, SwinTransformerV2
from swin.optim import make_optimizer
from swin.weights import model_arguments
from swin.weights.formats import from_native
from tools.benchmark.linear_bound import LinearBound
from tools.benchmark.memory import activation_bytes, largest_batch
from tools.benchmark.process import ProcessRun
from tools.benchmark.timing import Result, Run, interleave, make_result, ratio
from tools.convert_weights import make_peer

BASELINES = ("timm", "torchvision")
LEARNING_RATE = 1e-5
SMOOTHING = 0.1
CLIP_GRAD = 5.0
SCALING_SIZES_PX = (224, 320, 448, 640, 896)


def run_model(args: argparse.Namespace, device: torch.device, precision: Precision) -> Result:
    """Inference or training speed, the fraction of the linear layers' that is reached, and memory."""
    is_training = args.what == "train"
    ours = make_model(args, device)
    images, labels = make_batch(args, ours, device)
    baselines = {name: make_baseline(name, ours) for name in args.against.split(",") if name}
    bound = LinearBound(ours, images, precision.dtype)
    more = _measure_training_memory(args, baselines, images, precision) if is_training else {}
    runs: dict[str, Run] = {}
    for name, model in {"ours": ours, **baselines, "linear_bound": bound}.items():
        mode = "off" if model is bound else args.compile
        make = partial(make_run, model, images, labels, precision, is_training=is_training, compile_mode=mode)
        keep_memory = args.same_allocator or name not in baselines
        runs[name] = ProcessRun(make, keep_memory=keep_memory) if device.type == "cpu" else make()
    speeds = interleave(runs, rounds=args.rounds, warmup=args.warmup)
    ratios = {"fraction_of_linear_bound": ratio(speeds["ours"], speeds["linear_bound"])}
    if baselines:
        best = max(baselines, key=lambda name: statistics.median(speeds[name]))
        ratios["ours_to_best_baseline"] = ratio(speeds["ours"], speeds[best])
    peaks = {name: _finish(run, device) for name, run in runs.items()}
    return make_result(speeds, ratios, peak_bytes=peaks, **more)


def run_scaling(args: argparse.Namespace, device: torch.device, precision: Precision) -> Result:
    """Speed on one image against its pixels, at a fixed window."""
    ours = make_model(args, device)
    runs = {}
    for size in SCALING_SIZES_PX:
        images = torch.randn(1, 3, size, size, device=device)
        runs[str(size)] = make_run(ours, images, images, precision, is_training=False, compile_mode="off")
    speeds = interleave(runs, rounds=args.rounds, warmup=args.warmup)
    exponent = scaling_exponent(SCALING_SIZES_PX, [statistics.median(values) for values in speeds.values()])
    return make_result(speeds, {}, exponent={"time_to_pixels": exponent})


def scaling_exponent(sizes_px: Sequence[int], speeds: Sequence[float]) -> float:
    """Slope of log(time) against log(pixels), by least squares: 1 where cost grows linearly."""
    return float(np.polyfit(2 * np.log(sizes_px), -np.log(speeds), 1)[0])


def make_model(args: argparse.Namespace, device: torch.device) -> Backbone:
    """The model that the command line names, with equal weights at each call."""
    torch.manual_seed(0)
    changes = {"img_size": args.img_size} if args.img_size else {}
    return create_model(args.variant, drop_path_rate=0.0, attention=args.attention, **changes).to(device)


def make_batch(args: argparse.Namespace, model: Backbone, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random images (B, 3, height, width) and labels (B,)."""
    images = torch.randn(args.batch_size, 3, *model.img_size, device=device)
    return images, torch.randint(0, model.num_classes, (args.batch_size,), device=device)


def make_baseline(name: str, ours: Backbone) -> nn.Module:
    """The same model of another library, with the weights and on the device of `ours`.

    Raises:
        ConfigError: the library is not one of `BASELINES`.
    """
    if name not in BASELINES:
        raise ConfigError(f"--against names '{name}'; expected some of: {', '.join(BASELINES)}.")
    weights = ours.state_dict()
    windows = ours.windows() if isinstance(ours, SwinTransformerV2) else None
    family, arguments = model_arguments(weights, windows)
    model = make_peer(name, family, {**arguments, "img_size": ours.img_size})
    assert model is not None
    model.load_state_dict(from_native(weights, name, img_size=ours.img_size, windows=windows))
    return model.to(next(ours.parameters()).device)


def make_run(
    model: nn.Module, images: Tensor, labels: Tensor, precision: Precision, *, is_training: bool, compile_mode: str
) -> Run:
    """Make a forward pass, or forward and backward, of a model, which is compiled in place."""
    compile_model(model, compile_mode, images.device)
    model.train(is_training)

    def infer() -> None:
        with torch.inference_mode(), precision.autocast():
            model(images)

    def train() -> None:
        with precision.autocast():
            output = model(images)
            loss = None if isinstance(model, LinearBound) else F.cross_entropy(output, labels)
        if loss is not None:
            loss.backward()
        model.zero_grad(set_to_none=True)

    return partial(time_action, train if is_training else infer, len(images), images.device)


def make_update(model: nn.Module, precision: Precision) -> Callable[[Tensor, Tensor], None]:
    """Make an update of a model as a training loop written out has it, of images and labels."""
    optimizer = make_optimizer(model, name="adamw", lr=LEARNING_RATE, weight_decay=0.05)

    def update(images: Tensor, labels: Tensor) -> None:
        with precision.autocast():
            loss = F.cross_entropy(model(images), labels, label_smoothing=SMOOTHING)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_GRAD)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return update


def _measure_training_memory(
    args: argparse.Namespace, baselines: dict[str, nn.Module], images: Tensor, precision: Precision
) -> dict[str, Any]:
    """Activations of ours, with and without recomputing them, and of baselines; on CUDA the largest batches of ours."""
    ours = {name: make_model(args, images.device) for name in ("ours", "ours_checkpointed")}
    ours["ours_checkpointed"].set_checkpointing(True)
    models = {**ours, **baselines}
    sizes = {name: activation_bytes(model, images[:2], precision) for name, model in models.items()}
    if images.device.type != "cuda":
        return {"activation_bytes_per_image": sizes}
    batches = {}
    for name, model in ours.items():
        batches[name] = largest_batch(partial(_update_on_copies, make_update(model, precision), images[:1]))
    return {"activation_bytes_per_image": sizes, "largest_batch": batches}


def _update_on_copies(update: Callable[[Tensor, Tensor], None], image: Tensor, count: int) -> None:
    update(image.repeat(count, 1, 1, 1), image.new_zeros(count).long())


def _finish(run: Run, device: torch.device) -> int:
    """End a run; returns the greatest memory in use, of its process on a CPU."""
    if isinstance(run, ProcessRun):
        run.close()
        return run.peak_bytes
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return peak_bytes(device)

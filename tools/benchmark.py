"""How fast the model, its training loop and the data pipeline are, beside other libraries and the possible.

    python -m tools.benchmark model --against timm,torchvision     inference
    python -m tools.benchmark train --against timm,torchvision     forward and backward
    python -m tools.benchmark loop                                 the training loop and its loader against a bare step
    python -m tools.benchmark data --data-path FOLDER              decoding and augmentation

Contestants take turns, after a warm-up; figures are medians over the rounds, with the lowest and the highest.
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from data.datasets import ArrayImages
from data.loaders import TrainLoader
from data.prepare import Prepare
from swin.batches import Batch
from swin.cpu import keep_freed_memory
from swin.create import create_model
from swin.distributed import Distributed
from swin.engine.precision import Precision, choose_precision
from swin.engine.state import TrainState
from swin.engine.step import StepTotals, train_step
from swin.engine.throughput import Action, Floor, Timing, interleave, peak_bytes
from swin.errors import ConfigError, SwinError
from swin.losses import make_loss
from swin.models import SwinTransformer
from swin.optim import make_optimizer
from swin.preprocess import Normalise, to_pixels
from tools import benchmark_model as bench

Result = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status."""
    args = parse_arguments(argv)
    try:
        device = torch.device(_default_device() if args.device == "auto" else args.device)
        if device.type == "cpu":
            keep_freed_memory()  # as main.py does
        result: Result = {"command": " ".join(argv or sys.argv[1:]), "machine": bench.machine(device)}
        print(", ".join(f"{key} {value}" for key, value in result["machine"].items()))
        if args.what == "data":
            result["data"] = _run_data(args)
        else:
            run = {"loop": run_loop, "model": run_scaling if args.scaling else run_model, "train": run_model}[args.what]
            for dtype in args.dtype.split(","):
                result[dtype] = run(args, device, _precision(device, dtype))
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(result, indent=2) + "\n")
    except SwinError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tools.benchmark", description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("model", "train", "loop", "data"))
    parser.add_argument("--against", default="", help=f"libraries to compare with: {','.join(bench.PEERS)}")
    parser.add_argument("--variant", default="swin_tiny")
    parser.add_argument("--img-size", type=int, help="pixels; the variant's own if not given")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--dtype", default="fp32,bf16", help="of fp32, bf16, fp16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--attention", default="auto", help="as MODEL.ATTENTION")
    parser.add_argument(
        "--compile", default="off", choices=("off", "default", "max-autotune"), help="all but the floor"
    )
    parser.add_argument("--same-allocator", action="store_true", help="CPU: the peers also keep freed memory")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--scaling", action="store_true", help="model: time against pixels, 224 to 896")
    parser.add_argument("--data-path", type=Path, help="data: a folder of images")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args(argv)


def run_model(args: argparse.Namespace, device: torch.device, precision: Precision) -> Result:
    """Inference or training speed of the contestants, the share of the floor that is reached, and memory."""
    train = args.what == "train"
    ours = _model(args, device)
    images, labels = _batch(args, ours, device)
    models: dict[str, nn.Module] = {"ours": ours}
    for name in filter(None, args.against.split(",")):
        models[name] = bench.make_contestant(name, ours).to(device)
    actions: dict[str, Action] = {}
    for name, model in {**models, "floor": Floor(ours, images, precision.dtype)}.items():
        if device.type == "cpu":
            keep_memory = args.same_allocator or name in ("ours", "floor")
            actions[name] = bench.ProcessAction(
                model,
                images,
                labels,
                precision,
                train=train,
                compile_mode=args.compile,
                keep_memory=keep_memory,
            )
        else:
            model = bench.compiled(model, args.compile)
            actions[name] = bench.make_action(model, images, labels, precision, train=train)
    timings = interleave(actions, len(images), rounds=args.rounds, warmup=args.warmup, device=device)
    result: Result = {"images_per_sec": {name: timing.fields() for name, timing in timings.items()}}
    result["share_of_floor"] = timings["ours"].ratio(timings["floor"])
    result["peak_bytes"] = {name: _peak_bytes(action, device) for name, action in actions.items()}
    peers = [name for name in models if name != "ours"]
    if peers:
        best = max(peers, key=lambda name: timings[name].median)
        result["ratio_to_best_peer"] = timings["ours"].ratio(timings[best])
    if train:
        result["activation_bytes_per_image"] = _memory(models, images, precision)
        if device.type == "cuda":
            result["largest_batch"] = _largest_batches(args, device, precision)
    _print_model(args, precision, timings, result)
    return result


def run_scaling(args: argparse.Namespace, device: torch.device, precision: Precision) -> Result:
    """Time of one image against its pixels, at a fixed window."""
    ours = _model(args, device)
    sizes = (224, 320, 448, 640, 896)
    batches = {size: torch.randn(1, 3, size, size, device=device) for size in sizes}
    actions: dict[str, Action] = {}
    for size, images in batches.items():
        actions[str(size)] = bench.make_action(ours, images, images, precision, train=False)
    timings = interleave(actions, 1, rounds=args.rounds, warmup=args.warmup, device=device)
    seconds = [1 / timings[str(size)].median for size in sizes]
    exponent = bench.scaling_exponent([size * size for size in sizes], seconds)
    for size, value in zip(sizes, seconds, strict=True):
        print(f"{size} px: {1e3 * value:.1f} ms")
    print(f"{precision.name}: time grows with the pixels to the power {exponent:.3f}")
    return {"seconds": dict(zip(map(str, sizes), seconds, strict=True)), "exponent": exponent}


def run_loop(args: argparse.Namespace, device: torch.device, precision: Precision) -> Result:
    """The training loop's update against a bare update written out: on a batch that is at hand, and on what the loader
    makes of images in memory."""
    ours = _model(args, device)
    images, labels = _batch(args, ours, device)
    state = TrainState(
        model=ours,
        optimizer=_optimizer(ours),
        scaler=precision.make_scaler(),
        ema=None,
        loss=make_loss(smoothing=0.1),
        prepare=lambda *_: (images, labels),
        precision=precision,
        dist=Distributed(0, 1, 0, device),
        clip_grad=5.0,
        seed=0,
    )
    loaded_state = replace(state, prepare=Prepare(Normalise([0.5] * 3, [0.5] * 3)))
    loaded = _loaded_batches(args, ours, device)
    count = len(images)
    batch = Batch(images, labels, torch.empty(0, 6), [], list(range(count)), count, True, 0)
    totals, steps = StepTotals(device), itertools.count()
    bare_model = _model(args, device)
    bare_optimizer = _optimizer(bare_model)

    def bare() -> None:
        with precision.autocast():
            loss = F.cross_entropy(bare_model(images), labels, label_smoothing=0.1)
        loss.backward()
        nn.utils.clip_grad_norm_(bare_model.parameters(), 5.0)
        bare_optimizer.step()
        bare_optimizer.zero_grad(set_to_none=True)

    actions: dict[str, Action] = {
        "bare": bare,
        "loop": lambda: train_step(state, next(steps), itertools.repeat(batch), 1e-5, totals, []),
        "loader": lambda: train_step(loaded_state, next(steps), loaded, 1e-5, totals, []),
    }
    timings = interleave(actions, count, rounds=args.rounds, warmup=args.warmup, device=device)
    shares = {name: timings[name].ratio(timings["bare"]) for name in ("loop", "loader")}
    print(f"{precision.name}: " + ", ".join(f"{name} {timing}" for name, timing in timings.items()))
    print("  of the bare step's speed the loop keeps {loop:.1%}, with the loader {loader:.1%}".format(**shares))
    return {"images_per_sec": {name: timing.fields() for name, timing in timings.items()}, "share": shares}


def _loaded_batches(args: argparse.Namespace, model: SwinTransformer, device: torch.device) -> Iterator[Batch]:
    """Batches without end from a loader of images in memory, whose workers only copy them."""
    count = 16 * args.batch_size
    images_NHWC = np.random.default_rng(0).integers(0, 256, (count, *model.img_size, 3), dtype=np.uint8)
    source = ArrayImages(images_NHWC, np.arange(count) % model.num_classes, map(str, range(count)))
    loader = TrainLoader(
        source,
        transform=_as_it_is,
        seed=0,
        batch_size=args.batch_size,
        num_workers=min(8, os.cpu_count() or 1) if device.type == "cuda" else 0,
        pin_memory=device.type == "cuda",
    )
    return itertools.chain.from_iterable(map(loader.epoch, itertools.count()))


def _as_it_is(content: bytes | Image.Image, name: str) -> tuple[Tensor, tuple[()]]:
    assert isinstance(content, Image.Image), name
    return to_pixels(content), ()


def _run_data(args: argparse.Namespace) -> Result:
    from tools.benchmark_data import describe_data, run_data

    if args.data_path is None:
        raise ConfigError("the data benchmark needs images; add --data-path FOLDER.")
    result = run_data(args.data_path, img_size=args.img_size or 224)
    print(describe_data(result))
    return result


def _peak_bytes(action: Action, device: torch.device) -> int:
    """Greatest memory in use, of the process on a CPU, and ends that."""
    if isinstance(action, bench.ProcessAction):
        peak = action.peak_bytes()
        action.close()
        return peak
    torch.cuda.reset_peak_memory_stats(device)
    action()
    return peak_bytes(device)


def _memory(models: dict[str, nn.Module], images: Tensor, precision: Precision) -> dict[str, int]:
    few = images[:2]
    found = {name: bench.activation_bytes(model, few, precision) for name, model in models.items()}
    ours = models["ours"]
    assert isinstance(ours, SwinTransformer)
    _set_checkpointing(ours, True)
    found["ours checkpointed"] = bench.activation_bytes(ours, few, precision)
    _set_checkpointing(ours, False)
    return found


def _set_checkpointing(model: SwinTransformer, on: bool) -> None:
    for stage in model.stages():
        stage.use_checkpoint = on


def _largest_batches(args: argparse.Namespace, device: torch.device, precision: Precision) -> dict[str, int]:
    found = {}
    for name, checkpointing in (("ours", False), ("ours checkpointed", True)):
        model = _model(args, device).train()
        _set_checkpointing(model, checkpointing)
        optimizer = _optimizer(model)

        def step(batch: int, model: SwinTransformer = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
            images = torch.randn(batch, 3, *model.img_size, device=device)
            with precision.autocast():
                loss = model(images).float().logsumexp(-1).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        found[name] = bench.largest_batch(step)
    return found


def _print_model(args: argparse.Namespace, precision: Precision, timings: dict[str, Timing], result: Result) -> None:
    print(f"{args.variant}, {args.what}, {precision.name}, batch {args.batch_size}, compile {args.compile}: images/s")
    for name, timing in timings.items():
        print(f"  {name}: {timing}, peak {result['peak_bytes'][name] / 2**20:.0f} MiB")
    ratio = result.get("ratio_to_best_peer")
    print(f"  {result['share_of_floor']:.0%} of the floor" + (f", {ratio:.2f} x the best peer" if ratio else ""))
    for name, size in result.get("activation_bytes_per_image", {}).items():
        print(f"  {name}: {size / 2**20:.1f} MiB of activations an image")
    for name, batch in result.get("largest_batch", {}).items():
        print(f"  {name}: largest batch {batch}")


def _model(args: argparse.Namespace, device: torch.device) -> SwinTransformer:
    torch.manual_seed(0)
    changes = {"img_size": args.img_size} if args.img_size else {}
    return create_model(args.variant, drop_path_rate=0.0, attention=args.attention, **changes).to(device)


def _batch(args: argparse.Namespace, model: SwinTransformer, device: torch.device) -> tuple[Tensor, Tensor]:
    images = torch.randn(args.batch_size, 3, *model.img_size, device=device)
    return images, torch.randint(0, model.num_classes, (args.batch_size,), device=device)


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return make_optimizer(model, name="adamw", lr=1e-5, weight_decay=0.05)


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _precision(device: torch.device, dtype: str) -> Precision:
    if dtype not in ("fp32", "bf16", "fp16"):
        raise ConfigError(f"--dtype names '{dtype}'; expected some of: fp32, bf16, fp16.")
    return choose_precision(device, enabled=dtype != "fp32", dtype=dtype if dtype != "fp32" else "auto")


if __name__ == "__main__":
    sys.exit(main())

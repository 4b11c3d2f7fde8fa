"""A model in the engines that run it, at small batches: how fast each is beside the eager model, and beside timm's."""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from swin.engine.build import compile_model
from swin.engine.throughput import time_action
from swin.engines import ENGINES, PRECISIONS, Description, Engine, write_graph
from swin.errors import ConfigError
from swin.inference import make_predictor
from swin.preprocess import EvalTransform
from tools.benchmark.models import make_baseline, make_model
from tools.benchmark.process import ProcessRun
from tools.benchmark.timing import Result, Run, Speeds, interleave, make_result, ratio

BATCHES = (1, 8)
_CPU = torch.device("cpu")
Makers = dict[str, Callable[[Tensor], Run]]  # what makes a run for some images, by names such as "ours openvino bf16"


def run_engines(args: argparse.Namespace) -> Iterator[tuple[str, Result]]:
    """Measure inference on the CPU, everything in a process of its own; yields each batch size with its result.

    Raises:
        ConfigError: An engine is not installed, or a number format is not known.
    """
    formats = args.dtype.split(",")
    if unknown := set(formats) - {"fp32", "bf16", "int8"}:
        raise ConfigError(f"--dtype names '{unknown.pop()}'; expected some of: fp32, bf16, int8.")
    ours = make_model(args, _CPU).eval()
    models: dict[str, nn.Module] = {"ours": ours}
    models |= {name: make_baseline(name, ours).eval() for name in args.against.split(",") if name}
    transform = make_predictor(ours, _CPU).transform
    assert isinstance(transform, EvalTransform)
    with tempfile.TemporaryDirectory() as folder:
        makers: Makers = {}
        for name, model in models.items():
            makers |= _make_makers(name, model, transform, formats, Path(folder, name))
        for batch in BATCHES:
            images = torch.randn(batch, 3, *transform.resize.size)
            runs = {
                name: ProcessRun(partial(make, images), keep_memory="ours" in name) for name, make in makers.items()
            }
            speeds = interleave(runs, rounds=args.rounds, warmup=args.warmup)
            for run in runs.values():
                run.close()
            peaks = {name: run.peak_bytes for name, run in runs.items()}
            yield f"batch {batch}", make_result(speeds, _compare(speeds), peak_bytes=peaks)


def _compare(speeds: Speeds) -> dict[str, float]:
    """Return how many times as fast as eager in float32 each of ours is, and as the same of another library."""
    ratios = {}
    for name in speeds:
        owner, _, what = name.partition(" ")
        if owner == "ours" and "ours eager fp32" in speeds:
            ratios[f"{what} to eager fp32"] = ratio(speeds[name], speeds["ours eager fp32"])
        elif owner != "ours":
            ratios[f"ours to {owner}, {what}"] = ratio(speeds[f"ours {what}"], speeds[name])
    return ratios


def _make_makers(owner: str, model: nn.Module, transform: EvalTransform, formats: list[str], folder: Path) -> Makers:
    """Export a model for each engine, and give what makes a run of each."""
    makers: Makers = {}
    for precision in [each for each in formats if each != "int8"]:
        makers[f"{owner} eager {precision}"] = partial(make_eager_run, model, precision, "off")
    if owner == "ours" and "fp32" in formats:
        makers[f"{owner} compiled fp32"] = partial(make_eager_run, model, "fp32", "default")
    for engine, to in [each for each in ENGINES.items() if each[0] != "torch"]:
        for precision in [each for each in formats if each in PRECISIONS[to]]:
            place = folder / f"{engine}-{precision}"
            place.mkdir(parents=True)
            about = Description.of(transform, classes=None, channels=3, precision=precision)
            noise = [np.random.default_rng(0).standard_normal((2, 3, *about.size), dtype=np.float32) for _ in range(4)]
            path = write_graph(model, about, to, place, calibration=noise)
            makers[f"{owner} {engine} {precision}"] = partial(make_engine_run, path)
    return makers


def make_eager_run(model: nn.Module, precision: str, mode: str, images: Tensor) -> Run:
    """Make a forward pass of a model whose weights are in a number format."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model, images = model.to(dtype), images.to(dtype)
    compile_model(model, mode, _CPU)

    def infer() -> None:
        with torch.inference_mode():
            model(images)

    return partial(time_action, infer, len(images), _CPU)


def make_engine_run(path: Path, images: Tensor) -> Run:
    """Make a run of an exported file."""
    engine = Engine(path)
    return partial(time_action, lambda: engine(images), len(images), _CPU)

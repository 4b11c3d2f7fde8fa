"""How fast the model, its training loop and the data pipeline are, beside other libraries and the possible.

    python -m tools.benchmark model --against timm,torchvision     inference
    python -m tools.benchmark train --against timm,torchvision     forward and backward
    python -m tools.benchmark loop                                 the training loop and its loader against a bare step
    python -m tools.benchmark data --data-path FOLDER              decoding and augmentation
    python -m tools.benchmark evaluation                           what an evaluation costs beside its forward passes
    python -m tools.benchmark engines --against timm               eager, compiled, onnxruntime and OpenVINO, on the CPU
    python -m tools.benchmark learning --cfg C --seeds 3           what recipes learn, and the time that it takes

What is compared takes turns, after a warm-up.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from swin.cpu import keep_freed_memory
from swin.engine.precision import choose_precision
from swin.errors import ConfigError, SwinError
from tools.benchmark.data import run_data
from tools.benchmark.engines import run_engines
from tools.benchmark.evaluation import run_evaluation
from tools.benchmark.learning import describe_learning, run_learning
from tools.benchmark.loop import run_loop
from tools.benchmark.models import BASELINES, run_model, run_scaling
from tools.benchmark.timing import Result, describe, machine


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status."""
    args = parse_arguments(argv)
    try:
        default = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(default if args.device == "auto" else args.device)
        if device.type == "cpu":
            keep_freed_memory()  # as main.py does
        command = " ".join(["python -m tools.benchmark", *(argv or sys.argv[1:])])
        record: dict[str, Any] = {"command": command, "machine": machine(device), "results": {}}
        print(", ".join(f"{key} {value}" for key, value in record["machine"].items()))
        for name, result in measure(args, device):
            print((describe_learning if args.what == "learning" else describe)(name, result), flush=True)
            record["results"][name] = result
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(record, indent=2) + "\n")
    except SwinError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="tools.benchmark", description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("model", "train", "loop", "data", "evaluation", "engines", "learning"))
    parser.add_argument("--against", default="", help=f"libraries to compare with: {','.join(BASELINES)}")
    parser.add_argument("--variant", default="swin_tiny")
    parser.add_argument("--img-size", type=int, help="pixels; the variant's own if not given, 224 for data")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--dtype", help="of fp32, bf16, fp16, and int8 for engines (default: fp32,bf16; engines: all)")
    parser.add_argument("--device", default="auto", help="auto: CUDA where there is one")
    parser.add_argument("--attention", default="auto", help="as MODEL.ATTENTION")
    modes = ("off", "default", "max-autotune")
    parser.add_argument("--compile", default="off", choices=modes, help="all but the linear bound")
    parser.add_argument("--same-allocator", action="store_true", help="CPU: the baselines also keep freed memory")
    parser.add_argument("--rounds", type=int, help="default: 15, evaluation: 3")
    parser.add_argument("--warmup", type=int, default=3, help="rounds before those that count")
    parser.add_argument("--scaling", action="store_true", help="model: time against pixels, 224 to 896")
    parser.add_argument("--data-path", type=Path, help="data, learning: a folder of images")
    parser.add_argument("--cfg", default="swin_digits", help="learning: the recipe")
    tries = "learning: settings that take turns, as often as wanted: muon='TRAIN.OPTIMIZER.NAME muon'"
    parser.add_argument("--try", dest="settings", action="append", default=[], metavar="NAME=OPTIONS", help=tries)
    parser.add_argument("--seeds", type=int, default=3, help="learning: runs of each")
    sizes: dict[str, Any] = {"type": int, "nargs": "+", "default": [], "metavar": "N"}
    parser.add_argument("--images", help="evaluation: images of each table", **sizes)
    parser.add_argument("--classes", help="evaluation: classes of each table", **sizes)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args(argv)
    args.dtype = args.dtype or ("fp32,bf16,int8" if args.what == "engines" else "fp32,bf16")
    args.rounds = args.rounds or (3 if args.what == "evaluation" else 15)
    return args


def measure(args: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, Result]]:
    """Run the benchmark that the command line names; yields each setting with its result."""
    if args.what == "data":
        yield from run_data(args).items()
        return
    alone = {"evaluation": run_evaluation, "engines": run_engines, "learning": run_learning}
    if args.what in alone:
        yield from alone[args.what](args)
        return
    run = {"loop": run_loop, "model": run_scaling if args.scaling else run_model, "train": run_model}[args.what]
    for dtype in args.dtype.split(","):
        if dtype not in ("fp32", "bf16", "fp16"):
            raise ConfigError(f"--dtype names '{dtype}'; expected some of: fp32, bf16, fp16.")
        precision = choose_precision(device, enabled=dtype != "fp32", dtype="auto" if dtype == "fp32" else dtype)
        yield dtype, run(args, device, precision)


if __name__ == "__main__":
    sys.exit(main())

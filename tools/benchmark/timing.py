"""Rounds in turns, and the format that all results have."""

import os
import platform
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision

from swin.engine.throughput import SUMMARY, summarize

Run = Callable[[], float]  # does some work once and returns images per second
Speeds = dict[str, list[float]]  # images per second in each round, by name
Result = dict[str, Any]


def interleave(runs: Mapping[str, Run], *, rounds: int, warmup: int) -> Speeds:
    """Do each run in turn, round after round: a machine that is slow for a while is so for all of them."""
    table = [{name: run() for name, run in runs.items()} for _ in range(warmup + rounds)]
    return {name: [row[name] for row in table[warmup:]] for name in runs}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the rounds' ratios, in each of which the machine was the same for both."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def make_result(speeds: Speeds, ratios: Mapping[str, float], *, unit: str = "images/s", **more: Any) -> Result:
    """The figures of one setting as they are written; `more` are groups of other figures by name, or plain values."""
    rounds = len(next(iter(speeds.values())))
    figures = {name: summarize(values) for name, values in speeds.items()}
    return {"unit": unit, "n": rounds, "figures": figures, "ratios": ratios, **more}


def describe(name: str, result: Result) -> str:
    """A result in lines."""
    lines = [f"{name}: {result['unit']}, median (lowest to highest) of {result['n']} rounds"]
    lines += [f"  {key}: {SUMMARY.format(**value)}" for key, value in result["figures"].items()]
    for group, values in result.items():
        if group != "figures" and isinstance(values, dict) and values:
            form = (lambda size: f"{size / 2**20:.1f} MiB") if "bytes" in group else "{:.3f}".format
            lines.append(f"  {group}: " + ", ".join(f"{key} {form(value)}" for key, value in values.items()))
    return "\n".join(lines)


def machine(device: torch.device) -> dict[str, Any]:
    """Versions and hardware, for the header of a result."""
    return {
        "torch": torch.__version__,
        "timm": timm.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", file.read_text()) if file.exists() else None
    return found[1] if found else platform.machine()

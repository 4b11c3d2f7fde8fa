"""What a recipe learns in the time that it takes: whole runs of main.py, with settings in turn, over some seeds."""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from swin.errors import ConfigError
from tools.benchmark.timing import Result

# What a run is asked for besides: nothing is shown, and nothing of an earlier run is continued.
_QUIET = ("REPORT", "False", "TRAIN.AUTO_RESUME", "False")
FIGURES = ("acc1_last", "acc1_best", "seconds", "cpu_seconds")


def run_learning(args: argparse.Namespace) -> Iterator[tuple[str, Result]]:
    """Train with each of the settings and each seed, in turns; yields a result for each of the settings.

    Raises:
        ConfigError: Settings that cannot be told apart, no seeds, or a run that failed.
    """
    tried = dict(parse_setting(text) for text in args.settings or ["recipe="])
    if len(tried) < len(args.settings):
        raise ConfigError("--try: two settings have the same name; give each its own, as in --try muon='...'.")
    if args.seeds < 1:
        raise ConfigError(f"--seeds {args.seeds}: expected 1 or more.")
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in tried}
    for seed in range(args.seeds):
        for name, options in tried.items():
            rows[name].append(train_once(args, [*options, "SEED", str(seed)]))
            print(f"  {name} seed {seed}: {describe_row(rows[name][-1])}", flush=True)
    for name, options in tried.items():
        yield name, {"settings": shlex.join(options), **summarize_rows(rows[name])}


def parse_setting(text: str) -> tuple[str, list[str]]:
    """Split NAME=OPTIONS, as `muon=TRAIN.OPTIMIZER.NAME muon`, into the name and what follows --opts."""
    name, mark, options = text.partition("=")
    if not mark or not name.strip():
        raise ConfigError(f"--try {text!r}: expected NAME=OPTIONS, as muon='TRAIN.OPTIMIZER.NAME muon'.")
    try:
        return name.strip(), shlex.split(options)
    except ValueError as error:
        raise ConfigError(f"--try {text!r}: {error}; quote options as a shell takes them.") from None


def train_once(args: argparse.Namespace, options: Sequence[str]) -> dict[str, float]:
    """Run main.py to its end in a process of its own and read what it wrote.

    Returns:
        Last and best accuracy in percent; seconds of training, evaluations included and start-up not; and seconds of
        CPU time of the whole command.

    Raises:
        ConfigError: It failed; the end of what it said is in the message.
    """
    main = Path(__file__).parents[2] / "main.py"
    with tempfile.TemporaryDirectory() as folder:
        data = ["--data-path", str(args.data_path)] if args.data_path else []
        command = [sys.executable, str(main), "--cfg", args.cfg, *data, "--output", folder, "--tag", "run"]
        before = os.times()
        done = subprocess.run(
            [*command, "--device", args.device, "--opts", *_QUIET, *options], capture_output=True, text=True
        )
        after = os.times()
        if done.returncode:
            raise ConfigError(f"{shlex.join(options)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        accuracies, seconds = read_run(Path(folder))
    cpu = sum(after[2:4]) - sum(before[2:4])  # of children that have ended
    return dict(zip(FIGURES, (accuracies[-1], max(accuracies), seconds, cpu), strict=True))


def read_run(folder: Path) -> tuple[list[float], float]:
    """Return the accuracies of all evaluations of the one run below a folder, in percent, and its seconds.

    Raises:
        ConfigError: It has none of them.
    """
    try:
        (run,) = (file.parent for file in folder.rglob("metrics.jsonl"))
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        accuracies = [row["acc1"] for row in rows if row["kind"] == "eval"]
        return accuracies, json.loads((run / "status.json").read_text())["seconds"]
    except (ValueError, KeyError):
        raise ConfigError(
            "learning compares the accuracies of single runs: set DATA.FOLDS to 0, and DATA.MULTI_LABEL to False."
        ) from None


def summarize_rows(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return all values, mean and standard deviation of each figure; a single run has no deviation."""
    result: dict[str, Any] = {"n": len(rows)}
    for figure in FIGURES:
        values = [round(row[figure], 3) for row in rows]
        spread = statistics.stdev(values) if len(values) > 1 else None
        result[figure] = {"values": values, "mean": statistics.mean(values), "stdev": spread}
    return result


def describe_learning(name: str, result: Result) -> str:
    """Say mean and spread in a line."""
    parts = []
    for figure in FIGURES:
        mean, spread = result[figure]["mean"], result[figure]["stdev"]
        parts.append(f"{figure} {mean:.2f}" + ("" if spread is None else f" +- {spread:.2f}"))
    return f"{name}: {', '.join(parts)} (n = {result['n']})"


def describe_row(row: Mapping[str, float]) -> str:
    """Say a run's figures in a line."""
    return ", ".join(f"{figure} {row[figure]:.2f}" for figure in FIGURES)

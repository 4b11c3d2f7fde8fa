"""A training run that is only tried, from the command line of `main.py`: nothing is written into its folder."""

import argparse
import itertools
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch

from data import build_data
from swin.batches import Batch
from swin.config import Config
from swin.config.flags import load_command_line, run_path
from swin.config.messages import program_name
from swin.cpu import keep_freed_memory
from swin.distributed import Distributed, setup_distributed
from swin.engine.build import Job, build_precision
from swin.engine.run import make_trainer
from swin.engine.signals import StopRequest
from swin.engine.throughput import peak_bytes
from swin.engine.trainer import Trainer
from swin.errors import ConfigError, printable
from swin.logger import Logger
from swin.run_folder import RunFolder

WITHOUT_BUDGET = ("TRAIN.MINUTES", 0)  # for what does not depend on how long a run is: a budget costs time to measure


def trial_parser(tool: str, description: str | None) -> argparse.ArgumentParser:
    """Make a parser for a tool's own options, beside which it takes all those of `main.py`."""
    prog = program_name(f"swin-{tool.replace('_', '-')}", f"python -m tools.{tool}")
    return argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} --cfg CONFIG [flags and --opts of main.py] [options]",
        description=description,
        epilog="Flags and --opts that say how to train are those of main.py, as for the run itself.",
        allow_abbrev=False,
    )


def parse_trial(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, *, opts: Sequence[Any] = ()
) -> tuple[argparse.Namespace, Config]:
    """Read a tool's own options, and of all `others`, which the options keep, the config of the run; see `load_trial`.

    Raises:
        ConfigError: As for `main.py`, or its flags ask for something else than training.
    """
    options, others = parser.parse_known_args(argv)
    options.others, (cfg, is_dry) = others, _load(others, opts)
    if cfg.EVAL_MODE or cfg.THROUGHPUT_MODE or is_dry:
        raise ConfigError(f"{parser.prog} tries how a config trains: leave out --eval, --throughput and --dry-run.")
    return options, cfg


def load_trial(words: Sequence[str], *, opts: Sequence[Any] = ()) -> Config:
    """Load the config of a command line of `main.py`, and of keys over it; of a cross-validation the first fold's."""
    return _load(words, opts)[0]


def _load(words: Sequence[str], opts: Sequence[Any]) -> tuple[Config, bool]:
    cfg, is_dry = load_command_line(words, opts)
    if cfg.DATA.FOLDS and cfg.DATA.FOLD is None:
        return load_command_line(words, [*opts, "DATA.FOLD", 0])
    return cfg, is_dry


def begin_trial(cfg: Config) -> Distributed:
    """Choose the device and join the other processes, if any, as a run does."""
    dist = setup_distributed(cfg.DEVICE, cfg.DIST_TIMEOUT)
    if dist.device.type == "cpu":
        keep_freed_memory()
    return dist


def make_trial(cfg: Config, dist: Distributed) -> Trainer:
    """Make the run that a config describes, at its beginning, silently: its logger keeps what it would warn of.

    Raises:
        SwinError: What would refuse the run itself.
    """
    torch.manual_seed(cfg.SEED)
    logger, folder = Logger(is_main=False), RunFolder(run_path(cfg))
    return make_trainer(
        Job(cfg, dist, build_precision(cfg, dist), logger, StopRequest(), folder, build_data, is_dry=True)
    )


def show_warnings(trainer: Trainer) -> None:
    """Show on standard error what the run would warn of."""
    if trainer.dist.is_main:
        for warning in (*trainer.cfg.warnings, *trainer.logger.warnings):
            print(f"warning: {printable(warning)}", file=sys.stderr)


def peak_memory(device: torch.device) -> int:
    """Return the greatest memory so far: what CUDA has taken of its device, else this process and its workers."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return peak_bytes(device) + sum(_shared_bytes(worker.pid) for worker in multiprocessing.active_children())


def _shared_bytes(pid: int | None) -> int:
    """Return the memory of a process, its share of what it has in common with others; 0 where that is not known."""
    with suppress(OSError, StopIteration, ValueError), open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return 0


def endless(trainer: Trainer) -> Iterator[Batch]:
    """Yield the batches of a run from where it stands, however many epochs it takes."""
    progress = trainer.progress
    yield from trainer.batches.epoch(progress.epoch, progress.position)
    for epoch in itertools.count(progress.epoch + 1):
        yield from trainer.batches.epoch(epoch)

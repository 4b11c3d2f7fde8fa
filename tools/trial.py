"""A training run that is only tried, from the command line of `main.py`: nothing is written into its folder."""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence

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
from swin.engine.trainer import Trainer
from swin.errors import ConfigError, printable
from swin.logger import Logger
from swin.run_folder import RunFolder


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


def parse_trial(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, Config]:
    """Read a tool's own options, and of all others the config of the run; of a cross-validation that of the first fold.

    Raises:
        ConfigError: As for `main.py`, or its flags ask for something else than training.
    """
    options, others = parser.parse_known_args(argv)
    cfg, _ = load_command_line(others)
    if cfg.EVAL_MODE or cfg.THROUGHPUT_MODE:
        raise ConfigError(f"{parser.prog} tries how a config trains: leave out --eval and --throughput.")
    if cfg.DATA.FOLDS and cfg.DATA.FOLD is None:
        cfg, _ = load_command_line(others, ("DATA.FOLD", 0))
    return options, cfg


def begin_trial(cfg: Config) -> Distributed:
    """Choose the device and join the other processes, if any, as a run does."""
    dist = setup_distributed(cfg.DEVICE, cfg.DIST_TIMEOUT)
    if dist.device.type == "cpu":
        keep_freed_memory()
    return dist


def make_trial(cfg: Config, dist: Distributed) -> Trainer:
    """Make the run that a config describes, at its beginning; warnings go to standard error.

    Raises:
        SwinError: What would refuse the run itself.
    """
    torch.manual_seed(cfg.SEED)
    logger, folder = Logger(is_main=False), RunFolder(run_path(cfg))  # silent
    trainer = make_trainer(
        Job(cfg, dist, build_precision(cfg, dist), logger, StopRequest(), folder, build_data, is_dry=True)
    )
    if dist.is_main:
        for warning in (*cfg.warnings, *logger.warnings):
            print(f"warning: {printable(warning)}", file=sys.stderr)
    return trainer


def endless(trainer: Trainer) -> Iterator[Batch]:
    """Yield the batches of a run from where it stands, however many epochs it takes."""
    progress = trainer.progress
    yield from trainer.batches.epoch(progress.epoch, progress.position)
    for epoch in itertools.count(progress.epoch + 1):
        yield from trainer.batches.epoch(epoch)

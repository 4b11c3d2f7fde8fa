"""Train, evaluate or time a Swin Transformer: `python main.py --cfg FILE`, or the same under torchrun."""

import os
import signal
import sys


def _stop_early(number: int, frame: object) -> None:
    print("stopped before training began; there was nothing to save", file=sys.stderr, flush=True)
    os._exit(3)


def _refuse_early() -> None:
    """End here if the command line is wrong, or asks for help alone."""
    from swin.config.flags import load_command_line
    from swin.errors import ConfigError
    from swin.logger import Logger

    try:
        load_command_line(sys.argv[1:])
    except ConfigError as error:
        Logger(is_main=os.environ.get("RANK", "0") == "0").error(str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":  # before the imports below, which take seconds: a signal in them would kill without a word
    signal.signal(signal.SIGTERM, _stop_early)
    signal.signal(signal.SIGINT, _stop_early)
    _refuse_early()

from collections.abc import Sequence

import torch

from data import build_data
from swin.config.flags import load_command_line, run_path
from swin.cpu import keep_freed_memory
from swin.create import complete_config
from swin.distributed import setup_distributed
from swin.engine.build import Job, build_precision
from swin.engine.command import run_command
from swin.engine.folds import run_folds
from swin.engine.run import run_dry, run_evaluation, run_throughput, run_training
from swin.engine.signals import StopRequest
from swin.logger import Logger
from swin.run_folder import RunFolder
from tools.report import report_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_command(lambda logger, stop: run(arguments, logger, stop))


def run(arguments: Sequence[str], logger: Logger, stop: StopRequest) -> None:
    """Do what the command line asks for."""
    cfg, is_dry = load_command_line(arguments)
    cfg = complete_config(cfg)
    for warning in cfg.warnings:
        logger.warning(warning)
    dist = setup_distributed(cfg.DEVICE, cfg.DIST_TIMEOUT)
    if dist.device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(cfg.SEED)
    precision, folder = build_precision(cfg, dist), RunFolder(run_path(cfg))
    job = Job(cfg, dist, precision, logger, stop, folder, build_data, is_dry, report_folder)
    if cfg.THROUGHPUT_MODE:
        run_throughput(job)
    elif cfg.EVAL_MODE:
        run_evaluation(job)
    elif cfg.DATA.FOLDS and cfg.DATA.FOLD is None:
        run_folds(job, arguments)
    elif is_dry:
        run_dry(job)
    else:
        run_training(job, arguments)


if __name__ == "__main__":
    sys.exit(main())

"""How a command ends: what users, launchers and status.json are told of an error."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress

import torch

from swin.distributed import explain_timeout, is_collective_error, shutdown
from swin.engine.build import Job
from swin.engine.signals import StopRequest
from swin.errors import ConfigError, InterruptedRunError, ProcessGroupError, RunStoppedError, SwinError
from swin.logger import Logger


def run_command(action: Callable[[Logger, StopRequest], None]) -> int:
    """Do what a command line asks for, and end as users and launchers expect; returns the exit status."""
    rank = int(os.environ.get("RANK", 0))
    logger = Logger(is_main=rank == 0)
    with StopRequest() as stop:
        try:
            action(logger, stop)
        except BaseException as error:
            stop.defer()  # nothing interrupts the way out
            return tell_failure(error, rank, logger)
        finally:
            logger.close()
            shutdown()
    return 0


def tell_failure(error: BaseException, rank: int, logger: Logger) -> int:
    """Tell a user what ended the program, in one message; returns the exit status. A bug in this program is raised."""
    failure = explain(error, rank)
    if failure is None:
        raise error
    logger.error(str(failure))
    if rank and not failure.is_shared:  # such as an image that this process alone has decoded
        print(f"error (process {rank}): {failure}", file=sys.stderr)
    return failure.exit_code


def explain(error: BaseException, rank: int) -> SwinError | None:
    """Turn an error into what a user is told of it; None for a bug in this program, whose traceback says more."""
    if isinstance(error, SwinError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return InterruptedRunError("interrupted by a second Ctrl-C; the last checkpoint is intact.")
    if isinstance(error, torch.OutOfMemoryError):
        return ConfigError(
            f"{str(error).splitlines()[0]} Lower --batch-size (and raise --accumulation-steps), or recompute "
            "activations with --use-checkpoint. The last checkpoint is intact."
        )
    return ProcessGroupError(explain_timeout(error, rank, None)) if is_collective_error(error) else None


def record_end(job: Job, error: BaseException) -> None:
    """Write how a run ended other than well, since launchers replace its exit status.

    A process that fails by itself writes it; what all of them know is for the main one to write.
    """
    failure, folder = explain(error, job.dist.rank), job.folder
    if not job.dist.is_main and failure and (failure.is_shared or isinstance(failure, ProcessGroupError)):
        return
    state = "stopped" if isinstance(failure, RunStoppedError) else "failed"
    code = failure.exit_code if failure else 1
    with suppress(ConfigError):  # on a full disk the run's own error says more
        folder.write_status(state, exit_code=code, message=str(failure or repr(error)))

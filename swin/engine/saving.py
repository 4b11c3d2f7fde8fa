"""Checkpoints in the background: the state is copied, training goes on, and a thread writes."""

import threading
from pathlib import Path
from typing import Any

import torch

from swin.engine.checkpoint import BEST, LAST, epoch_checkpoints, link_checkpoint, write_checkpoint
from swin.errors import CheckpointError


class CheckpointWriter:
    """Writes a run's checkpoints, one at a time; all methods are for the main process.

    last.pth is replaced after the other names exist, so that a run that is killed in between repeats what was to be
    done since the last.pth before. A crash at any point leaves at least the files that were there.

    Attributes:
        folder: where checkpoints go.
        keep: numbered files to leave.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self._thread: threading.Thread | None = None
        self._error: CheckpointError | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def has_failed(self) -> bool:
        """Whether the last checkpoint could not be written; `wait` then raises the reason."""
        return self._error is not None

    def write(self, content: dict[str, Any], *, epoch: int | None = None, is_best: bool = False) -> None:
        """Copy the state and begin to write it as last.pth, after the write before it is done.

        Args:
            content: what `read_checkpoint` describes; may change once this returns.
            epoch: number of the finished epoch to keep it for as ckpt_epoch_E.pth; None not to.
            is_best: also keep it as best.pth.

        Raises:
            CheckpointError: the write before this one failed.
        """
        self.wait()
        names = [BEST] * is_best + ([] if epoch is None else [f"ckpt_epoch_{epoch}.pth"]) + [LAST]
        self._thread = threading.Thread(target=self._write, args=(_copy(content), names), name="checkpoint writer")
        self._thread.start()

    def wait(self, timeout_sec: float | None = None) -> bool:
        """Wait until nothing is being written, or for some seconds; returns whether it is so.

        Raises:
            CheckpointError: what was being written could not be.
        """
        if self._thread is not None:
            self._thread.join(timeout_sec)
            if self._thread.is_alive():
                return False
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return True

    def _write(self, content: dict[str, Any], names: list[str]) -> None:
        try:
            write_checkpoint(self.folder / names[0], content)
            for name in names[1:]:
                link_checkpoint(self.folder / names[0], self.folder / name)
            for path in epoch_checkpoints(self.folder)[self.keep :]:
                path.unlink(missing_ok=True)
        except CheckpointError as error:
            self._error = error
        except (OSError, MemoryError) as error:
            self._error = CheckpointError(f"checkpoint {self.folder / names[-1]} could not be written ({error}).")


def _copy(value: Any) -> Any:
    """The same structure with tensors of its own on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value

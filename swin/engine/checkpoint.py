"""Checkpoints on disk: written atomically, in the background of training, and read with verification."""

import os
import re
import threading
from pathlib import Path
from typing import Any

import torch

from swin.distributed import Distributed, all_reduce_sum
from swin.engine.schema import check_content
from swin.errors import CheckpointError
from swin.records import temporary_path
from swin.weights.digest import DIGEST, digest
from swin.weights.files import read_torch_file

LAST, BEST = "last.pth", "best.pth"
_EPOCH_NAME = re.compile(r"ckpt_epoch_(\d+)\.pth")


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint so that `path` always holds a whole file: the old one, or after a crash at any point the new.

    Its digest is written beside the content, under "digest".

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; the old file is left as it was.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save({**content, DIGEST: digest(content)}, file)
            file.flush()
            os.fsync(file.fileno())
        _rename(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"checkpoint {path} could not be written ({error}); free disk space or change OUTPUT. "
            "Earlier checkpoints are intact."
        ) from error


def link_checkpoint(source: Path, target: Path) -> None:
    """Give a written checkpoint a second name at no cost in disk space, replacing `target` atomically."""
    temporary = temporary_path(target)
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links
        write_checkpoint(target, read_checkpoint(source))
    else:
        _rename(temporary, target)


def _rename(temporary: Path, path: Path) -> None:
    temporary.replace(path)
    if os.name != "posix":
        return
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read and verify a checkpoint.

    Returns:
        A dict with at least "model" (the state dict). Checkpoints of this project also have "optimizer", "scaler",
        "ema", "objective" (what an objective keeps besides the model, if anything), "epoch" (the last one completed, -1
        for none), "position" (samples done of the next), "step" (updates done), "skipped", "monitor", "best", "waited"
        (see `swin.engine.best`), "classes", "config" (a plain dict) and "digest"; `swin.engine.schema` has the types.
        The tensors are views of the mapped file, see `read_torch_file`: copy what is kept.

    Raises:
        CheckpointError: missing, damaged, or not a training checkpoint.
    """
    content = read_torch_file(path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        is_dict = isinstance(content, dict)
        found = f"a dict with keys {sorted(map(str, content))[:5]}" if is_dict else type(content).__name__
        raise CheckpointError(
            f"{path} is not a training checkpoint: expected a dict with 'model', found {found}; "
            "bare weights can be given to --pretrained instead."
        )
    check_content(content, path)
    return content


def epoch_checkpoints(folder: Path) -> list[Path]:
    """List the files ckpt_epoch_E.pth of a folder, newest epoch first."""
    matches = ((_EPOCH_NAME.fullmatch(path.name), path) for path in folder.glob("ckpt_epoch_*.pth"))
    return [path for _, path in sorted(((int(match[1]), path) for match, path in matches if match), reverse=True)]


class CheckpointWriter:
    """Writes copies of a run's state, one at a time, while training goes on.

    All methods but `wait_on_all` are for the main process. last.pth is replaced after the other names exist, so that a
    run that is killed in between repeats what was to be done since the last.pth before. A crash at any point leaves at
    least the files that were there. Of the numbered files, the newest `keep` stay.

    Attributes:
        error: why the last one could not be written; `wait` then raises it.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._thread: threading.Thread | None = None
        self.error: CheckpointError | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def write(self, content: dict[str, Any], *, epoch: int | None = None, is_best: bool = False) -> None:
        """Copy a content and begin to write it as last.pth, after the write before it is done.

        Of an `epoch` it is also kept as ckpt_epoch_E.pth, and if `is_best` as best.pth.

        Raises:
            CheckpointError: the write before this one failed.
        """
        self.wait()
        names = [BEST] * is_best + [f"ckpt_epoch_{epoch}.pth"] * (epoch is not None) + [LAST]
        self._thread = threading.Thread(
            target=self._write, args=(copy_to_cpu(content), names), name="checkpoint writer"
        )
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
        error, self.error = self.error, None
        if error is not None:
            raise error
        return True

    def wait_on_all(self, dist: Distributed) -> None:
        """Wait on all processes, however long it takes, until the main one has written its checkpoint.

        Raises:
            CheckpointError: it could not be written.
        """
        is_waiting = True
        while is_waiting:
            error, is_waiting = None, False
            try:
                is_waiting = dist.is_main and not self.wait(1.0 if dist.world_size > 1 else None)
            except CheckpointError as raised:
                error = raised
            # A collective a second, none of which lasts as long as DIST_TIMEOUT.
            flags = torch.tensor([float(is_waiting), float(error is not None)], device=dist.device)
            is_waiting, has_failed = (count > 0 for count in all_reduce_sum(flags).tolist())
            if has_failed:
                raise CheckpointError(str(error or "the main process could not write its checkpoint."), is_shared=True)

    def _write(self, content: dict[str, Any], names: list[str]) -> None:
        try:
            write_checkpoint(self.folder / names[0], content)
            for name in names[1:]:
                link_checkpoint(self.folder / names[0], self.folder / name)
            for path in epoch_checkpoints(self.folder)[self.keep :]:
                path.unlink(missing_ok=True)
        except CheckpointError as error:
            self.error = error
        except (OSError, MemoryError) as error:
            self.error = CheckpointError(f"checkpoint {self.folder / names[-1]} could not be written ({error}).")


def copy_to_cpu(value: Any) -> Any:
    """Copy a structure, with its tensors on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copy_to_cpu(item) for key, item in value.items()}
    return [copy_to_cpu(item) for item in value] if isinstance(value, list) else value

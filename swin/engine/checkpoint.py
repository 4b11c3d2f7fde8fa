"""Checkpoints on disk: written atomically and read with verification."""

import os
import re
from pathlib import Path
from typing import Any

import torch

from swin.engine.schema import check_content
from swin.errors import CheckpointError
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save({**content, DIGEST: digest(content)}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"checkpoint {path} could not be written ({error}); free disk space or change OUTPUT. "
            "Earlier checkpoints are intact."
        ) from error


def link_checkpoint(source: Path, target: Path) -> None:
    """Give a written checkpoint a second name at no cost in disk space, replacing `target` atomically."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links
        write_checkpoint(target, read_checkpoint(source))
        return
    temporary.replace(target)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read and verify a checkpoint.

    Returns:
        A dict with at least "model" (the state dict). Checkpoints of this project also have "optimizer", "scaler",
        "ema", "epoch" (the last one completed, -1 for none), "position" (samples done of the next), "step" (updates
        done), "skipped", "max_accuracy", "classes", "config" (a plain dict) and "digest"; `swin.engine.schema` has
        the types. The tensors are views of the mapped file, see `read_torch_file`: copy what is kept.

    Raises:
        CheckpointError: missing, damaged, or not a training checkpoint.
    """
    content = read_torch_file(path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        found = (
            f"a dict with keys {sorted(map(str, content))[:5]}" if isinstance(content, dict) else type(content).__name__
        )
        raise CheckpointError(
            f"{path} is not a training checkpoint: expected a dict with 'model', found {found}; "
            "bare weights can be given to --pretrained instead."
        )
    check_content(content, path)
    return content


def epoch_checkpoints(folder: Path) -> list[Path]:
    """The files ckpt_epoch_E.pth of a folder, newest epoch first."""
    found = ((_EPOCH_NAME.fullmatch(path.name), path) for path in folder.glob("ckpt_epoch_*.pth"))
    return [path for match, path in sorted(found, key=_epoch_of, reverse=True) if match]


def _epoch_of(pair: tuple[re.Match[str] | None, Path]) -> int:
    return int(pair[0].group(1)) if pair[0] else -1

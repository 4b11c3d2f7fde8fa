"""Where a run begins: at a checkpoint that was named, at its own newest one, or at the beginning."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from swin.distributed import barrier
from swin.engine.checkpoint import find_latest, read_checkpoint
from swin.errors import ConfigError
from swin.records import Records


class Start(NamedTuple):
    """A checkpoint to continue from."""

    path: Path
    content: dict[str, Any]


def find_start(
    checkpoints: Path, *, resume: str, is_automatic: bool, pretrained: str, records: Records
) -> Start | None:
    """The checkpoint to continue from, if any; says which and why.

    Args:
        checkpoints: the run's own.
        resume: the checkpoint that was named; empty for none. It beats the automatic choice.
        is_automatic: whether to continue from the run's newest checkpoint.
        pretrained: weights for a run that begins anew; empty for none.
        records: where it is said.

    Raises:
        CheckpointError: the named checkpoint, or all of the run's own, cannot be read.
    """
    if resume:
        start = Start(Path(resume), read_checkpoint(resume))
        records.info(f"resuming from {start.path}, because --resume names it")
        return start
    found = find_latest(checkpoints, records.warning) if is_automatic else None
    if found is not None:
        records.info(f"resuming from {found[0]}, the newest of this run (TRAIN.AUTO_RESUME); a new --tag starts anew")
        if pretrained:
            records.info(f"{pretrained} (--pretrained) is not used, since the run is resumed")
    barrier()  # no process writes before all have read
    return Start(*found) if found is not None else None


def check_classes(content: dict[str, Any], classes: Sequence[str], path: Path) -> None:
    """Refuse to continue a run on other classes than it began with.

    Raises:
        ConfigError: they differ.
    """
    saved = content.get("classes")
    if saved and list(saved) != list(classes):
        changed = next(pair for pair in itertools.zip_longest(saved, classes) if pair[0] != pair[1])
        raise ConfigError(
            f"checkpoint {path} was trained on {len(saved)} classes and the data has {len(classes)}; the first "
            f"difference is {changed[0]!r} there, {changed[1]!r} here. Use the same data, or "
            "--pretrained for a new run."
        )

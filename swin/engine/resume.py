"""Which checkpoint a run continues from: chosen by the main process, and the same on all."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swin.config import Config, config_to_dict, flatten
from swin.distributed import Distributed, from_main, gather
from swin.engine.build import Job
from swin.engine.checkpoint import LAST, epoch_checkpoints, read_checkpoint
from swin.errors import CheckpointError, ConfigError

# Settings that say where things are, not how a run goes.
_LOCATIONS = ("MODEL.RESUME", "DATA.DATA_PATH", "OUTPUT", "TAG", "DEVICE", "EVAL_MODE", "THROUGHPUT_MODE")


def find_latest(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """Find the newest readable checkpoint of a folder, if it has any; damaged ones are passed over with a warning.

    Raises:
        CheckpointError: there are checkpoints, but none can be read. Starting anew would then lose a run in silence.
    """
    candidates = [path for path in (folder / LAST, *epoch_checkpoints(folder)) if path.is_file()]
    for path in candidates:
        try:
            read_checkpoint(path)
            return path
        except CheckpointError as error:
            warn(f"{error} Falling back to the checkpoint before it.")
    if candidates:
        raise CheckpointError(
            f"none of the {len(candidates)} checkpoints in {folder} can be read; "
            "move the folder away or choose another --tag to start anew."
        )
    return None


def find_checkpoint(job: Job) -> tuple[Path, str] | None:
    """Choose the checkpoint to continue from, in the main process, and say why it is this one; None to begin anew."""
    if job.cfg.MODEL.RESUME:
        named = Path(job.cfg.MODEL.RESUME)
        last = named / "checkpoints" / LAST
        return last if last.is_file() else named, "because --resume names it"
    folder, warn = job.folder.path / "checkpoints", job.logger.warning
    newest = from_main(lambda: None if job.is_fresh else find_latest(folder, warn))
    return None if newest is None else (newest, "the newest of this run (TRAIN.AUTO_RESUME); a new --tag starts anew")


def read_agreed(path: Path, dist: Distributed) -> dict[str, Any]:
    """Read a checkpoint on every process, and make sure that all have read the same.

    Raises:
        CheckpointError: it cannot be read, or differs between processes, whose numbers are then named.
    """
    content: dict[str, Any] = {}
    try:
        content = read_checkpoint(path)
        keys = ("epoch", "position", "step", "digest")
        found = ", ".join(f"{key} {content[key]}" for key in keys if key in content)
    except CheckpointError as error:
        found = str(error)
    views = gather(found)
    if content and len(set(views)) == 1:
        return content
    message = views[0]
    if differing := [rank for rank, view in enumerate(views) if view != views[0]]:
        message = (
            f"the processes do not see the same checkpoint {path}: process 0 found {views[0]}; "
            f"process{'es' * (len(differing) > 1)} {', '.join(map(str, differing))} found {views[differing[0]]}. "
            "Give all machines the same folder, or copy the checkpoint to each."
        )
    raise CheckpointError(message, is_shared=True)


def known_length(content: Mapping[str, Any], cfg: Config, num_samples: int) -> int | None:
    """Return the samples of the whole run; None where TRAIN.MINUTES has yet to be measured.

    What a checkpoint says of it holds for the same minutes and epochs of as many samples.
    """
    if not cfg.TRAIN.MINUTES:
        return cfg.TRAIN.EPOCHS * num_samples
    before = flatten(content.get("config", {})).get("TRAIN.MINUTES"), content.get("num_samples")
    return content.get("total_samples") if before == (cfg.TRAIN.MINUTES, num_samples) else None


def check_classes(content: Mapping[str, Any], classes: Sequence[str], path: Path) -> None:
    """Raise a ConfigError if a run would be continued on other classes than it began with."""
    saved = content.get("classes")
    if saved and list(saved) != list(classes):
        changed = next(pair for pair in itertools.zip_longest(saved, classes) if pair[0] != pair[1])
        raise ConfigError(
            f"checkpoint {path} was trained on {len(saved)} classes and the data has {len(classes)}; the first "
            f"difference is {changed[0]!r} there, {changed[1]!r} here. Use the same data, or "
            "--pretrained for a new run."
        )


def changed_settings(content: Mapping[str, Any], cfg: Config) -> list[str]:
    """How a config differs from the one that a checkpoint was written with: "TRAIN.EPOCHS 2 -> 4", a key each."""
    saved = content.get("config")
    if type(saved) is not dict:  # the official repository's have other defaults
        return []
    before, now = flatten(saved), flatten(config_to_dict(cfg))
    keys = [key for key in before.keys() & now.keys() if before[key] != now[key] and key not in _LOCATIONS]
    return [f"{key} {before[key]} -> {now[key]}" for key in sorted(keys)]

"""Evaluation: a model's predictions for a whole data set, gathered from all processes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swin.batches import Data, EvalBatches
from swin.config import Config
from swin.distributed import Distributed, from_main, gather, gather_rows
from swin.engine.precision import Precision
from swin.engine.signals import StopRequest
from swin.errors import ConfigError, DataError, RunStoppedError
from swin.evaluation.files import table_kind
from swin.evaluation.predictions import EvalResult
from swin.evaluation.table import Table
from swin.logger import Logger

PREDICTIONS = "predictions.npz"


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    data: Data,
    precision: Precision,
    dist: Distributed,
    *,
    stop: StopRequest | None = None,
    show: Callable[[int, int, str], None] | None = None,
) -> tuple[EvalResult, Table | None]:
    """Classify a data set, each process its own part of it.

    Counts are read off the whole table as integers, so they depend on neither batch size nor the number of processes.
    Nothing waits for the device before the end; until then logits stay on it.

    Args:
        model: images (b, C, H, W) to logits (b, K); not a distributed wrapper, since parts may differ in length.
        stop: a request that ends it early, on any of the processes.
        show: is called with this process's images done, their number and a text, for a progress bar.

    Returns:
        The counts, and in the main process the table that they are read off.

    Raises:
        DataError: the set is empty.
        RunStoppedError: a process was asked to stop before it was done.
    """
    batches = data.val
    if batches is None or not batches.num_samples:
        raise DataError("the validation set holds no images; there is nothing to evaluate.")
    was_training = model.training
    model.eval()
    columns, seen = _classify(model, batches, data, precision, dist, stop, show)
    model.train(was_training)
    if sum(gather(seen)) < batches.num_samples:
        name = (stop and stop.name) or "a signal to another process"
        raise RunStoppedError(f"stopped by {name} during an evaluation, which will be made anew")
    predictions = _gather_table(columns, data, dist)
    return from_main(lambda: predictions.count() if predictions else None), predictions  # type: ignore[return-value]


def _classify(
    model: nn.Module,
    batches: EvalBatches,
    data: Data,
    precision: Precision,
    dist: Distributed,
    stop: StopRequest | None,
    show: Callable[[int, int, str], None] | None,
) -> tuple[list[Tensor | None], int]:
    """Return the columns of this process's images, and how many it has done; nothing waits for the device."""
    kind, own = table_kind(data.multi_label), len(range(dist.rank, batches.num_samples, dist.world_size))
    columns: list[Tensor | None] = []
    seen = 0
    for batch in batches:
        if stop and stop.requested:
            break
        images = data.normalise(batch.images.to(dist.device, non_blocking=True))
        labels = batch.labels.to(dist.device, non_blocking=True)
        with precision.autocast():
            logits = model(images)
        rows = kind.read(logits, labels, batches.num_samples)
        columns = columns or [_make_room(part, own) for part in rows]
        _fill(columns, rows, seen)
        seen += len(labels)
        if show:
            show(seen, own, "evaluating")
    return columns, seen


def _make_room(part: Tensor | None, count: int) -> Tensor | None:
    """Make an empty column for so many rows like those of a part; appending would take twice the memory."""
    return None if part is None else part.new_empty(count, *part.shape[1:])


def _fill(columns: list[Tensor | None], rows: Sequence[Tensor | None], start: int) -> None:
    for column, part in zip(columns, rows, strict=True):
        if column is not None and part is not None:
            column[start : start + len(part)] = part


def _gather_table(own: list[Tensor | None], data: Data, dist: Distributed) -> Table | None:
    """Collect the rows of all processes in the main one, in the order of the data set."""
    batches = data.val
    assert batches is not None
    # A process without images has seen no logits, and has to know what the others will send.
    layouts = gather([part if part is None else (part.shape[1:], part.dtype) for part in own])
    layout = next(filter(None, layouts))
    own = own or [
        None if kind is None else torch.empty(0, *kind[0], dtype=kind[1], device=dist.device) for kind in layout
    ]
    table: list[Any] = []
    for part in own:
        by_rank = None if part is None else gather_rows(part)
        table.append(None if not by_rank else _interleave(by_rank, batches.num_samples).numpy())
    if not dist.is_main:
        return None
    names = [batches.name(index) for index in range(batches.num_samples)]
    return table_kind(data.multi_label)(data.classes, names, *table)


def _interleave(by_rank: list[Tensor], num_samples: int) -> Tensor:
    """Put rows in order of which process r of W has r, r + W, r + 2 W, ..."""
    if len(by_rank) == 1:
        return by_rank[0]
    rows = torch.empty(num_samples, *by_rank[0].shape[1:], dtype=by_rank[0].dtype)
    for rank, part in enumerate(by_rank):
        rows[rank :: len(by_rank)] = part
    return rows


def describe_data(cfg: Config, split: str = "val") -> dict[str, Any]:
    """Return what a table says of the images that it is about."""
    return {"data": cfg.DATA.DATA_PATH or cfg.DATA.DATASET, "split": split, "img_size": cfg.DATA.IMG_SIZE}


def keep_table(predictions: Table, run_dir: Path, logger: Logger) -> None:
    """Write the table of a run's best checkpoint; where that fails, only the run's report will lack it."""
    try:
        predictions.save(run_dir / PREDICTIONS)
    except ConfigError as error:
        logger.warning(str(error))

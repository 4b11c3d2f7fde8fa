"""What crosses from the data to the engine: batches, the loaders that give them, and all that is known about the data.

Places are numbers in an epoch's order, the same on all processes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from swin.preprocess import Normalise


class Batch(NamedTuple):
    """One micro-batch of one process."""

    images: Tensor  # uint8 (b, C, H, W), a view of memory in the order (b, H, W, C)
    labels: Tensor  # int64 (b,)
    rectangles: Tensor  # int64 (n, 6), what to erase: the image's number in the batch, then a `data.erasing.Rectangle`
    failures: list[str]  # why images were skipped and replaced
    rows: list[int]  # which of the update's samples these are, ascending; empty for a placeholder
    update_size: int  # samples of all processes and micro-batches in the update that this batch belongs to
    last_of_update: bool
    position: int  # samples of all processes that are done in this epoch after it; exact after an update's last

    @property
    def num_valid(self) -> int:
        """Samples that count: b, or 0 for a placeholder."""
        return len(self.rows)


class TrainBatches(ABC):
    """A training set as one process sees it, dealt out in updates.

    Attributes:
        num_samples: samples of one epoch, over all processes.
        num_workers: processes that read ahead for this one.
        max_errors: unreadable images that may be replaced by others; None to refuse the first.
    """

    num_samples: int
    num_workers: int
    max_errors: int | None

    @abstractmethod
    def epoch(self, epoch: int, position: int = 0) -> Iterator[Batch]:
        """This process's micro-batches of an epoch from a position on, as many as every other process's."""

    @abstractmethod
    def files(self, epoch: int, position: int, count: int) -> list[str]:
        """Names of the samples at `count` places of an epoch, all processes', from `position` on."""


class EvalBatches(ABC):
    """A data set as one process evaluates it: its own share, in order, without padding.

    Attributes:
        num_samples: samples of the whole set, over all processes.
    """

    num_samples: int

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """This process's batches; each counts as an update of its own."""


# (batch, device, seed) to images (b, C, H, W) as the model takes them and targets for the loss, both on the device.
PrepareFn = Callable[[Batch, torch.device, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Data:
    """Everything about the data that training and evaluation use.

    Attributes:
        classes: names in the order of the labels.
        train: None where only evaluation was asked for.
        val: None where there is nothing to evaluate.
        prepare: turns training batches into what the model and its loss take.
        normalise: turns images as they are loaded into what the model takes.
        class_counts: training images of each class; empty without training data.
        notes: what a user should be told.
        split: of a share that is held out, what the run remembers in `split.json`.
    """

    classes: list[str]
    train: TrainBatches | None
    val: EvalBatches | None
    prepare: PrepareFn
    normalise: Normalise
    class_counts: list[int]
    notes: tuple[str, ...] = ()
    split: dict[str, Any] | None = None

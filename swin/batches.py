"""What crosses from the data to the engine: batches, the loaders that give them, and all that is known about the data.

Positions are numbers in an epoch's order, the same on all processes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from swin.phases import Phase
from swin.preprocess import EvalResize, Normalise


class Batch(NamedTuple):
    """One micro-batch of one process."""

    images: Tensor  # uint8 (b, C, H, W), a view of memory in the order (b, H, W, C)
    labels: Tensor  # int64 (b,), or uint8 (b, K) where an image may have several of K labels
    rectangles: Tensor  # int64 (n, 6), what to erase: the image's number in the batch, then a `data.erasing.Rectangle`
    failures: list[str]  # why images were skipped and replaced
    rows: list[int]  # which of the update's samples these are, ascending; empty for a placeholder
    update_size: int  # samples of all processes and micro-batches in the update that this batch belongs to
    last_of_update: bool
    position: int  # samples of all processes that are done in this epoch after it; exact after an update's last
    indices: Sequence[int] = ()  # which images of the data set these are

    @property
    def num_valid(self) -> int:
        """Samples that count: b, or 0 for a placeholder."""
        return len(self.rows)


class TrainBatches(ABC):
    """A training set as one process sees it, dealt out in updates."""

    num_samples: int  # of one epoch, over all processes
    num_workers: int  # processes that read ahead for this one
    max_errors: int | None  # different images that may be unreadable and are replaced; None to refuse the first

    @abstractmethod
    def epoch(self, epoch: int, position: int = 0, phase: Phase | None = None) -> Iterator[Batch]:
        """Yield this process's micro-batches of an epoch, as many as every other process's.

        Args:
            epoch: Number of the epoch, from 0.
            position: A batch's `position` to go on from, under this or another number of processes.
            phase: Which size the images have, and how many times as many are in an update; None for DATA.IMG_SIZE.

        Raises:
            DataError: An image cannot be read.
        """

    @abstractmethod
    def files(self, epoch: int, position: int, count: int) -> list[str]:
        """Return the names of `count` samples of an epoch's order, all processes', from `position` on."""


class EvalBatches(ABC):
    """A data set as one process evaluates it: its own part, in order, without padding."""

    num_samples: int  # of the whole set, over all processes

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """Yield this process's batches; each counts as an update."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Return what logs call an image, by its number in the whole set."""

    @abstractmethod
    def read(self, index: int) -> Tensor:
        """Return an image as it is decoded, before it is resized: uint8 (C, h, w), of any size.

        Raises:
            DataError: It cannot be read.
        """


# (batch, device, seed) to images (b, C, H, W) as the model takes them, and targets for what is minimised, both on the
# device: labels (b,), or (b, K) where they are mixed, or what an objective other than `swin.objective.Objective` takes.
PrepareFn = Callable[[Batch, torch.device, int], tuple[Tensor, Any]]


@dataclass(frozen=True)
class Data:
    """Everything about the data that training and evaluation use."""

    classes: list[str]  # names in the order of the labels
    train: TrainBatches | None  # None where only evaluation was asked for
    val: EvalBatches | None  # None where there is nothing to evaluate
    prepare: PrepareFn  # turns training batches into what the model and its loss take
    normalise: Normalise  # turns images as they are loaded into what the model takes
    class_counts: list[int]  # training images of each class; empty without training data
    val_counts: Sequence[int] = ()  # images of each class that are evaluated
    notes: tuple[str, ...] = ()  # what a user should be told
    split: dict[str, Any] | None = None  # where a part was held out, what the run saves of that in `split.json`
    part: str = "val"  # which part of the data set `val` is
    test: EvalBatches | None = None  # a third part, which is kept apart until the end of a training
    test_counts: Sequence[int] = ()  # its images of each class
    view: Callable[[EvalResize, range], EvalBatches] | None = None  # some training images in order, not augmented
    multi_label: bool = False  # whether an image may have several labels

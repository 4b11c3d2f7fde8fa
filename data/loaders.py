"""Batches for training and for evaluation."""

import os
import signal
from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader

from data.datasets import Failure, ImageDataset, Key, Samples, Source, Transform, collate
from data.samplers import balanced_order, count_occurrences, epoch_order, plan_epoch, repeated_order, update_rows
from swin.batches import Batch, EvalBatches, TrainBatches
from swin.cpu import keep_freed_memory
from swin.errors import DataError

# What the main process gets to finish its update and save: as long as torchrun waits for it. 30 is torchrun's default.
_GRACE_SEC = int(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", 30))


class _Keys:
    """The batch sampler of a DataLoader: whatever was set last."""

    def __init__(self) -> None:
        self.batches: Iterable[list[Key]] = ()

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)


class _Loader:
    """Fetches batches of keys through any number of workers, and makes failures in them clean errors here."""

    def __init__(self, dataset: ImageDataset, *, num_workers: int, pin_memory: bool) -> None:
        self._keys = _Keys()
        self._loader = DataLoader(
            dataset,
            batch_sampler=self._keys,
            collate_fn=collate,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
            worker_init_fn=_start_worker if num_workers else None,
            generator=torch.Generator(),  # else each epoch would draw from the process's own generator
        )

    def fetch(self, batches: Iterable[list[Key]]) -> Iterator[Samples]:
        """Yields the samples of each list of keys, in order."""
        self._keys.batches = batches
        try:
            for fetched in self._loader:
                if isinstance(fetched, Failure):
                    raise DataError(fetched.message)
                yield fetched
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise DataError(
                f"A data worker died: {str(error).splitlines()[0]} Most often memory ran out, shared memory in "
                "containers. Lower DATA.NUM_WORKERS (0 uses none), or give the container more (--shm-size)."
            ) from None


def _start_worker(worker_id: int) -> None:
    """Keeps Ctrl-C, and signals to the whole group, from workers: the main process stops them once all is saved.

    Schedulers such as SLURM signal each process by itself, so SIGTERM ends a worker only some seconds later.
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SEC) and None)
    keep_freed_memory()


class TrainLoader(TrainBatches):
    """One rank's share of the epochs' updates.

    Args:
        source: The training images.
        transform: See `ImageDataset`; may draw random numbers.
        seed: Decides the order of each epoch and the random numbers of each sample.
        batch_size: Samples in a micro-batch of one rank.
        accumulation: Micro-batches in an update.
        rank: This process's rank.
        world_size: Number of ranks.
        num_workers: Processes that read ahead; 0 reads in this one. The batches are the same.
        pin_memory: Page-lock batches for faster copies to a CUDA device.
        max_errors: Different images that may be unreadable, and are replaced by the next; None to refuse the first.
        balanced: Draw from all classes equally often rather than take each image once.
        repeats: How many times in a row each image comes in an epoch.
        in_pairs: See `update_rows`; for batches that are mixed.
    """

    def __init__(
        self,
        source: Source,
        *,
        transform: Transform,
        seed: int,
        batch_size: int,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
        max_errors: int | None = None,
        balanced: bool = False,
        repeats: int = 1,
        in_pairs: bool = False,
    ) -> None:
        self.source = source
        self.num_samples = len(source.labels)
        self.seed = seed
        self.num_workers = num_workers
        self.max_errors = max_errors
        self.balanced = balanced
        self.repeats = repeats
        self.in_pairs = in_pairs and batch_size % 2 == 0
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.rank = rank
        self.world_size = world_size
        dataset = ImageDataset(source, transform=transform, seed=seed, skip_errors=max_errors is not None)
        self._loader = _Loader(dataset, num_workers=num_workers, pin_memory=pin_memory)

    def epoch(self, epoch: int, position: int = 0) -> Iterator[Batch]:
        """Yields this rank's micro-batches of an epoch, as many as every other rank's.

        Args:
            epoch: Number of the epoch, from 0.
            position: A batch's `position` to go on from, under this or another world size.

        Raises:
            DataError: An image cannot be read.
        """
        plan = list(
            plan_epoch(
                self.num_samples,
                batch_size=self.batch_size,
                world_size=self.world_size,
                accumulation=self.accumulation,
                position=position,
            )
        )
        deal = partial(update_rows, rank=self.rank, world_size=self.world_size, in_pairs=self.in_pairs)
        order = self._order(epoch)
        repeat_of = count_occurrences(order) if self.balanced or self.repeats > 1 else np.zeros_like(order)
        # A rank without a sample still takes part in the update, with a placeholder that counts for nothing.
        taken = (
            micro.update_start + (rows if len(rows) else np.zeros(1, dtype=np.int64))
            for micro, rows in zip(plan, map(deal, plan), strict=True)
        )
        keys = (
            [(epoch, *pair) for pair in zip(order[places].tolist(), repeat_of[places].tolist(), strict=True)]
            for places in taken
        )
        for micro, samples in zip(plan, self._loader.fetch(keys), strict=True):
            yield Batch(*samples, deal(micro).tolist(), micro.update_size, micro.last_of_update, micro.stop)

    def files(self, epoch: int, position: int, count: int) -> list[str]:
        """Returns the names of the samples at `count` places of an epoch's order, all ranks', from `position` on."""
        return [self.source.name(index) for index in self._order(epoch)[position : position + count].tolist()]

    def _order(self, epoch: int) -> np.ndarray:
        if self.balanced:
            order = balanced_order(self.source.labels, seed=self.seed, epoch=epoch)
        else:
            order = epoch_order(self.num_samples, seed=self.seed, epoch=epoch)
        return repeated_order(order, self.repeats) if self.repeats > 1 else order


class EvalLoader(EvalBatches):
    """One rank's shard, samples rank, rank + world_size, ..., in order and without padding.

    Iterating yields `Batch`es in which an update is the batch and `position` counts this rank's samples.
    """

    def __init__(
        self,
        source: Source,
        *,
        transform: Transform,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.source = source
        self.num_samples = len(source.labels)
        self._indices = range(rank, len(source.labels), world_size)
        self.batch_size = batch_size
        dataset = ImageDataset(source, transform=transform, seed=None)
        self._loader = _Loader(dataset, num_workers=num_workers, pin_memory=pin_memory)

    def __iter__(self) -> Iterator[Batch]:
        indices, size = self._indices, self.batch_size
        # Without a reference to this loader, which an abandoned iteration would otherwise keep, workers and all.
        keys = ([(0, index, 0) for index in indices[start : start + size]] for start in range(0, len(indices), size))
        position = 0
        for samples in self._loader.fetch(keys):
            count = len(samples.labels)
            position += count
            yield Batch(*samples, list(range(count)), count, True, position)

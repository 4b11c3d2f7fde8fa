"""Batches for training and for evaluation."""

import atexit
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch.utils.data import DataLoader

from data.datasets import ImageDataset, Key, Samples, Size, Transform, collate
from data.samplers import balanced_order, count_occurrences, epoch_order, plan_epoch, repeated_order, update_rows
from data.sources import Source, Subset
from data.transforms import EvalPixels, build_resized_transforms, build_train_transform
from swin.batches import Batch, EvalBatches, TrainBatches
from swin.config import Config
from swin.cpu import keep_freed_memory, num_cpus
from swin.errors import DataError
from swin.phases import Phase
from swin.preprocess import EvalResize

# What the main process gets to finish its update and save: as long as torchrun waits for it. 30 is torchrun's default.
_GRACE_SEC = int(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", 30))


_loaders: "WeakSet[_Loader]" = WeakSet()


@atexit.register
def _stop_workers() -> None:
    """Stop workers that an error has left: they follow what Python would send them, SIGTERM, only after a while."""
    for loader in _loaders:
        loader._loader._iterator = None  # which tells its workers to end, and waits for them


class _Keys:
    """The batch sampler of a DataLoader: whatever was set last."""

    batches: Iterable[list[Key]] = ()

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)


def _start_worker(worker_id: int) -> None:
    """Keep Ctrl-C, and signals to the whole group, from workers: the main process stops them once all is saved.

    Schedulers such as SLURM signal each process by itself, so SIGTERM ends a worker only some seconds later.
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SEC) and None)
    keep_freed_memory()


@dataclass(eq=False)
class _Loader:
    """Fetches batches of one rank through any number of workers, and makes failures in them clean errors here."""

    source: Source
    _: KW_ONLY
    transform: Transform  # see `ImageDataset`
    batch_size: int  # of a micro-batch of one rank
    rank: int = 0
    world_size: int = 1
    num_workers: int = 0  # processes that read ahead; 0 reads in this one. The batches are the same.
    pin_memory: bool = False  # page-lock batches for faster copies to a CUDA device

    def __post_init__(self) -> None:
        self.num_samples = len(self.source.labels)
        self._keys = _Keys()
        _loaders.add(self)
        self._loader = DataLoader(
            self._make_dataset(),
            batch_sampler=self._keys,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory,
            worker_init_fn=_start_worker if self.num_workers else None,
            generator=torch.Generator(),  # else each epoch would draw from the process's own generator
        )

    def _make_dataset(self) -> ImageDataset:
        return ImageDataset(self.source, self.transform)

    def _fetch(self, batches: Iterable[list[Key]]) -> Iterator[Samples]:
        """Yield the samples of each list of keys, in order."""
        self._keys.batches = batches
        try:
            for fetched in self._loader:
                if isinstance(fetched, str):
                    raise DataError(fetched)
                yield fetched
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise DataError(
                f"A data worker died: {str(error).splitlines()[0]} Most often memory ran out, shared memory in "
                "containers. Lower DATA.NUM_WORKERS (0 uses none), or give the container more (--shm-size)."
            ) from None


@dataclass(eq=False, kw_only=True)
class TrainLoader(_Loader, TrainBatches):
    """One rank's part of the epochs' updates."""

    seed: int  # decides the order of each epoch and the random numbers of each sample
    accumulation: int = 1  # micro-batches in an update
    max_errors: int | None = None  # see `TrainBatches`
    balanced: bool = False  # draw from all classes equally often rather than take each image once
    repeats: int = 1  # how many times in a row each image comes in an epoch
    in_pairs: bool = False  # see `update_rows`; for batches that are mixed
    resized: Mapping[Size, Transform] = field(default_factory=dict)  # transforms of the phases with other sizes

    def __post_init__(self) -> None:
        super().__post_init__()
        self.in_pairs = self.in_pairs and self.batch_size % 2 == 0

    def _make_dataset(self) -> ImageDataset:
        is_skipping = self.max_errors is not None
        return ImageDataset(self.source, self.transform, self.seed, skip_errors=is_skipping, resized=self.resized)

    def epoch(self, epoch: int, position: int = 0, phase: Phase | None = None) -> Iterator[Batch]:
        sizes = {"batch_size": self.batch_size, "world_size": self.world_size, "accumulation": self.accumulation}
        growth, img_size = (phase.growth, phase.img_size) if phase else (1.0, None)
        plan = list(plan_epoch(self.num_samples, **sizes, position=position, growth=growth))
        deal = partial(update_rows, rank=self.rank, world_size=self.world_size, in_pairs=self.in_pairs)
        order = self._order(epoch)
        repeat_of = count_occurrences(order) if self.balanced or self.repeats > 1 else np.zeros_like(order)
        # A rank without a sample still takes part in the update, with a placeholder that counts for nothing.
        taken = (
            micro.update_start + (rows if len(rows) else np.zeros(1, dtype=np.int64))
            for micro, rows in zip(plan, map(deal, plan), strict=True)
        )
        keys = (
            [
                Key(epoch, index, repeat, img_size)
                for index, repeat in zip(order[positions].tolist(), repeat_of[positions].tolist(), strict=True)
            ]
            for positions in taken
        )
        for micro, samples in zip(plan, self._fetch(keys), strict=True):
            where = deal(micro).tolist(), micro.update_size, micro.last_of_update, micro.stop
            yield Batch(*samples[:-1], *where, samples.indices)

    def files(self, epoch: int, position: int, count: int) -> list[str]:
        return [self.source.name(index) for index in self._order(epoch)[position : position + count].tolist()]

    def _order(self, epoch: int) -> np.ndarray:
        if self.balanced:
            order = balanced_order(self.source.labels, seed=self.seed, epoch=epoch)
        else:
            order = epoch_order(self.num_samples, seed=self.seed, epoch=epoch)
        return repeated_order(order, self.repeats) if self.repeats > 1 else order


@dataclass(eq=False, kw_only=True)
class EvalLoader(_Loader, EvalBatches):
    """One rank's samples rank, rank + world_size, ..., in order and without padding.

    In the `Batch`es it yields an update is the batch, and `position` counts this rank's samples.
    """

    transform: EvalPixels

    def __iter__(self) -> Iterator[Batch]:
        indices, size = range(self.rank, self.num_samples, self.world_size), self.batch_size
        # Without a reference to this loader, which an abandoned iteration would otherwise keep, workers and all.
        keys = ([Key(0, index) for index in indices[start : start + size]] for start in range(0, len(indices), size))
        position = 0
        for samples in self._fetch(keys):
            count = len(samples.labels)
            position += count
            yield Batch(*samples[:-1], list(range(count)), count, True, position, samples.indices)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def read(self, index: int) -> torch.Tensor:
        return self.transform.decode(self.source.read(index), self.source.name(index))


def loader_options(cfg: Config, local_world_size: int) -> dict[str, Any]:
    """Return what a config says of all loaders; of the processes, `local_world_size` share this machine's CPUs."""
    return {
        "batch_size": cfg.DATA.BATCH_SIZE,
        "num_workers": min(cfg.DATA.NUM_WORKERS, max(1, num_cpus() // local_world_size)),
        "pin_memory": cfg.DATA.PIN_MEMORY and _may_use_cuda(cfg),
    }


def build_train_loader(cfg: Config, source: Source, **common: Any) -> TrainLoader:
    """Build the loader of a config's training images; `common` are options of all loaders."""
    return TrainLoader(
        source,
        transform=build_train_transform(cfg),
        resized=build_resized_transforms(cfg),
        seed=cfg.SEED,
        accumulation=cfg.TRAIN.ACCUMULATION_STEPS,
        max_errors=cfg.DATA.MAX_ERRORS if cfg.DATA.ON_ERROR == "skip" else None,
        balanced=cfg.DATA.SAMPLER == "balanced",
        repeats=cfg.DATA.REPEATED_AUG,
        **common,
    )


def build_view(source: Source, transform: EvalPixels, **common: Any) -> Callable[[EvalResize, range], EvalLoader]:
    """Build what gives images of a source by their indices, resized as asked for: see `swin.batches.Data.view`."""

    def view(resize: EvalResize, part: range) -> EvalLoader:
        return EvalLoader(Subset(source, np.array(part)), transform=replace(transform, resize=resize), **common)

    return view


def _may_use_cuda(cfg: Config) -> bool:
    return cfg.DEVICE.split(":")[0] in ("auto", "cuda") and torch.cuda.is_available()

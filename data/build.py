"""`build_data`: from a config to everything about the data."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data.archives import open_zips
from data.datasets import EvalPixels, Sets
from data.digits import open_digits
from data.folders import open_folders
from data.loaders import EvalLoader, TrainLoader
from data.prepare import build_prepare
from data.shards import is_packed, open_shards
from data.tables import find_tables, is_cub, open_cub, open_imagenet22k, open_tables
from data.transforms import build_train_transform
from swin.batches import Data
from swin.config import Config
from swin.errors import ConfigError
from swin.preprocess import build_eval_resize, image_extensions


def build_data(
    cfg: Config,
    *,
    rank: int = 0,
    world_size: int = 1,
    local_world_size: int = 1,
    runs: Sequence[Path] = (),
    need_train: bool = True,
    classes: Sequence[str] | None = None,
) -> Data:
    """Builds the data that a config describes.

    Args:
        cfg: The config.
        rank: This process's rank.
        world_size: Number of ranks.
        local_world_size: Of these, the ones that share this machine's CPUs.
        runs: Folders of runs, of which the first that remembers the split of an undivided folder decides.
        need_train: False to evaluate; then training data may be missing, and `train` is None.
        classes: The label map of a checkpoint, which then wins over the data's own.

    Raises:
        ConfigError: Keys that contradict each other or the data.
        DataError: The data cannot be used.
    """
    channels = cfg.MODEL.SWIN.IN_CHANS
    sets = open_sets(cfg, rank=rank, world_size=world_size, runs=runs, need_train=need_train, classes=classes)
    if cfg.is_set("MODEL.NUM_CLASSES") and len(sets.classes) != cfg.MODEL.NUM_CLASSES:
        raise ConfigError(
            f"MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}, but the data has {len(sets.classes)} classes. Leave the "
            "key out to use the data's."
        )
    num_workers = min(cfg.DATA.NUM_WORKERS, max(1, _num_cpus() // local_world_size))
    shared = {
        "batch_size": cfg.DATA.BATCH_SIZE,
        "rank": rank,
        "world_size": world_size,
        "num_workers": num_workers,
        "pin_memory": cfg.DATA.PIN_MEMORY
        and cfg.DEVICE.split(":")[0] in ("auto", "cuda")
        and torch.cuda.is_available(),
    }
    prepare = build_prepare(cfg, len(sets.classes))
    train = None
    if need_train and sets.train is not None:
        train = TrainLoader(
            sets.train,
            transform=build_train_transform(cfg),
            seed=cfg.SEED,
            accumulation=cfg.TRAIN.ACCUMULATION_STEPS,
            max_errors=cfg.DATA.MAX_ERRORS if cfg.DATA.ON_ERROR == "skip" else None,
            balanced=cfg.DATA.SAMPLER == "balanced",
            repeats=cfg.DATA.REPEATED_AUG,
            in_pairs=prepare.mix is not None,
            **shared,
        )
    return Data(
        classes=sets.classes,
        train=train,
        val=EvalLoader(
            sets.val, transform=EvalPixels(build_eval_resize(cfg), channels=channels, exif=cfg.DATA.EXIF), **shared
        ),
        prepare=prepare,
        normalise=prepare.normalise,
        class_counts=np.bincount(train.source.labels, minlength=len(sets.classes)).tolist() if train else [],
        notes=sets.notes,
        split=sets.split,
    )


def open_sets(
    cfg: Config,
    *,
    rank: int = 0,
    world_size: int = 1,
    runs: Sequence[Path] = (),
    need_train: bool = True,
    classes: Sequence[str] | None = None,
) -> Sets:
    """Opens the images that a config describes, with the arguments of `build_data`."""
    if cfg.DATA.DATASET == "digits":
        return open_digits(classes=classes)
    if not cfg.DATA.DATA_PATH:
        raise ConfigError("DATA.DATA_PATH is empty. Set it, or pass --data-path, to the folder with the images.")
    root = Path(cfg.DATA.DATA_PATH)
    if cfg.DATA.ZIP_MODE:
        return open_zips(
            root,
            cache_mode=cfg.DATA.CACHE_MODE,
            rank=rank,
            world_size=world_size,
            need_train=need_train,
            classes=classes,
        )
    if cfg.DATA.DATASET == "imagenet22K" and cfg.DATA.VAL_SPLIT == 0:
        return open_imagenet22k(root, need_train=need_train, classes=classes)
    if is_cub(root):
        return open_cub(root, need_train=need_train, classes=classes)
    if find_tables(root):
        return open_tables(root, need_train=need_train, classes=classes)
    if is_packed(root):
        return open_shards(root, need_train=need_train, classes=classes)
    return open_folders(
        root,
        val_split=cfg.DATA.VAL_SPLIT,
        seed=cfg.SEED,
        runs=runs,
        need_train=need_train,
        classes=classes,
        extensions=image_extensions(cfg.MODEL.SWIN.IN_CHANS),
    )


def _num_cpus() -> int:
    """Returns the CPUs this process may run on; more workers than that only take turns."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

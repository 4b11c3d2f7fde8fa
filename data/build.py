"""`build_data`: from a config to everything about the data."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.archives import is_zipped, open_zips
from data.digits import open_digits
from data.folders import class_folders, describe_folder, open_folders
from data.loaders import EvalLoader, TrainLoader
from data.prepare import build_prepare
from data.shards import is_packed, open_shards
from data.sources import Sets, Source
from data.splits import is_split_of
from data.tables import find_tables, has_22k_map, is_cub, open_cub, open_imagenet22k, open_tables
from data.transforms import build_eval_pixels, build_train_transform
from swin.batches import Data
from swin.config import Config
from swin.errors import ConfigError, DataError
from swin.images import image_extensions


def build_data(
    cfg: Config,
    *,
    rank: int = 0,
    world_size: int = 1,
    local_world_size: int = 1,
    runs: Sequence[Path] = (),
    need_train: bool = True,
    classes: Sequence[str] | None = None,
    split: str | None = "val",
    keep_border: bool = False,
) -> Data:
    """Build the data that a config describes.

    Args:
        local_world_size: Of the ranks, those that share this machine's CPUs.
        split: See `open_sets`; None for what an evaluation takes: the part that a run of this data has held out, else
            what `find_split` finds.
        keep_border: See `swin.preprocess.EvalResize`.
        cfg, rank, world_size, runs, need_train, classes: See `open_sets`.

    Raises:
        ConfigError: Keys that contradict each other or the data.
        DataError: The data cannot be used.
    """
    # An evaluation takes what a run has held out, and draws nothing by itself.
    is_held_out = not need_train and _has_held_out(cfg, runs)
    val_split = None if need_train or is_held_out else 0.0
    if split is None:
        split = "val" if is_held_out or cfg.DATA.DATASET == "digits" else find_split(Path(cfg.DATA.DATA_PATH))
    options: dict[str, Any] = {"need_train": need_train, "classes": classes, "split": split, "val_split": val_split}
    sets = open_sets(cfg, rank=rank, world_size=world_size, runs=runs, **options)
    _check_count(cfg, sets.classes)
    prepare = build_prepare(cfg, len(sets.classes))
    common = _loader_options(cfg, local_world_size) | {"rank": rank, "world_size": world_size}
    train = sets.train if need_train else None
    return Data(
        classes=sets.classes,
        train=_build_train_loader(cfg, train, in_pairs=prepare.mix is not None, **common) if train else None,
        val=EvalLoader(sets.val, transform=build_eval_pixels(cfg, keep_border=keep_border), **common),
        prepare=prepare,
        normalise=prepare.normalise,
        class_counts=_count(train, sets.classes) if train else [],
        val_counts=_count(sets.val, sets.classes),
        notes=sets.notes,
        split=sets.split,
        part=split,
    )


def _loader_options(cfg: Config, local_world_size: int) -> dict[str, Any]:
    return {
        "batch_size": cfg.DATA.BATCH_SIZE,
        "num_workers": min(cfg.DATA.NUM_WORKERS, max(1, _num_cpus() // local_world_size)),
        "pin_memory": cfg.DATA.PIN_MEMORY and _may_use_cuda(cfg),
    }


def _count(source: Source, classes: Sequence[str]) -> list[int]:
    return np.bincount(source.labels, minlength=len(classes)).tolist()


def _check_count(cfg: Config, classes: Sequence[str]) -> None:
    if cfg.is_set("MODEL.NUM_CLASSES") and len(classes) != cfg.MODEL.NUM_CLASSES:
        raise ConfigError(
            f"MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}, but the data has {len(classes)} classes. Leave the key out "
            "to use the data's."
        )


def _build_train_loader(cfg: Config, source: Source, **common: Any) -> TrainLoader:
    return TrainLoader(
        source,
        transform=build_train_transform(cfg),
        seed=cfg.SEED,
        accumulation=cfg.TRAIN.ACCUMULATION_STEPS,
        max_errors=cfg.DATA.MAX_ERRORS if cfg.DATA.ON_ERROR == "skip" else None,
        balanced=cfg.DATA.SAMPLER == "balanced",
        repeats=cfg.DATA.REPEATED_AUG,
        **common,
    )


def _may_use_cuda(cfg: Config) -> bool:
    return cfg.DEVICE.split(":")[0] in ("auto", "cuda") and torch.cuda.is_available()


def _num_cpus() -> int:
    """Return the CPUs this process may run on; more workers than that only take turns."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_sets(
    cfg: Config,
    *,
    rank: int = 0,
    world_size: int = 1,
    runs: Sequence[Path] = (),
    need_train: bool = True,
    classes: Sequence[str] | None = None,
    split: str = "val",
    val_split: float | None = None,
) -> Sets:
    """Open the images that a config describes.

    Args:
        cfg: The config.
        rank, world_size: Of this process among all.
        runs: Folders of runs, of which the first with a saved split of an undivided folder decides.
        need_train: False to evaluate; then training data may be missing.
        classes: The label map of a checkpoint, which then wins over the data's own.
        split: What to evaluate, by its name in the layout: val, test, train or any other; or all images of a folder of
            class folders, where DATA.VAL_SPLIT holds nothing out. See `find_split`.
        val_split: In place of DATA.VAL_SPLIT.
    """
    val_split = cfg.DATA.VAL_SPLIT if val_split is None else val_split
    if cfg.DATA.DATASET == "digits":
        return open_digits(classes=classes, split=split)
    if not cfg.DATA.DATA_PATH:
        raise ConfigError("DATA.DATA_PATH is empty. Set it, or pass --data-path, to the folder with the images.")
    root = Path(cfg.DATA.DATA_PATH)
    wanted: dict[str, Any] = {"need_train": need_train, "classes": classes, "split": split}
    extensions = image_extensions(cfg.MODEL.SWIN.IN_CHANS)
    folders = {"val_split": val_split, "seed": cfg.SEED, "runs": runs, "extensions": extensions}
    if split == "all":
        return open_folders(root, **folders, **wanted)
    is_zip, is_22k = cfg.DATA.ZIP_MODE, cfg.DATA.DATASET == "imagenet22K"
    if not need_train:  # what is there decides: the config may be that of a checkpoint, about other data
        is_zip = is_zipped(root, split) and (is_zip or not class_folders(root / split))
        is_22k = has_22k_map(root, split)
    if is_zip:
        return open_zips(root, cache_mode=cfg.DATA.CACHE_MODE, rank=rank, world_size=world_size, **wanted)
    if is_22k and val_split == 0:
        return open_imagenet22k(root, **wanted)
    if is_cub(root):
        return open_cub(root, **wanted)
    if find_tables(root, split):
        return open_tables(root, **wanted)
    if is_packed(root, split):
        return open_shards(root, **wanted)
    return open_folders(root, **folders, **wanted)


def _has_held_out(cfg: Config, runs: Sequence[Path]) -> bool:
    """Tell whether a run has held out a part of these images."""
    return cfg.DATA.VAL_SPLIT > 0 and any(is_split_of(run, Path(cfg.DATA.DATA_PATH)) for run in runs)


def find_split(root: Path) -> str:
    """Return what to evaluate of a data set where nobody says: its val part, else its test part, else all of it.

    Raises:
        DataError: It has neither such a part nor class folders.
    """
    for split in ("val", "test"):
        if _has_split(root, split):
            return split
    if class_folders(root) and not _has_split(root, "train"):
        return "all"
    raise DataError(
        f"{root}: has no val or test part to evaluate: {describe_folder(root)}. Name the part that you mean, as train, "
        "or give a folder of <class>/ folders."
    )


def _has_split(root: Path, split: str) -> bool:
    return (
        bool(class_folders(root / split))
        or split in find_tables(root, split)
        or is_packed(root, split)
        or is_zipped(root, split)
        or has_22k_map(root, split)
        or (split == "val" and is_cub(root))
    )

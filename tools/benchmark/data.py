"""How fast training images are made, against timm's transform with the official arguments, on the same JPEGs."""

import argparse
import io
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data import auto_augment
from timm.data.constants import IMAGENET_DEFAULT_MEAN as MEAN
from timm.data.transforms_factory import create_transform

from data.loaders import TrainLoader
from data.operations import posterize
from data.sources import FolderImages
from data.transforms import TrainTransform
from swin.cpu import keep_freed_memory
from swin.engine.throughput import time_action
from swin.errors import ConfigError, DataError
from swin.files import read_file
from swin.images import IMAGE_EXTENSIONS
from tools.benchmark.process import ProcessRun
from tools.benchmark.timing import Result, Run, interleave, make_result, ratio

MAX_IMAGES = 200
# Passes over the images in an epoch of the loader: it lasts some seconds, of which the first batches, when workers have
# nothing ready yet, are a small part.
LOADER_PASSES = 10
PACKED_SIZE_PX = (256, 256)
POLICY = "rand-m9-mstd0.5-inc1"
MakeTransform = Callable[[], Any]


def run_data(args: argparse.Namespace) -> dict[str, Result]:
    """Speed of the transform on one core, for raw and packed files, and of a loader with a worker on each of two cores.

    Raises:
        ConfigError: no folder was given.
        DataError: it holds no images.
    """
    if args.data_path is None:
        raise ConfigError("the data benchmark needs images; add --data-path FOLDER.")
    files = sorted(path for path in args.data_path.rglob("*") if path.suffix.lower() in IMAGE_EXTENSIONS)[:MAX_IMAGES]
    if not files:
        raise DataError(f"{args.data_path}: holds no images to measure with.")
    raw = [read_file(file) for file in files]
    img_size = args.img_size or 224
    timms = partial(_make_timm_transform, img_size)
    ours = partial(TrainTransform, img_size=img_size, channels=3, mean=MEAN, auto_augment=POLICY)
    torch.set_num_threads(1)  # as a worker has
    keep_freed_memory()  # as a worker does
    one_core = _run_transforms(args, {"timm": timms, "ours": ours}, raw)
    return {"one_core": one_core, "loader": _run_loaders(args, ours, files, raw)}


def _run_transforms(args: argparse.Namespace, libraries: dict[str, MakeTransform], raw: Sequence[bytes]) -> Result:
    """Each library in processes that only decode and augment."""
    runs = {}
    for kind, contents in (("raw", raw), ("packed", [_repack(content) for content in raw])):
        for library, make_transform in libraries.items():
            # Not by the clock on the wall: other programs may have the core for a while.
            make = partial(_make_pass, make_transform, contents, time.process_time)
            runs[f"{library}_{kind}"] = ProcessRun(make, keep_memory=library == "ours")
    speeds = interleave(runs, rounds=args.rounds, warmup=args.warmup)
    for run in runs.values():
        run.close()
    ratios = {f"{name}_to_timm_raw": ratio(values, speeds["timm_raw"]) for name, values in speeds.items()}
    return make_result(speeds, ratios, unit="images/s of CPU time", num_images=len(raw))


def _run_loaders(
    args: argparse.Namespace, make_transform: MakeTransform, files: Sequence[Path], raw: Sequence[bytes]
) -> Result:
    """The training loader with one worker and with two, and the transform by itself by the same clock."""
    names = [str(file.relative_to(args.data_path)) for file in files] * LOADER_PASSES
    source = FolderImages(args.data_path, names, np.zeros(len(names), np.int64))
    runs = {"transform": _make_pass(make_transform, raw, time.perf_counter)}
    for count in (1, 2):
        loader = TrainLoader(source, transform=make_transform(), seed=0, batch_size=32, num_workers=count)
        read = partial(_read_epoch, loader, itertools.count())
        runs[f"loader_{count}_workers"] = partial(time_action, read, len(names), torch.device("cpu"))
    speeds = interleave(runs, rounds=args.rounds, warmup=max(args.warmup, 1))  # the first epoch starts the workers
    two = speeds["loader_2_workers"]
    ratios = {
        "2_workers_to_twice_1_worker": ratio(two, speeds["loader_1_workers"]) / 2,
        "2_workers_to_twice_transform": ratio(two, speeds["transform"]) / 2,
    }
    return make_result(speeds, ratios, num_images=len(raw))


def _read_epoch(loader: TrainLoader, epochs: Iterator[int]) -> None:
    for _ in loader.epoch(next(epochs)):
        pass


def _make_pass(make_transform: MakeTransform, contents: Sequence[bytes], clock: Callable[[], float]) -> Run:
    """Make training images of all files, with the same random numbers in the same round whatever the transform."""
    transform, seeds = make_transform(), itertools.count()

    def transform_all() -> None:
        seed = next(seeds)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        for content in contents:
            transform(content, "an image")

    return partial(time_action, transform_all, len(contents), torch.device("cpu"), clock)


def _make_timm_transform(img_size: int) -> Callable[[bytes, str], torch.Tensor]:
    auto_augment.NAME_TO_OP["PosterizeIncreasing"] = posterize  # timm's own fails with Pillow 13
    transform = create_transform(
        img_size, is_training=True, auto_augment=POLICY, interpolation="bicubic", re_prob=0.25, re_mode="pixel"
    )
    return lambda content, name: transform(Image.open(io.BytesIO(content)).convert("RGB"))


def _repack(content: bytes) -> bytes:
    """The file as `tools.pack_dataset` would make it smaller."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    if min(image.size) > min(PACKED_SIZE_PX):
        image = ImageOps.cover(image, PACKED_SIZE_PX)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()

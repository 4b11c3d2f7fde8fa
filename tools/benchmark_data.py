"""How fast training images are made, against timm's transform with the official arguments, on the same JPEGs.

Each contestant is a process with one thread that only decodes and augments; rounds alternate between them, so that
whatever else the machine does weighs on all alike. `tools.benchmark data` is its command line.
"""

import io
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data.datasets import FolderImages
from data.loaders import TrainLoader
from data.transforms import make_train_transform
from swin.cpu import keep_freed_memory
from swin.engine.throughput import Timing
from swin.errors import DataError
from swin.preprocess import IMAGE_EXTENSIONS, read_file

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_POLICY = "rand-m9-mstd0.5-inc1"
_LOADER_PASSES = 10  # over the images, in an epoch of the loader
Transform = Callable[[bytes], Any]
Contestant = tuple[Callable[[int], Transform], Sequence[bytes]]  # input size to transform, and files


def run_data(
    folder: Path, *, img_size: int = 224, num_images: int = 200, rounds: int = 7, short_side_px: int = 256
) -> dict[str, Any]:
    """Measures raw and packed files on one core, and raw ones through a loader with a worker on each of two cores.

    Args:
        folder: Images, at any depth.
        img_size: Side of the model's input.
        num_images: How many of them to use.
        rounds: Measurements of each contestant; medians are reported.
        short_side_px: Short side of the packed images, re-encoded at quality 90.

    Returns:
        `images_per_sec`: medians by contestant; `spread`: lowest and highest; `ratio`: medians of the rounds' ratios to
        timm on raw files; `loader_share`: median over the rounds of the loader's speed with two workers over twice its
        speed with one; `loader_share_of_transform`: the same over twice that of the transform alone in this process.

    Raises:
        DataError: There are no images.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_EXTENSIONS)[:num_images]
    if not paths:
        raise DataError(f"{folder}: holds no images to measure with.")
    raw = [read_file(path) for path in paths]
    packed = [_repack(content, short_side_px) for content in raw]
    contestants: dict[str, Contestant] = {
        "timm_raw": (_make_timm, raw),
        "ours_raw": (_make_ours, raw),
        "timm_packed": (_make_timm, packed),
        "ours_packed": (_make_ours, packed),
    }
    speeds = _alternate(contestants, img_size, rounds)
    workers: dict[int, list[float]] = {1: [], 2: []}
    alone: list[float] = []  # the transform by itself, by the same clock as the loaders
    # An epoch lasts some seconds, of which the first batches, when workers have nothing ready yet, are a small part.
    names = [str(path.relative_to(folder)) for path in paths] * _LOADER_PASSES
    source = FolderImages(folder, names, np.zeros(len(names), np.int64))
    loaders = {count: _make_loader(source, img_size, count) for count in workers}
    transform = _make_ours(img_size)
    for epoch in range(1 + rounds):
        if epoch:
            alone.append(_measure_transform(transform, raw, time.perf_counter))
        for count, loader in loaders.items():
            speed = _measure_loader(loader, epoch)
            if epoch:  # the first one starts the workers
                workers[count].append(speed)
    speeds |= {"transform_alone": alone, **{f"loader_{count}_workers": found for count, found in workers.items()}}
    timings = {name: Timing(tuple(found)) for name, found in speeds.items()}
    two_workers = timings["loader_2_workers"]
    return {
        "images_per_sec": {name: timing.median for name, timing in timings.items()},
        "spread": {name: (min(timing.speeds), max(timing.speeds)) for name, timing in timings.items()},
        "ratio": {name: timings[name].ratio(timings["timm_raw"]) for name in contestants},
        "loader_share": two_workers.ratio(timings["loader_1_workers"]) / 2,
        "loader_share_of_transform": two_workers.ratio(timings["transform_alone"]) / 2,
        "num_images": len(paths),
        "rounds": rounds,
    }


def _repack(content: bytes, short_side_px: int) -> bytes:
    image = Image.open(io.BytesIO(content)).convert("RGB")
    scale = min(short_side_px / min(image.size), 1)
    file = io.BytesIO()
    image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC).save(
        file, "JPEG", quality=90
    )
    return file.getvalue()


def _make_ours(img_size: int) -> Transform:
    keep_freed_memory()  # as in a worker
    transform = make_train_transform(img_size=img_size, channels=3, mean=_MEAN, auto_augment=_POLICY)
    return lambda content: transform(content, "an image")


def _make_timm(img_size: int) -> Transform:
    import timm.data.auto_augment as timm_augment
    from timm.data import create_transform

    from data.operations import posterize

    timm_augment.NAME_TO_OP["PosterizeIncreasing"] = posterize  # timm's own fails with Pillow 13
    transform = create_transform(
        img_size,
        is_training=True,
        color_jitter=0.4,
        auto_augment=_POLICY,
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
        re_count=1,
        mean=_MEAN,
        std=_STD,
    )
    return lambda content: transform(Image.open(io.BytesIO(content)).convert("RGB"))


def _alternate(contestants: dict[str, Contestant], img_size: int, rounds: int) -> dict[str, list[float]]:
    """Images per second of CPU time of each contestant, a value a round."""
    context = multiprocessing.get_context("fork")
    pipes, processes = {}, []
    for name, (make, contents) in contestants.items():
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=_contend, args=(theirs, make, contents, img_size), daemon=True))
        processes[-1].start()
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, pipe in pipes.items():
            pipe.send(number)
            speed = pipe.recv()
            if number:  # the first round warms up
                speeds[name].append(speed)
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(None)
        process.join()
    return speeds


def _contend(pipe: Any, make: Callable[[int], Transform], contents: Sequence[bytes], img_size: int) -> None:
    torch.set_num_threads(1)
    transform = make(img_size)
    while (number := pipe.recv()) is not None:
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
        # Not the clock on the wall: other programs may have the core for a while.
        pipe.send(_measure_transform(transform, contents, time.process_time))


def _make_loader(source: FolderImages, img_size: int, num_workers: int) -> TrainLoader:
    return TrainLoader(
        source,
        transform=make_train_transform(img_size=img_size, channels=3, mean=_MEAN, auto_augment=_POLICY),
        seed=0,
        batch_size=32,
        num_workers=num_workers,
    )


def _measure_transform(transform: Transform, contents: Sequence[bytes], clock: Callable[[], float]) -> float:
    """Images per second of the transform in this process."""
    begin = clock()
    for content in contents:
        transform(content)
    return len(contents) / (clock() - begin)


def _measure_loader(loader: TrainLoader, epoch: int) -> float:
    """Images per second of the training loader over an epoch, by the clock."""
    begin = time.perf_counter()
    for _ in loader.epoch(epoch):
        pass
    return loader.num_samples / (time.perf_counter() - begin)


def describe_data(result: dict[str, Any]) -> str:
    """The result of `run_data` in lines."""
    lines = [f"{result['num_images']} images, {result['rounds']} rounds, {os.cpu_count()} CPUs"]
    for name, speed in result["images_per_sec"].items():
        low, high = result["spread"][name]
        ratio = f", {result['ratio'][name]:.2f} x timm on raw files" if name in result["ratio"] else ""
        lines.append(f"{name}: {speed:.0f} images/s ({low:.0f} to {high:.0f}){ratio}")
    shares = [f"{result[name]:.0%}" for name in ("loader_share", "loader_share_of_transform")]
    lines.append(f"two workers reach {shares[0]} of twice one worker, {shares[1]} of twice the transform alone")
    return "\n".join(lines)

"""What an evaluation costs beside its forward passes: the table, its figures, its files and its report."""

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from swin.batches import Batch, Data, EvalBatches
from swin.distributed import Distributed
from swin.engine.evaluate import evaluate
from swin.engine.precision import Precision
from swin.engine.throughput import peak_bytes
from swin.errors import ConfigError
from swin.evaluation.metrics import measure
from tools.benchmark.timing import Result, make_result
from tools.report import write_report

# Images and classes: small; the most that keep float32 and have all columns in the CSV; ImageNet; more classes.
SIZES = ((10_000, 10), (16_000, 1000), (50_000, 1000), (14_000, 21_841))
_BATCH_SIZE, _SIGNAL = 256, 5.0
_CPU = torch.device("cpu")


def run_evaluation(args: argparse.Namespace) -> Iterator[tuple[str, Result]]:
    """Measure tables of each size in a process of their own; yields them as they come.

    Raises:
        ConfigError: The numbers of images and classes do not pair.
    """
    if len(args.images) != len(args.classes):
        raise ConfigError("--images and --classes take as many numbers each: those of the first table, of the second.")
    for images, classes in zip(args.images, args.classes, strict=True) if args.images else SIZES:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            yield f"{images} x {classes}", pool.submit(_measure_size, images, classes, args.rounds).result()


class _Batches(EvalBatches):
    """Images that are but their labels."""

    def __init__(self, num_samples: int, num_classes: int) -> None:
        self.num_samples, self.num_classes = num_samples, num_classes

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, self.num_samples, _BATCH_SIZE):
            labels = torch.randint(self.num_classes, (min(_BATCH_SIZE, self.num_samples - start),))
            yield Batch(labels, labels, torch.empty(0, 6), [], [], 0, True, 0)

    def name(self, index: int) -> str:
        return f"class_of_images/image_{index:08d}.jpg"

    def read(self, index: int) -> Tensor:
        raise NotImplementedError


class _Guess(nn.Module):
    """Makes random logits which know something of the labels, and counts the seconds that this takes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.seconds = num_classes, 0.0

    def forward(self, labels_B: Tensor) -> Tensor:
        begin = time.perf_counter()
        logits_BK = torch.randn(len(labels_B), self.num_classes)
        logits_BK[torch.arange(len(labels_B)), labels_B] += _SIGNAL
        self.seconds += time.perf_counter() - begin
        return logits_BK


def _measure_size(num_images: int, num_classes: int, rounds: int) -> Result:
    """Measure a table, after a small one for the imports and what else happens once."""
    torch.manual_seed(0)
    with TemporaryDirectory() as name:
        folder = Path(name)
        _run_once(1000, 10, folder)
        before = peak_bytes(_CPU)
        steps, peaks, logits = zip(*(_run_once(num_images, num_classes, folder) for _ in range(rounds)), strict=True)
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    times = {step: [1000 * each[step] for each in steps] for step in steps[0]}
    more = {"peak_bytes": {"before": before, **peaks[0]}, "file_bytes": sizes, "logits": logits[0]}
    return make_result(times, {}, unit="ms", **more)


def _run_once(num_images: int, num_classes: int, folder: Path) -> tuple[dict[str, float], dict[str, int], str]:
    """Return the seconds of each step, the peak of memory up to its end, and what the logits are stored in."""
    seconds, peaks = dict[str, float](), dict[str, int]()

    def run(step: str, action: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = action()
        seconds[step], peaks[step] = time.perf_counter() - begin, peak_bytes(_CPU)
        return result

    classes, batches = [f"class {label}" for label in range(num_classes)], _Batches(num_images, num_classes)
    data = Data(classes, None, batches, prepare=_keep, normalise=_keep, class_counts=[])  # type: ignore[arg-type]
    model = _Guess(num_classes)
    alone = Distributed(rank=0, world_size=1, local_rank=0, device=_CPU)
    _, table = run("evaluate", lambda: evaluate(model, data, Precision("cpu", None), alone))
    seconds["evaluate"] -= model.seconds
    seconds["random_numbers"] = model.seconds
    metrics = run("measure", lambda: measure(table))
    run("save", lambda: table.save(folder / "predictions.npz"))
    run("write_csv", lambda: table.write_csv(folder / "predictions.csv"))
    run("write_report", lambda: write_report(table, metrics, folder / "report", page=folder / "report.html"))
    return seconds, peaks, "none" if table.logits is None else str(table.logits.dtype)


def _keep(value: Any, *others: Any) -> Any:
    return value

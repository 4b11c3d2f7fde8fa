"""A small data set and config that train in seconds, and ways to run the program on them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

import main

settings.register_profile("unhurried", deadline=None)  # how long an example takes says more of the machine than of it
settings.load_profile("unhurried")

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("circle", "cross", "stripes")
# 101 validation images: a prime, so that no batch size or number of processes divides it.
NUM_TRAIN, NUM_VAL = 26, (34, 34, 33)


def draw(kind: str, random: np.random.Generator) -> Image.Image:
    """A noisy 24 x 20 picture of a shape at a random place."""
    rows, columns = np.mgrid[:24, :20]
    row, column = random.uniform(6, 18), random.uniform(6, 14)
    shapes = {
        "circle": np.hypot(rows - row, columns - column) < 6,
        "cross": (abs(rows - row) < 2) | (abs(columns - column) < 2),
        "stripes": (rows + int(row)) % 6 < 3,
    }
    pixels = shapes[kind][..., None] * random.uniform(80, 200, 3) + random.normal(40, 15, (24, 20, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make_folder(root: Path) -> Path:
    random = np.random.default_rng(0)
    for split, counts in (("train", (NUM_TRAIN,) * 3), ("val", NUM_VAL)):
        for name, count in zip(CLASSES, counts, strict=True):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                draw(name, random).save(root / split / name / f"{index:03}.png")
    return root


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """Class folders: train/ with 3 x 26 and val/ with 101 images."""
    return make_folder(tmp_path_factory.mktemp("shapes"))


CONFIG = """
MODEL:
  NAME: tiny
  DROP_PATH_RATE: 0.2
  SWIN: {EMBED_DIM: 16, DEPTHS: [2, 2], NUM_HEADS: [1, 2], WINDOW_SIZE: 4, PATCH_SIZE: 4}
DATA: {IMG_SIZE: 32, BATCH_SIZE: 8, NUM_WORKERS: 0}
TRAIN: {EPOCHS: 2, WARMUP_EPOCHS: 0, BASE_LR: 0.002, MIN_LR: 0.0, LR_REFERENCE_BATCH: 0}
AMP_ENABLE: False
DEVICE: cpu
PRINT_FREQ: 1
REPORT: False
"""


class Runner:
    """Runs main.py with the small config on the small data set, each run under its own tag."""

    def __init__(self, folder: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.data, self.capsys = folder, data, capsys
        self.config = folder / "tiny.yaml"
        self.config.write_text(CONFIG)

    def arguments(self, tag: str, *more: str) -> list[str]:
        common = ["--cfg", str(self.config), "--output", str(self.folder / "out"), "--tag", tag]
        data = [] if "--data-path" in more else ["--data-path", str(self.data)]
        return [*common, *data, *more]

    def run_dir(self, tag: str) -> Path:
        return self.folder / "out" / "tiny" / tag

    def __call__(self, tag: str, *more: str) -> int:
        """Run in this process; returns the exit status."""
        return main.main(self.arguments(tag, *more))

    def text(self) -> str:
        """What was printed since the last call."""
        captured = self.capsys.readouterr()
        return captured.out + captured.err

    def rows(self, tag: str, kind: str) -> list[dict[str, Any]]:
        lines = (self.run_dir(tag) / "metrics.jsonl").read_text().splitlines()
        return [row for row in map(json.loads, lines) if row["kind"] == kind]

    def checkpoint(self, tag: str, name: str = "last.pth") -> dict[str, Any]:
        return torch.load(self.run_dir(tag) / "checkpoints" / name, weights_only=True)

    def start(self, tag: str, *more: str, processes: int = 0) -> subprocess.Popen:
        """Start in processes of its own, under torchrun if `processes` is given."""
        launch = [sys.executable]
        if processes:
            launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            [*launch, str(ROOT / "main.py"), *self.arguments(tag, *more)],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for_rows(self, tag: str, count: int = 1, pause_sec: float = 0.01) -> None:
        """Wait, a minute at most, until a run has recorded as many rows."""
        log = self.run_dir(tag) / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while not (log.exists() and log.read_text().count("\n") >= count):
            assert time.monotonic() < deadline
            time.sleep(pause_sec)

    def finish(self, process: subprocess.Popen, timeout: float = 120) -> tuple[int, str]:
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output


@pytest.fixture
def runner(tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Runner]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes of `start`: sums of other parts round otherwise
    yield Runner(tmp_path, shapes, capsys)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory) -> Path:
    """The folder of a run that trained on the digits for two epochs, above chance."""
    output = tmp_path_factory.mktemp("digits")
    opts = ("TRAIN.EPOCHS", "2", "TRAIN.WARMUP_EPOCHS", "0", "EVAL_FREQ", "2", "DEVICE", "cpu", "REPORT", "False")
    assert main.main(["--cfg", "swin_digits", "--output", str(output), "--tag", "short", "--opts", *opts]) == 0
    return output / "swin_digits" / "short"


@pytest.fixture
def assert_equal_state() -> Callable[[Any, Any], None]:
    """Compares two checkpoints bit for bit, but for the time, the config, which names folders, and so the digest."""

    def compare(one: Any, other: Any, path: str = "") -> None:
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other), path
        elif isinstance(one, dict):
            assert one.keys() == other.keys(), path
            for key in one:
                if key not in ("config", "seconds", "digest"):
                    compare(one[key], other[key], f"{path}.{key}")
        elif isinstance(one, list):
            assert len(one) == len(other), path
            for index, pair in enumerate(zip(one, other, strict=True)):
                compare(*pair, f"{path}[{index}]")
        else:
            assert one == other, path

    return compare

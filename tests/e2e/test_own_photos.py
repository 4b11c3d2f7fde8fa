"""The afternoon of a new user: a folder of pictures, and no config key looked up."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import main as trainer
from tests.conftest import CLASSES, draw
from tools import evaluate, predict
from tools.report.__main__ import main as report
from tools.start import choose
from tools.start.__main__ import main as start
from tools.start.measure import Speed

COUNTS = {"Train": 26, "validation": 10, "testing": 12}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures of three shapes, in a folder below the current one."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for part, count in COUNTS.items():
        for name in CLASSES:
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for index in range(count):
                draw(name, random).save(tmp_path / "photos" / part / name / f"{part}{index}.png")
    return Path("photos")


def test_from_photos_to_predictions(photos, monkeypatch, capsys):
    # The number of epochs must not depend on the clock; tests/unit/test_start.py measures.
    monkeypatch.setattr(choose, "measure", lambda cfg, dist: (Speed(300, 300, 900, 0.01), []))
    threads = torch.get_num_threads()
    assert start(["--data-path", "photos", "--minutes", "0.25"]) == 0
    said = capsys.readouterr().out
    assert "78 training, 30 validation, 36 test images, 3 classes" in said
    command = next(line.split() for line in said.splitlines() if line.startswith("    python main.py"))

    assert trainer.main(command[2:]) == 0
    run = Path("output/photos/default")
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    assert (run / "report.html").is_file()
    assert report([str(run), "--output", "page.html"]) == 0
    assert "stripes" in Path("page.html").read_text()

    assert evaluate.main(["--checkpoint", str(run), "--split", "test", "--no-report"]) == 0
    metrics = json.loads(Path("evaluation/metrics.json").read_text())
    assert metrics["seen"] == 36
    assert metrics["acc1"] > 60  # chance is 33

    new = Path("new")
    new.mkdir()
    for name in CLASSES:
        for image in (photos / "testing" / name).iterdir():
            shutil.copy(image, new / f"{name}-{image.name}")
    capsys.readouterr()
    assert predict.main(["--checkpoint", str(run), "--input", "new", "--format", "csv", "--top-k", "1"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    right = sum(Path(row["file"]).name.startswith(row["class"]) for row in rows)
    assert len(rows) == 36
    assert right == metrics["correct1"]
    torch.set_num_threads(threads)

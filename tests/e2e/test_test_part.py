"""A third part of the data is looked at once, at the end of a run, with the best weights."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import main
from swin.batches import EvalBatches
from tools.evaluate import main as evaluate
from tools.report import report_folder


class Watched(EvalBatches):
    """A part that counts how often it was gone through."""

    def __init__(self, batches):
        self.batches, self.num_samples, self.rounds = batches, batches.num_samples, 0

    def __iter__(self):
        self.rounds += 1
        return iter(self.batches)

    def name(self, index):
        return self.batches.name(index)

    def read(self, index):
        return self.batches.read(index)


@pytest.fixture
def parts(runner, tmp_path, monkeypatch):
    """Gives the runner data with a test part; returns the parts that its runs were given."""
    folder = tmp_path / "three"
    shutil.copytree(runner.data, folder)
    shutil.copytree(folder / "train", folder / "test")
    runner.data, original, given = folder, main.build_data, []

    def build_data(cfg, **options):
        data = original(cfg, **options)
        given.append(Watched(data.test))
        return replace(data, test=given[-1])

    monkeypatch.setattr(main, "build_data", build_data)
    return given


def test_the_test_part_is_evaluated_with_the_best_weights_at_the_end_alone(runner, parts, tmp_path):
    options = ["--opts", "TRAIN.EPOCHS", "3", "TRAIN.EMA.ENABLE", "True", "TRAIN.EMA.DECAY", "0.5"]
    assert runner("run", *options) == 0
    assert [part.rounds for part in parts] == [1]
    folder, best = runner.run_dir("run"), runner.checkpoint("run", "best.pth")
    found = json.loads((folder / "test" / "metrics.json").read_text())
    assert (found["split"], found["epoch"], found["seen"]) == ("test", best["epoch"], 78)
    assert f"looked at once, with the weights of epoch {best['epoch']}" in runner.text()
    checkpoint, output = folder / "checkpoints" / "best.pth", tmp_path / "again"
    arguments = ["--checkpoint", str(checkpoint), "--data-path", str(runner.data), "--split", "test"]
    assert evaluate([*arguments, "--output", str(output), "--device", "cpu"]) == 0
    with np.load(folder / "test" / "predictions.npz") as one, np.load(output / "predictions.npz") as other:
        assert (one["file"] == other["file"]).all()
        assert np.allclose(one["logits"], other["logits"], atol=1e-4)
    row = runner.rows("run", "test")
    assert [(each["acc1"], each["epoch"], each["step"]) for each in row] == [(found["acc1"], best["epoch"], 30)]
    assert "78 for a test at the end" in (folder / "log.txt").read_text()
    assert set(json.loads((folder / "data.json").read_text())) == {"train", "val", "test"}

    report_folder(folder)
    assert "Test, looked at once" in (folder / "report.html").read_text()
    assert json.loads((folder / "report" / "report.json").read_text())["test"]["acc1"] == found["acc1"]
    report_folder(folder / "test")
    assert "Test, looked at once" not in (folder / "test" / "report.html").read_text()


def test_a_run_that_is_done_already_is_tested_once_more_only_where_that_is_missing(runner, parts):
    assert runner("run") == 0
    folder = runner.run_dir("run") / "test"
    first = json.loads((folder / "metrics.json").read_text())
    assert runner("run") == 0
    assert [part.rounds for part in parts] == [1, 0]
    shutil.rmtree(folder)
    assert runner("run") == 0
    assert [part.rounds for part in parts] == [1, 0, 1]
    assert json.loads((folder / "metrics.json").read_text()) == first
    assert json.loads((runner.run_dir("run") / "status.json").read_text())["state"] == "done"


def test_without_a_best_checkpoint_the_last_weights_are_tested(runner, parts):
    assert runner("run") == 0
    folder = runner.run_dir("run")
    (folder / "checkpoints" / "best.pth").unlink()
    shutil.rmtree(folder / "test")
    assert runner("run") == 0
    found = json.loads((folder / "test" / "metrics.json").read_text())
    assert (found["epoch"], found["checkpoint"]) == (1, str(folder / "checkpoints" / "last.pth"))
    assert found["seen"] == 78

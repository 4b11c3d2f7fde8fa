"""k-fold cross-validation in one command: the runs of the folds, whatever else runs, and what they say together."""

import json
import os
import signal

import numpy as np
import pytest
import sklearn.metrics as peer

from swin.logger import Logger
from tools.report import report_folder

FOLDS = 3
OPTIONS = ["--opts", "DATA.FOLDS", str(FOLDS), "TRAIN.EPOCHS", "2"]


@pytest.fixture
def names(runner):
    """Gives the runner class folders without a validation part; returns the images in the order of the data."""
    runner.data /= "train"
    return sorted(str(path.relative_to(runner.data)) for path in runner.data.glob("*/*.png"))


def read(path):
    return json.loads(path.read_text())


def rows(runner, tag):
    """What a run has recorded, but for its speed."""
    speeds = ("images_per_sec", "data_wait")
    return [
        {key: value for key, value in row.items() if key not in speeds}
        for kind in ("train", "eval")
        for row in runner.rows(tag, kind)
    ]


def test_the_folds_are_the_runs_that_each_would_be_alone(runner, names, monkeypatch, assert_equal_state):
    original = Logger.metrics

    def metrics(self, kind, **fields):
        original(self, kind, **fields)
        assert (folder / ".lock").exists()
        if kind == "train" and fields["step"] == 3 and (folder / "fold-1" / "metrics.jsonl").exists():
            os.kill(os.getpid(), signal.SIGTERM)

    folder = runner.run_dir("all")
    with monkeypatch.context() as patch:
        patch.setattr(Logger, "metrics", metrics)
        assert runner("all", *OPTIONS) == 3
    stopped = read(folder / "status.json")
    assert (stopped["state"], stopped["exit_code"], stopped["fold"]) == ("stopped", 3, 1)
    assert not (folder / "folds.json").exists()
    first = (folder / "fold-0" / "checkpoints" / "last.pth").stat()
    assert runner("all", *OPTIONS) == 0
    text = runner.text()
    assert (folder / "fold-0" / "checkpoints" / "last.pth").stat() == first
    assert "fold 0 (1 of 3) is done" in text
    assert read(folder / "status.json")["state"] == "done"
    assert not (folder / ".lock").exists()

    for fold in ("1", "2"):  # in another order, and none before them
        assert runner("alone", *OPTIONS, "DATA.FOLD", fold) == 0
        assert_equal_state(runner.checkpoint(f"all/fold-{fold}"), runner.checkpoint(f"alone/fold-{fold}"))
        assert rows(runner, f"all/fold-{fold}") == rows(runner, f"alone/fold-{fold}")
        for name in ("split.json", "classes.json", "data.json"):
            assert read(runner.run_dir(f"all/fold-{fold}") / name) == read(runner.run_dir(f"alone/fold-{fold}") / name)
    assert "\nstopped" not in (folder / "fold-2" / "log.txt").read_text(), "each has a log of its own"

    summary, metrics = read(folder / "folds.json"), read(folder / "metrics.json")
    with np.load(folder / "predictions.npz") as table:
        labels, preds, files = table["label"], table["pred"], table["file"]
    assert [file[-len(name) :] for file, name in zip(files.tolist(), names, strict=True)] == names
    assert metrics["acc1"] == pytest.approx(100 * peer.accuracy_score(labels, preds))
    assert metrics["macro_f1"] == pytest.approx(peer.f1_score(labels, preds, average="macro"))
    assert sum(row["images"] for row in summary["folds"]) == metrics["seen"] == len(names)
    for row in summary["folds"]:
        own = folder / f"fold-{row['fold']}"
        best = runner.checkpoint(f"all/fold-{row['fold']}", "best.pth")
        assert (row["best_epoch"], row["acc1"]) == (best["epoch"], pytest.approx(best["best"]))
        with np.load(own / "predictions.npz") as part:
            assert row["images"] == len(part["label"])
            is_own = np.isin(files, part["file"])
            assert (preds[is_own] == part["pred"]).all()
    for name in ("acc1", "loss", "balanced_accuracy", "macro_f1"):
        values = [row[name] for row in summary["folds"]]
        assert summary["mean"][name] == pytest.approx(np.mean(values))
        assert summary["std"][name] == pytest.approx(np.std(values, ddof=1))

    report_folder(folder)
    page = (folder / "report.html").read_text()
    assert 'id="folds-table"' in page
    assert "FOLDS: 3" in page  # the config
    assert "config is not known" not in page
    report = read(folder / "report" / "report.json")
    assert report["folds"] == summary
    assert not any("problem" in hit for hit in report["mistakes"])
    assert not [note for note in report["notes"] if "no pictures" in note]


def test_what_cannot_be_is_refused_before_anything_is_written(runner, names):
    assert runner("run", *OPTIONS, "MODEL.RESUME", "some.pth") == 2
    assert "Or name the fold as well" in runner.text()
    assert runner("run", *OPTIONS, "TRAIN.MONITOR", "mAP") == 2
    assert not runner.run_dir("run").exists()
    assert runner("run", "--dry-run", *OPTIONS) == 0
    assert not runner.run_dir("run").exists()


def test_two_processes_make_the_same_folds_together(runner, names):
    assert runner("one", *OPTIONS, "DATA.BATCH_SIZE", "8") == 0
    status, output = runner.finish(runner.start("two", *OPTIONS, "DATA.BATCH_SIZE", "4", processes=2), timeout=300)
    assert status == 0, output
    one, two = (read(runner.run_dir(tag) / "folds.json") for tag in ("one", "two"))
    assert [row["images"] for row in one["folds"]] == [row["images"] for row in two["folds"]]
    assert one["mean"]["loss"] == pytest.approx(two["mean"]["loss"], rel=1e-3)

"""What a run takes for its best weights, and its end when they do not get better."""

import json

import numpy as np
import pytest
import sklearn.metrics as peer

from swin.engine import trainer
from swin.evaluation import EvalResult

LONG = ["TRAIN.EPOCHS", "9", "TRAIN.EMA.ENABLE", "True", "TRAIN.EMA.DECAY", "0.5"]


def status(runner, tag):
    return json.loads((runner.run_dir(tag) / "status.json").read_text())


@pytest.fixture
def losses(monkeypatch):
    """Makes every evaluation end with the loss that is listed for its number; the accuracy rises all the time."""
    listed: dict[int, float] = {}
    original = trainer.Trainer._evaluate_if_due

    def evaluate_if_due(self):
        epoch = self.progress.epoch
        result = EvalResult(epoch, epoch, 101, listed.get(epoch, 9.0), 3)
        monkeypatch.setattr(trainer, "evaluate", lambda *data, **more: (result, None))
        original(self)

    monkeypatch.setattr(trainer.Trainer, "_evaluate_if_due", evaluate_if_due)
    return listed


def test_a_run_ends_early_at_the_same_place_if_it_is_stopped_before(runner, losses, monkeypatch, assert_equal_state):
    losses |= {1: 2.0, 2: 1.0, 3: 1.5, 4: 1.0}
    options = ["--opts", *LONG, "TRAIN.MONITOR", "loss", "TRAIN.PATIENCE", "2"]
    assert runner("whole", *options) == 0
    text = runner.text()
    assert "early: after 4 of 9 epochs, since 2 evaluations in a row were not better (TRAIN.PATIENCE)" in text
    assert "lowest loss 1.0000" in text
    best, last = runner.checkpoint("whole", "best.pth"), runner.checkpoint("whole")
    assert (best["epoch"], best["monitor"], best["best"]) == (1, "loss", 1.0)
    assert (last["epoch"], last["waited"]) == (3, 2)
    found = status(runner, "whole")
    assert (found["state"], found["exit_code"]) == ("done", 0)
    assert "early" in found["message"]
    # The learning rates are those of all nine epochs.
    assert runner("longer", "--opts", *LONG) == 0
    rates = {tag: [row["lr"] for row in runner.rows(tag, "train")] for tag in ("whole", "longer")}
    assert rates["whole"] == rates["longer"][: len(rates["whole"])]

    third = runner.run_dir("whole") / "checkpoints" / "ckpt_epoch_2.pth"  # written before its evaluation
    assert runner("stopped", "--resume", str(third), *options) == 0
    assert_equal_state(last, runner.checkpoint("stopped"))

    runner.text()
    assert runner("whole", *options) == 0
    again = runner.text()
    assert "the run is done, after 4 of 9 epochs" in again
    assert "Raise TRAIN.PATIENCE to go on" in again
    assert_equal_state(last, runner.checkpoint("whole"))
    assert runner("whole", *options[:-1], "3") == 0
    assert runner.checkpoint("whole")["epoch"] == 4


def test_another_figure_on_resume_begins_the_comparison_anew(runner, losses):
    losses |= {1: 1.0, 2: 2.0}
    assert runner("run", "--opts", "TRAIN.EPOCHS", "1") == 0
    runner.text()
    assert runner("run", "--opts", "TRAIN.EPOCHS", "2", "TRAIN.MONITOR", "loss") == 0
    assert "was compared by acc1 and is by loss now" in runner.text()
    assert runner.checkpoint("run", "best.pth")["epoch"] == 1


def test_the_best_is_what_the_monitored_figure_says(runner):
    for monitor in ("balanced_accuracy", "macro_f1", "loss", "last"):
        assert runner(monitor, "--opts", "TRAIN.EPOCHS", "4", "TRAIN.MONITOR", monitor) == 0
        rows = runner.rows(monitor, "eval")
        values = [row["step"] if monitor == "last" else row[monitor] for row in rows]
        expected = values.index((min if monitor == "loss" else max)(values))
        assert runner.checkpoint(monitor, "best.pth")["epoch"] == expected
        with np.load(runner.run_dir(monitor) / "predictions.npz") as table:
            assert json.loads(str(table["about"]))["epoch"] == expected
            labels, preds = table["label"], table["pred"]
        assert rows[expected]["macro_f1"] == pytest.approx(peer.f1_score(labels, preds, average="macro"))
        assert rows[expected]["balanced_accuracy"] == pytest.approx(peer.balanced_accuracy_score(labels, preds))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("TRAIN.MONITOR", "mAP"), "these have one each; use one of acc1"),
        (("TRAIN.MONITOR", "last", "TRAIN.PATIENCE", "3"), "waits for a better evaluation"),
        (("TRAIN.MONITOR", "f1"), "expected one of acc1, balanced_accuracy, macro_f1, loss, mAP, last"),
    ],
)
def test_a_figure_that_cannot_be_used_is_refused_before_training(runner, options, message):
    assert runner("run", "--opts", *options) == 2
    assert message in runner.text()
    assert not runner.run_dir("run").exists()

"""TRAIN.MINUTES: what a run takes is measured without a trace, its length is fixed once, and it may end in an epoch."""

import json
import os
import signal

import pytest

from swin.engine import budget, run
from swin.engine.trainer import Trainer
from swin.logger import Logger
from tests.faults.test_run_nonfinite import break_updates

LENGTH = 78 + 78 + 24  # of the shapes: two epochs of ten updates, and three updates
MINUTES = ["TRAIN.MINUTES", "0.5"]
# Dropout takes the process's own random numbers.
FEATURES = [
    "TRAIN.EMA.ENABLE",
    "True",
    "TRAIN.EMA.DECAY",
    "0.9",
    "TRAIN.WARMUP_EPOCHS",
    "0.2",
    "MODEL.DROP_RATE",
    "0.1",
]
SPEEDS = ("images_per_sec", "data_wait")


@pytest.fixture
def lengths(monkeypatch) -> list[int]:
    """Have a run be as long as the last of these, not as the clock says; measuring is done, but only for a moment."""
    found = [LENGTH]

    def find(prices, cfg, progress, phases, seconds, *, has_val):
        assert min(prices.save_sec, prices.evaluation_sec, *(each.image_sec for each in prices.training.values())) > 0
        assert prices.training.keys() == {phase.img_size for phase in phases.phases}
        assert has_val
        return found[-1] if seconds else 0

    monkeypatch.setattr(budget, "_MOST_SEC", 0.05)
    monkeypatch.setattr(budget, "find_length", find)
    return found


def stop_at(patch, step: int) -> None:
    original = Logger.metrics

    def metrics(self, kind, **fields):
        original(self, kind, **fields)
        if kind == "train" and fields["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    patch.setattr(Logger, "metrics", metrics)


def status(runner, tag: str) -> dict:
    return json.loads((runner.run_dir(tag) / "status.json").read_text())


def rows(runner, tag: str) -> list[dict]:
    found = [*runner.rows(tag, "train"), *runner.rows(tag, "eval")]
    return [{key: value for key, value in row.items() if key not in SPEEDS} for row in found]


@pytest.mark.parametrize(
    "options",
    [
        ["DATA.NUM_WORKERS", "2"],
        ["TRAIN.OPTIMIZER.NAME", "sgd", "TRAIN.ACCUMULATION_STEPS", "2"],
        ["TRAIN.OPTIMIZER.NAME", "muon", "TRAIN.FREEZE", "[patch_embed]"],
        ["DATA.IMG_SIZE_SCHEDULE", "[[0.3, 16], [0.3, [24, 16]]]"],
    ],
    ids=" ".join,
)
def test_measuring_leaves_no_trace(runner, lengths, assert_equal_state, options, monkeypatch):
    assert runner("minutes", "--opts", *FEATURES, *options, *MINUTES) == 0
    monkeypatch.setattr(Trainer, "_find_length", known_length)
    assert runner("known", "--opts", *FEATURES, *options) == 0
    assert_equal_state(runner.checkpoint("minutes"), runner.checkpoint("known"))
    assert rows(runner, "minutes") == rows(runner, "known")


def known_length(self, content) -> int:
    self.is_length_known = True
    return LENGTH


def test_a_resumed_run_measures_nothing_and_goes_on_bit_for_bit(runner, lengths, assert_equal_state, monkeypatch):
    assert runner("whole", "--opts", *FEATURES, *MINUTES) == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 13)
        assert runner("parts", "--opts", *FEATURES, *MINUTES) == 3
    stopped = runner.checkpoint("parts")
    assert (stopped["epoch"], stopped["position"], stopped["total_samples"]) == (0, 24, LENGTH)
    with monkeypatch.context() as patch:
        patch.setattr(run, "fix_length", None)
        runner.text()
        assert runner("parts", "--opts", *FEATURES, *MINUTES) == 0
    assert f"trained for {stopped['seconds']:.1f} s of TRAIN.MINUTES 0.5" in runner.text(), "in the plan"
    assert_equal_state(runner.checkpoint("parts"), runner.checkpoint("whole"))
    assert rows(runner, "parts") == rows(runner, "whole")
    assert runner.checkpoint("parts")["seconds"] > stopped["seconds"] > 0


def test_the_end_in_an_epoch_is_evaluated_and_saved_and_more_minutes_go_on_there(runner, lengths):
    options = ["EVAL_FREQ", "2", "SAVE_FREQ", "2", "TRAIN.LR_SCHEDULER.NAME", "linear"]
    assert runner("run", "--opts", *options, *MINUTES) == 0
    text = runner.text()
    assert "steps: 2.3 epochs x 10 updates = 23, the first 0 of them warm-up; trained for" in text
    assert "done: best accuracy" in text
    assert f"trained for {status(runner, 'run')['seconds']:.1f} s of TRAIN.MINUTES 0.5, checkpoints in" in text
    assert [(row["epoch"], row["samples"]) for row in runner.rows("run", "eval")] == [(1, 156), (2, LENGTH)]
    rates = [row["lr"] for row in runner.rows("run", "train")]
    assert rates == pytest.approx([0.002 * (23 - step) / 23 for step in range(23)])
    checkpoints = runner.run_dir("run") / "checkpoints"
    assert sorted(path.name for path in checkpoints.glob("ckpt*")) == ["ckpt_epoch_1.pth", "ckpt_epoch_2.pth"]
    last = runner.checkpoint("run")
    assert (last["epoch"], last["position"], last["step"], last["evaluated"]) == (1, 24, 23, True)

    assert runner("run", "--opts", *options, *MINUTES) == 0
    assert "all 2.3 epochs are done; trained for" in (text := runner.text())
    assert "Raise TRAIN.MINUTES to go on" in text
    lengths.append(78 * 3 + 8)
    assert runner("run", "--opts", *options, "TRAIN.MINUTES", "0.7") == 0
    text = runner.text()
    assert "measured in" in text
    assert "TRAIN.MINUTES 0.5 -> 0.7" in text
    assert [row["samples"] for row in runner.rows("run", "train")][22:] == [180, 188, 196, 204, 212, 220, 228, 234, 242]
    assert runner.rows("run", "eval")[-1]["epoch"] == 3
    assert runner("run", "--opts", *options, "TRAIN.MINUTES", "0", "TRAIN.EPOCHS", "4") == 0
    assert runner.checkpoint("run")["epoch"] == 3
    assert "TRAIN.MINUTES" not in runner.text().rpartition("done:")[2]


def test_a_return_to_a_checkpoint_of_other_minutes_keeps_length_and_time(runner, lengths, monkeypatch):
    assert runner("run", "--opts", "TRAIN.EPOCHS", "1") == 0
    break_updates(monkeypatch, *range(12, 40), above_lr=0.0011)
    options = ["TRAIN.LR_SCHEDULER.NAME", "constant", "TRAIN.MAX_NONFINITE", "2", "TRAIN.ROLLBACK", "1"]
    before = runner.checkpoint("run")["seconds"]
    assert runner("run", "--opts", *options, *MINUTES) == 0
    assert "(TRAIN.ROLLBACK 1 of 1)" in runner.text()
    last = runner.checkpoint("run")
    assert (last["step"], last["total_samples"]) == (23, LENGTH)
    assert last["seconds"] > before


def test_a_run_of_minutes_may_end_early(runner, lengths):
    # Rates of nothing: no evaluation is better than the first.
    options = ["TRAIN.PATIENCE", "1", "TRAIN.BASE_LR", "1e-30"]
    assert runner("run", "--opts", *options, *MINUTES) == 0
    assert "early: after 2 of 2.3 epochs, since 1 evaluation was not better" in runner.text()


def test_each_fold_has_its_minutes(runner, lengths):
    runner.data /= "train"
    lengths.append(52 + 8)
    assert runner("folds", "--opts", "DATA.FOLDS", "3", *MINUTES) == 0
    text = runner.text()
    assert text.count("measured in") == 3
    tables = json.loads((runner.run_dir("folds") / "folds.json").read_text())["folds"]
    assert {table["best_epoch"] for table in tables} <= {0, 1}


def test_a_dry_run_measures_and_writes_nothing(runner, lengths, capsys):
    assert runner("run", "--dry-run", "--opts", *MINUTES) == 0
    text = runner.text()
    assert "measured in" in text
    assert "steps: 2.3 epochs x 10 updates = 23" in text
    assert not runner.run_dir("run").exists()


def test_the_clock_decides_how_long_a_run_is(runner, monkeypatch):
    monkeypatch.setattr(budget, "_SHARE", 0.02)
    assert runner("run", "--opts", "TRAIN.MINUTES", "0.05", "EVAL_FREQ", "100", "SAVE_FREQ", "100") == 0
    last = runner.checkpoint("run")
    assert last["total_samples"] == (last["epoch"] + 1) * 78 + last["position"] > 0
    assert last["seconds"] > 0.1
    assert runner("short", "--opts", "TRAIN.MINUTES", "1e-6") == 0
    assert "one update is all that TRAIN.MINUTES 1e-06 leave time for" in runner.text()
    assert runner.checkpoint("short")["step"] == 1

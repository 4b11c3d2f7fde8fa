"""Updates that are not finite: nothing is saved from the first on, and a run ends or goes back at its last good one."""

import json
import os
import signal

import pytest
import torch

from swin.engine import trainer
from swin.engine.trainer import Trainer
from swin.evaluation import EvalResult

FIVE_UPDATES = ["--batch-size", "16", "--opts"]  # an epoch: 78 images, the last update has 14
WARM = ["TRAIN.WARMUP_EPOCHS", "1", "TRAIN.WARMUP_LR", "0.0", "TRAIN.CLIP_GRAD", "0.0"]


def break_updates(patch, *steps: int, above_lr: float = 0.0) -> None:
    """Make the losses of updates, counted from 0, NaN, as long as the learning rate is above some value."""
    whole_step = trainer.train_step

    def step(state, number, batches, lr, *more):
        loss = state.objective.loss
        if number in steps and lr > above_lr:
            state.objective.loss = lambda logits, targets: loss(logits, targets) * torch.nan
        try:
            return whole_step(state, number, batches, lr, *more)
        finally:
            state.objective.loss = loss

    patch.setattr(trainer, "train_step", step)


def record_saves(patch) -> list[int]:
    """The updates that checkpoints are made of, from now on."""
    saved, checkpoint = [], Trainer.checkpoint

    def record(self):
        saved.append(self.progress.step)
        return checkpoint(self)

    patch.setattr(Trainer, "checkpoint", record)
    return saved


def status(runner, tag: str) -> dict:
    return json.loads((runner.run_dir(tag) / "status.json").read_text())


def test_nothing_is_saved_in_a_streak_though_epochs_end_in_it(runner, monkeypatch) -> None:
    saved = record_saves(monkeypatch)
    break_updates(monkeypatch, *range(7, 30))
    options = ["TRAIN.EPOCHS", "6", "SAVE_FREQ_STEPS", "1", "TRAIN.MAX_NONFINITE", "10", "PRINT_FREQ", "100"]
    assert runner("run", *FIVE_UPDATES, *options) == 4
    last = runner.run_dir("run") / "checkpoints" / "last.pth"
    text = runner.text()
    # Epochs end after updates 10 and 15, within the streak, which begins with the 8th and ends the run with the 17th.
    assert max(saved) == runner.checkpoint("run")["step"] <= 7
    assert "not finite in 10 updates in a row up to step 17 (epoch 3)" in text
    assert f"the last good checkpoint is {last}" in text
    assert status(runner, "run")["exit_code"] == 4


def test_every_saved_weight_is_from_before_a_streak_that_a_high_rate_makes(runner) -> None:
    options = [*WARM, "TRAIN.BASE_LR", "1e30", "SAVE_FREQ_STEPS", "1", "PRINT_FREQ", "100", "TRAIN.EPOCHS", "4"]
    assert runner("run", *FIVE_UPDATES, *options) == 4
    text = runner.text()
    # The first update has rate 0 and the second ruins the weights: 10 bad ones follow, whatever PRINT_FREQ is.
    assert "not finite in 10 updates in a row up to step 12" in text
    assert runner.checkpoint("run")["step"] <= 2


def test_the_listed_samples_are_those_of_the_last_update_alone(runner, monkeypatch) -> None:
    break_updates(monkeypatch, 3, 4)
    assert runner("run", *FIVE_UPDATES, "TRAIN.MAX_NONFINITE", "2") == 4
    files = (runner.run_dir("run") / "nonfinite_batch.txt").read_text().splitlines()
    assert len(set(files)) == 78 - 4 * 16


def test_a_streak_before_any_checkpoint_says_so(runner, monkeypatch) -> None:
    break_updates(monkeypatch, *range(9))
    assert runner("run", *FIVE_UPDATES, "TRAIN.MAX_NONFINITE", "3", "TRAIN.ROLLBACK", "2") == 4
    assert "no checkpoint had been written yet" in runner.text()
    assert not (runner.run_dir("run") / "checkpoints").exists()


def test_a_checkpoint_of_an_earlier_start_is_not_called_good(runner, monkeypatch) -> None:
    assert runner("run", *FIVE_UPDATES, "TRAIN.EPOCHS", "3") == 0
    first = runner.run_dir("run") / "checkpoints" / "ckpt_epoch_0.pth"
    runner.text()
    break_updates(monkeypatch, *range(5, 9))
    options = ["TRAIN.EPOCHS", "3", "TRAIN.MAX_NONFINITE", "2", "TRAIN.ROLLBACK", "1"]
    assert runner("run", "--resume", str(first), *FIVE_UPDATES, *options) == 4
    text = runner.text()
    # last.pth is still the one of the run that was left: two epochs ahead.
    assert f"Going back to {first} (TRAIN.ROLLBACK 1 of 1)" in text
    assert text.count(f"the last good checkpoint is {first}") == 2


def test_an_accuracy_that_is_not_saved_is_not_the_best_to_beat(runner, monkeypatch) -> None:
    break_updates(monkeypatch, 4)  # the last of the first epoch
    falling = iter([EvalResult(correct1=60, correct5=100, seen=101, loss=1.0, k=3), EvalResult(50, 100, 101, 1.0, 3)])
    monkeypatch.setattr(trainer, "evaluate", lambda *data, **more: (next(falling), None))
    assert runner("run", *FIVE_UPDATES, "TRAIN.EPOCHS", "2") == 0
    best = runner.checkpoint("run", "best.pth")
    assert (best["step"], best["best"]) == (10, pytest.approx(100 * 50 / 101))


def test_a_run_whose_end_is_not_finite_does_not_call_itself_done(runner, monkeypatch) -> None:
    break_updates(monkeypatch, 9)
    assert runner("run", *FIVE_UPDATES, "TRAIN.EPOCHS", "2") == 4
    text = runner.text()
    assert "the run's last updates were not finite, so that its end is not saved; the last good checkpoint is" in text
    assert runner.checkpoint("run")["epoch"] == 0
    assert status(runner, "run")["state"] == "failed"


def test_a_dry_run_whose_update_is_not_finite_says_so(runner) -> None:
    assert runner("run", "--dry-run", "--opts", "DATA.STD", "[1e-45, 1e-45, 1e-45]") == 4
    text = runner.text()
    assert "dry run: loss or gradients of the update were not finite" in text
    assert not runner.run_dir("run").exists()


ROLLBACK = [*FIVE_UPDATES, "TRAIN.EPOCHS", "4", "TRAIN.MAX_NONFINITE", "3", "SAVE_FREQ_STEPS", "1", "TRAIN.ROLLBACK"]
CONSTANT = ["TRAIN.LR_SCHEDULER.NAME", "constant", "TRAIN.BASE_LR", "0.002"]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_rollback_halves_the_rate_until_updates_are_finite_again(runner, monkeypatch, workers) -> None:
    break_updates(monkeypatch, *range(7, 30), above_lr=0.0007)
    assert runner("run", *ROLLBACK, "3", *CONSTANT, "DATA.NUM_WORKERS", workers) == 0
    text = runner.text()
    assert "(TRAIN.ROLLBACK 1 of 3); from there the learning rate is 0.5 of the planned one" in text
    assert "(TRAIN.ROLLBACK 2 of 3); from there the learning rate is 0.25 of the planned one" in text
    rows = runner.rows("run", "train")
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert [row["lr"] for row in rows][7:] == [0.0005] * 13
    assert runner.checkpoint("run")["rollbacks"] == 2


def test_no_more_rollbacks_than_allowed(runner, monkeypatch) -> None:
    saved = record_saves(monkeypatch)
    break_updates(monkeypatch, *range(7, 30))
    assert runner("run", *ROLLBACK, "2", *CONSTANT) == 4
    assert runner.text().count("Going back to") == 2
    assert max(saved) <= 7
    assert [row["step"] for row in runner.rows("run", "train")] == list(range(1, 8))


def stop_after(patch, number: int) -> None:
    """Ask for a stop in the update of a number, counted from 1."""
    whole_step = trainer.train_step

    def step(state, done, *more):
        if done + 1 == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole_step(state, done, *more)

    patch.setattr(trainer, "train_step", step)


def test_a_stop_in_a_streak_does_not_say_that_it_is_saved(runner, monkeypatch) -> None:
    break_updates(monkeypatch, *range(9))
    stop_after(monkeypatch, 3)
    assert runner("run", *FIVE_UPDATES) == 3
    text = runner.text()
    assert "the last updates were not finite and are not saved; no checkpoint had been written yet" in text
    assert "everything is saved" not in text


def test_the_number_of_rollbacks_survives_a_stop(runner, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        break_updates(patch, *range(7, 30), above_lr=0.0015)
        stop_after(patch, 12)
        assert runner("run", *ROLLBACK, "1", *CONSTANT) == 3
    stopped = runner.checkpoint("run")
    assert (stopped["step"], stopped["rollbacks"]) == (12, 1)
    runner.text()
    break_updates(monkeypatch, *range(15, 30))
    assert runner("run", *ROLLBACK, "1", *CONSTANT) == 4
    text = runner.text()
    assert "now x 0.5 after 1 returns (TRAIN.ROLLBACK)" in text
    assert "Going back to" not in text  # the one that is allowed was before the stop
    assert {row["lr"] for row in runner.rows("run", "train")[7:]} == {0.001}


@pytest.mark.slow
def test_two_processes_go_back_together(runner) -> None:
    # The rate ruins the weights at once; half of it does too.
    options = [*WARM, "TRAIN.BASE_LR", "1e30", "TRAIN.MAX_NONFINITE", "3", "TRAIN.EPOCHS", "4"]
    options += ["SAVE_FREQ_STEPS", "1", "TRAIN.ROLLBACK", "2"]
    process = runner.start("run", "--batch-size", "8", "--opts", *options, processes=2)
    _, output = runner.finish(process)
    assert output.count("Going back to") == 2, output
    assert "not finite in 3 updates in a row" in output
    assert status(runner, "run")["exit_code"] == 4
    steps = [row["step"] for row in runner.rows("run", "train")]
    assert steps == sorted(set(steps))
    assert runner.checkpoint("run")["step"] <= 2

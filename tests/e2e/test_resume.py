"""A run that stops anywhere and continues ends in the same bits as one that does not stop."""

import os
import signal

import pytest

FEATURES = ["TRAIN.EMA.ENABLE", "True", "TRAIN.EMA.DECAY", "0.9", "TRAIN.ACCUMULATION_STEPS", "2", "TRAIN.EPOCHS", "4"]


def stop_at(monkeypatch, step: int) -> None:
    """Send this process a SIGTERM when the given update is recorded."""
    from swin.logger import Logger

    original = Logger.metrics

    def metrics(self, kind, **fields):
        original(self, kind, **fields)
        if kind == "train" and fields["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Logger, "metrics", metrics)


@pytest.mark.parametrize(
    ("workers", "optimizer"),
    [("0", "adamw"), ("2", "adamw"), ("0", "muon"), ("0", "timm:adan"), ("0", "schedulefree")],
)
def test_4_epochs_equal_2_and_2_and_a_stop_in_the_middle_of_an_epoch(
    runner, assert_equal_state, monkeypatch, workers, optimizer
):
    options = ["--opts", *FEATURES, "DATA.NUM_WORKERS", workers, "TRAIN.OPTIMIZER.NAME", optimizer]
    if optimizer == "schedulefree":  # which has an average of its own, and no schedule
        options += ["TRAIN.EMA.ENABLE", "False", "TRAIN.LR_SCHEDULER.NAME", "constant"]
    assert runner("whole", *options) == 0
    whole = runner.checkpoint("whole")
    assert whole["step"] == 4 * 5  # 78 images in updates of 16: 4 whole ones and the tail of 14

    half = runner.run_dir("whole") / "checkpoints" / "ckpt_epoch_1.pth"
    assert runner("continued", "--resume", str(half), *options) == 0
    assert_equal_state(whole, runner.checkpoint("continued"))

    with monkeypatch.context() as patch:
        stop_at(patch, step=7)
        assert runner("stopped", *options) == 3
    stopped = runner.checkpoint("stopped")
    assert (stopped["epoch"], stopped["position"], stopped["step"]) == (0, 32, 7)
    assert "everything is saved" in runner.text()
    assert runner("stopped", *options) == 0
    assert_equal_state(whole, runner.checkpoint("stopped"))
    losses = {tag: [row["loss"] for row in runner.rows(tag, "train")] for tag in ("whole", "stopped")}
    assert losses["whole"] == losses["stopped"]
    assert [row["correct1"] for row in runner.rows("whole", "eval")] == [
        row["correct1"] for row in runner.rows("stopped", "eval")
    ]


def test_a_killed_process_continues_from_its_last_save(runner, assert_equal_state):
    options = ["--opts", "TRAIN.EPOCHS", "3", "SAVE_FREQ_STEPS", "3", "DATA.NUM_WORKERS", "2", "DATA.BATCH_SIZE", "4"]
    assert runner("whole", *options) == 0
    process = runner.start("killed", *options)
    runner.wait_for_rows("killed", 26)
    process.kill()
    runner.finish(process)
    assert runner("killed", *options) == 0
    assert "resuming from" in runner.text()
    assert_equal_state(runner.checkpoint("whole"), runner.checkpoint("killed"))


def test_ctrl_c_saves_and_exits_with_3(runner):
    process = runner.start("interrupted", "--opts", "TRAIN.EPOCHS", "200", "DATA.NUM_WORKERS", "2")
    runner.wait_for_rows("interrupted")
    process.send_signal(signal.SIGINT)
    status, output = runner.finish(process)
    assert status == 3, output
    assert "stopped by SIGINT" in output
    assert "Traceback" not in output
    assert runner.checkpoint("interrupted")["step"] > 0


def test_explicit_resume_beats_automatic_and_a_finished_run_says_so(runner):
    assert runner("run") == 0
    assert runner("run") == 0
    text = runner.text()
    assert "TRAIN.AUTO_RESUME" in text
    assert "all 2 epochs are done" in text
    first = runner.run_dir("run") / "checkpoints" / "ckpt_epoch_0.pth"
    assert runner("run", "--resume", str(first)) == 0
    assert f"resuming from {first}, because --resume names it" in runner.text()


def test_evaluation_never_resumes_by_itself(runner):
    assert runner("run") == 0
    assert runner("run", "--eval") == 2
    assert "add --resume FILE" in runner.text()


def test_a_truncated_newest_checkpoint_falls_back_to_the_one_before(runner, assert_equal_state):
    options = ["--opts", "TRAIN.EPOCHS", "3"]
    assert runner("whole", *options) == 0
    folder = runner.run_dir("whole") / "checkpoints"
    whole = runner.checkpoint("whole")
    newest = folder / "last.pth"
    content = newest.read_bytes()
    for name in ("last.pth", "ckpt_epoch_2.pth"):
        (folder / name).unlink()
        (folder / name).write_bytes(content[: len(content) // 2])
    runner.text()
    assert runner("whole", *options) == 0
    text = runner.text()
    assert "truncated, damaged" in text
    assert "ckpt_epoch_1.pth, the newest" in text
    assert_equal_state(whole, runner.checkpoint("whole"))


def test_only_the_last_checkpoints_and_the_best_are_kept(runner):
    assert runner("run", "--opts", "TRAIN.EPOCHS", "4", "SAVE_KEEP", "2") == 0
    names = {path.name for path in (runner.run_dir("run") / "checkpoints").iterdir()}
    assert names == {"last.pth", "best.pth", "ckpt_epoch_2.pth", "ckpt_epoch_3.pth"}

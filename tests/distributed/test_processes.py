"""Several processes do what one does."""

import json
import os
import shutil
import signal
import subprocess

import pytest

from swin.engine import budget


def finish(runner, process):
    status, output = runner.finish(process)
    assert status == 0, output
    return output


def test_two_processes_give_the_losses_of_one_with_the_same_global_batch(runner):
    options = ["--opts", "AUG.MIXUP", "0", "AUG.CUTMIX", "0", "MODEL.DROP_PATH_RATE", "0", "TRAIN.EPOCHS", "2"]
    # 3 x 8 = 24 samples an update: 78 images leave a tail of 6.
    assert runner("one", "--batch-size", "8", "--accumulation-steps", "3", *options) == 0
    two = runner.start("two", "--batch-size", "4", "--accumulation-steps", "3", *options, processes=2)
    finish(runner, two)
    one, two = (runner.rows(tag, "train") for tag in ("one", "two"))
    assert [row["step"] for row in one] == [row["step"] for row in two] == list(range(1, 9))
    # Sums of the same float32 numbers in another order; after 8 updates of AdamW they have grown to about 1e-5.
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=2e-4)
    assert [row["grad_norm"] for row in two] == pytest.approx([row["grad_norm"] for row in one], rel=5e-3)


def test_two_processes_agree_on_the_length_of_a_run_of_minutes(runner, monkeypatch):
    options = ["AUG.MIXUP", "0", "AUG.CUTMIX", "0", "MODEL.DROP_PATH_RATE", "0", "EVAL_FREQ", "100", "SAVE_FREQ", "100"]
    two = runner.start("two", "--batch-size", "4", "--opts", *options, "TRAIN.MINUTES", "0.03", processes=2)
    assert "measured in" in finish(runner, two)
    length = runner.checkpoint("two")["total_samples"]
    monkeypatch.setattr(budget, "find_length", lambda *args, **more: length)
    assert runner("one", "--batch-size", "8", "--opts", *options, "TRAIN.MINUTES", "0.03") == 0
    one, two = (runner.rows(tag, "train") for tag in ("one", "two"))
    assert one[-1]["samples"] == two[-1]["samples"] == length
    assert [row["lr"] for row in two] == [row["lr"] for row in one]
    # Rounding grows with the updates; how many there are depends on the machine.
    assert [row["loss"] for row in two[:8]] == pytest.approx([row["loss"] for row in one[:8]], rel=2e-4)


def test_evaluation_counts_do_not_depend_on_processes_or_batch_size(runner):
    assert runner("run") == 0
    best = str(runner.run_dir("run") / "checkpoints" / "best.pth")
    counts, figures = [], []
    for processes, batch in [(0, "1"), (0, "7"), (0, "64"), (2, "7"), (3, "64")]:
        arguments = ["--eval", "--resume", best, "--batch-size", batch]
        if processes:
            finish(runner, runner.start("run", *arguments, processes=processes))
        else:
            assert runner("run", *arguments) == 0
        result = json.loads((runner.run_dir("run") / "eval.json").read_text())
        counts.append((result["correct1"], result["correct5"], result["seen"], round(result["loss"], 4)))
        figures.append(json.loads((runner.run_dir("run") / "eval" / "metrics.json").read_text()))
    assert counts[0][2] == 101
    assert len(set(counts)) == 1, counts
    for other in figures[1:]:
        assert other.keys() == figures[0].keys()
        for key in ("confusion", "confused", "per_class", "intervals", "macro_f1", "balanced_accuracy"):
            assert other[key] == figures[0][key], key
        # Logits depend on the size of a batch in the last bits.
        assert [other[key] for key in ("ece", "mce", "temperature_ece")] == pytest.approx(
            [figures[0][key] for key in ("ece", "mce", "temperature_ece")], abs=1e-5
        )


def test_a_tail_smaller_than_the_number_of_processes_works(runner, shapes, tmp_path):
    # Of 77 images the last update has one, so that the second process has none of its own.
    fewer = tmp_path / "fewer"
    shutil.copytree(shapes, fewer)
    (fewer / "train" / "cross" / "003.png").unlink()
    options = ["--data-path", str(fewer), "--opts", "TRAIN.EPOCHS", "1"]
    assert runner("one", "--batch-size", "4", *options) == 0
    finish(runner, runner.start("tail", "--batch-size", "2", *options, processes=2))
    one, tail = (runner.rows(tag, "train") for tag in ("one", "tail"))
    assert [row["samples"] for row in tail] == [row["samples"] for row in one] == [*range(4, 77, 4), 77]
    assert [row["loss"] for row in tail] == pytest.approx([row["loss"] for row in one], rel=2e-4)


def test_a_signal_to_one_process_stops_all_with_everything_saved(runner):
    process = runner.start("run", "--opts", "TRAIN.EPOCHS", "300", processes=2)
    runner.wait_for_rows("run")
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGTERM)  # and not torchrun, which would send it to both
    _, output = runner.finish(process)
    assert "everything is saved" in output
    assert output.count("stopped by a signal to another process") + output.count("stopped by SIGTERM") >= 1
    assert runner.checkpoint("run")["step"] > 0
    status = json.loads((runner.run_dir("run") / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("stopped", 3)

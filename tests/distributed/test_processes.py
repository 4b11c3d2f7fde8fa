"""Several processes do what one does."""

import json
import signal
import time

import pytest


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


def test_evaluation_counts_do_not_depend_on_processes_or_batch_size(runner):
    assert runner("run") == 0
    best = str(runner.run_dir("run") / "checkpoints" / "best.pth")
    counts = []
    for processes, batch in [(0, "1"), (0, "7"), (0, "64"), (2, "7"), (3, "64")]:
        arguments = ["--eval", "--resume", best, "--batch-size", batch]
        if processes:
            finish(runner, runner.start("run", *arguments, processes=processes))
        else:
            assert runner("run", *arguments) == 0
        result = json.loads((runner.run_dir("run") / "eval.json").read_text())
        counts.append((result["correct1"], result["correct5"], result["seen"], round(result["loss"], 4)))
    assert counts[0][2] == 101
    assert len(set(counts)) == 1, counts


def test_a_tail_smaller_than_the_number_of_processes_works(runner):
    # 78 = 6 x 13 images; updates of 7 x 11 = 77 leave one sample for 7 processes... here 2 processes and updates of 77.
    process = runner.start("tail", "--batch-size", "7", "--opts", "TRAIN.ACCUMULATION_STEPS", "11", processes=2)
    finish(runner, process)
    assert [row["step"] for row in runner.rows("tail", "train")] == [1, 2]


def test_a_signal_to_one_process_stops_all_with_everything_saved(runner):
    process = runner.start("run", "--opts", "TRAIN.EPOCHS", "300", processes=2)
    log = runner.run_dir("run") / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, output = runner.finish(process)
    assert "everything is saved" in output
    assert runner.checkpoint("run")["step"] > 0

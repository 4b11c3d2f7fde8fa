"""A run that is killed a hundred times, anywhere, ends as one that nothing happened to."""

import os
import random
import signal
import subprocess
import time

import pytest

OPTIONS = ["--batch-size", "4", "--accumulation-steps", "2", "--opts", "TRAIN.EPOCHS", "40", "SAVE_FREQ_STEPS", "3"]
OPTIONS += ["TRAIN.EMA.ENABLE", "True", "TRAIN.EMA.DECAY", "0.9", "DATA.NUM_WORKERS", "1", "EVAL_FREQ", "2"]


def descendants(root: int) -> list[int]:
    found = [root]
    for pid in found:
        found += map(int, subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split())
    return found


def kill_all(root: int) -> None:
    """SIGKILL to a process and all below it, the highest first, so that none has time to tell another."""
    for pid in descendants(root):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_until(process, condition, limit_sec: float) -> None:
    deadline = time.monotonic() + limit_sec
    while process.poll() is None and time.monotonic() < deadline and not condition():
        time.sleep(0.0005)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills"), [(0, 67), (2, 33)])
def test_a_hundred_kills_change_nothing(runner, assert_equal_state, processes, kills):
    draw = random.Random(0)
    status, output = runner.finish(runner.start("whole", *OPTIONS, processes=processes), timeout=600)
    assert status == 0, output
    folder = runner.run_dir("killed")
    rows, writing = folder / "metrics.jsonl", lambda: list((folder / "checkpoints").glob(".*.tmp"))
    struck, in_saves, in_evaluations = 0, 0, 0
    for number in range(10 * kills):
        if struck == kills:
            break
        process = runner.start("killed", *OPTIONS, processes=processes)
        size = rows.stat().st_size if rows.exists() else 0
        wait_until(process, lambda size=size: rows.exists() and rows.stat().st_size != size, 60)
        aim = number % 3
        if aim == 0:  # in a save: while the temporary file is there
            wait_until(process, writing, 5)
        elif aim == 1:  # in an evaluation: between the last row of an epoch and what follows it
            wait_until(process, lambda: b"[78/78]" in (folder / "log.txt").read_bytes()[-200:], 5)
            time.sleep(draw.uniform(0, 0.05))
        else:
            time.sleep(draw.uniform(0, 0.3))
        if process.poll() is None:
            in_saves += bool(writing())
            in_evaluations += b"[78/78]" in (folder / "log.txt").read_bytes()[-200:]
            kill_all(process.pid)
            struck += 1
        output, _ = process.communicate(timeout=60)
        assert "Traceback" not in output, output
    print(f"{struck} kills, {in_saves} in saves, {in_evaluations} at the end of an epoch")
    status, output = runner.finish(runner.start("killed", *OPTIONS, processes=processes), timeout=600)
    assert status == 0, output
    for name in ("last.pth", "best.pth", "ckpt_epoch_39.pth"):
        assert_equal_state(runner.checkpoint("whole", name), runner.checkpoint("killed", name))
    assert not writing()
    for kind in ("train", "eval"):
        whole, killed = ([(row["step"], row["loss"]) for row in runner.rows(tag, kind)] for tag in ("whole", "killed"))
        assert whole == killed
    assert struck == kills

"""scripts/train_slurm.sh with stand-ins for SLURM's commands: what goes back into the queue, and what does not."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

STAND_INS = {
    "srun": 'echo $$ >"$STUBS/launcher"\nexec "$@"\n',
    "scontrol": '[ "$1" = show ] && echo localhost\n[ "$1" = requeue ] && echo "$2" >>"$STUBS/requeued"\ntrue\n',
}


def free_job() -> int:
    """The number of a job whose port, which follows from it, is free."""
    for number in random.sample(range(20000), 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", 20000 + number)):
                return number
    raise AssertionError("a hundred ports are in use")


class Job:
    """One job of a cluster with a single machine and a single process."""

    def __init__(self, runner, tag: str, *more: str) -> None:
        self.folder, self.runner, self.tag = runner.folder / "stubs", runner, tag
        self.folder.mkdir(exist_ok=True)
        for name, body in STAND_INS.items():
            (self.folder / name).write_text(f"#!/usr/bin/env bash\n{body}")
            (self.folder / name).chmod(0o755)
        (self.folder / "requeued").unlink(missing_ok=True)
        path = f"{self.folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        given = {"PATH": path, "STUBS": str(self.folder), "OMP_NUM_THREADS": "1", "SLURM_SUBMIT_DIR": str(ROOT)}
        given |= {"SLURM_JOB_ID": str(free_job()), "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "localhost"}
        given |= {"SLURM_GPUS_ON_NODE": "1"}
        arguments = [str(runner.data), "--batch-size", "8", *runner.arguments(tag, *more)]
        self.process = subprocess.Popen(
            ["bash", str(ROOT / "scripts" / "train_slurm.sh"), *arguments],
            env={**os.environ, **given},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for_rows(self, count: int) -> None:
        log = self.runner.run_dir(self.tag) / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while not (log.exists() and log.read_text().count("\n") >= count):
            assert self.process.poll() is None, self.process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def launcher(self) -> int:
        return int((self.folder / "launcher").read_text())

    def finish(self) -> tuple[int, bool, str]:
        """Exit status, whether the job goes back into the queue, and what was printed."""
        output, _ = self.process.communicate(timeout=120)
        return self.process.returncode, (self.folder / "requeued").exists(), output


def test_a_stopped_run_goes_back_and_a_done_one_does_not(runner):
    options = ["--opts", "TRAIN.EPOCHS", "30", "DATA.NUM_WORKERS", "1"]
    job = Job(runner, "run", *options)
    job.wait_for_rows(20)
    begin = time.monotonic()
    os.kill(job.launcher(), signal.SIGTERM)
    status, is_requeued, output = job.finish()
    assert (status != 0, is_requeued) == (True, True), output
    assert "everything is saved" in output
    assert time.monotonic() - begin < 30
    assert Job(runner, "run", *options).finish()[:2] == (0, False)


def test_an_error_does_not_go_back(runner):
    status, is_requeued, output = Job(runner, "typo", "--opts", "TRAIN.BSAE_LR", "1").finish()
    assert (status, is_requeued) == (2, False)
    assert "did you mean TRAIN.BASE_LR" in output
    assert not runner.run_dir("typo").exists()
    status, is_requeued, output = Job(runner, "bad", "--opts", "MODEL.NUM_CLASSES", "7").finish()
    assert (status != 0, is_requeued) == (True, False), output
    diverging = ["--opts", "TRAIN.BASE_LR", "1e30", "TRAIN.MAX_NONFINITE", "2", "TRAIN.CLIP_GRAD", "0"]
    status, is_requeued, output = Job(runner, "diverging", *diverging).finish()
    assert (status != 0, is_requeued) == (True, False), output


@pytest.mark.parametrize(("earlier", "expected"), [(2, True), pytest.param(3, False, marks=pytest.mark.slow)])
def test_a_killed_run_goes_back_but_not_for_ever(runner, earlier, expected):
    # Nothing is saved, so that each job would end where it began.
    options = ["TRAIN.EPOCHS", "300", "SAVE_FREQ", "1000", "EVAL_FREQ", "1000"]
    if earlier:
        runner.run_dir("killed").mkdir(parents=True)
        (runner.run_dir("killed") / "requeued.txt").write_text("job 1 running at sample 0\n" * earlier)
    job = Job(runner, "killed", "--opts", *options)
    job.wait_for_rows(5)
    children = subprocess.run(["pgrep", "-P", str(job.launcher())], capture_output=True, text=True).stdout.split()
    for child in map(int, children):
        os.kill(child, signal.SIGKILL)
    status, is_requeued, output = job.finish()
    assert (status != 0, is_requeued) == (True, expected), output
    assert "integer expression" not in output

"""Processes that differ in what they see, in speed, or in what they are told."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT


def start_rank(runner, rank: int, world_size: int, port: int, folder: Path, *arguments: str) -> subprocess.Popen:
    """One process of several, as a launcher would start it on a machine of its own."""
    variables = {
        "RANK": rank,
        "WORLD_SIZE": world_size,
        "LOCAL_RANK": rank,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *arguments],
        cwd=folder,
        env={**os.environ, **{key: str(value) for key, value in variables.items()}, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def command(runner, *more: str) -> list[str]:
    common = ["--cfg", str(runner.config), "--data-path", str(runner.data), "--output", "out", "--tag", "run"]
    return [*common, "--batch-size", "4", *more]


@pytest.fixture
def two_machines(runner, tmp_path) -> list[Path]:
    """Two folders, each with a finished run of its own under the same relative path, of another number of epochs."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, epochs in zip(folders, ("1", "2"), strict=True):
        folder.mkdir()
        assert runner("run", "--opts", "TRAIN.EPOCHS", epochs) == 0
        (folder / "out" / "tiny").mkdir(parents=True)
        shutil.move(runner.run_dir("run"), folder / "out" / "tiny" / "run")
    return folders


def run_both(runner, folders: list[Path], *more: str) -> list[tuple[int, str]]:
    port = free_port()
    processes = [
        start_rank(runner, rank, 2, port, folder, *command(runner, *more)) for rank, folder in enumerate(folders)
    ]
    return [runner.finish(process) for process in processes]


def test_processes_that_see_different_checkpoints_do_not_train_on(runner, two_machines):
    before = (two_machines[0] / "out/tiny/run/metrics.jsonl").read_bytes()
    results = run_both(runner, two_machines, "--opts", "TRAIN.EPOCHS", "3")
    assert [status for status, _ in results] == [2, 2], results
    assert "do not see the same checkpoint" in results[0][1]
    assert "process 1 found epoch 1" in results[0][1]
    assert "Traceback" not in results[0][1] + results[1][1]
    assert (two_machines[0] / "out/tiny/run/metrics.jsonl").read_bytes() == before


def test_a_process_that_cannot_read_the_checkpoint_is_named(runner, two_machines):
    shutil.rmtree(two_machines[1] / "out")
    results = run_both(runner, two_machines, "--opts", "TRAIN.EPOCHS", "3")
    assert [status for status, _ in results] == [2, 2], results
    assert "process 1 found checkpoint out/tiny/run/checkpoints/last.pth does not exist" in results[0][1]


def test_a_process_that_never_comes_is_a_message(runner, tmp_path):
    begin = time.monotonic()
    alone = start_rank(runner, 0, 2, free_port(), tmp_path, *command(runner, "--opts", "DIST_TIMEOUT", "5"))
    status, output = runner.finish(alone)
    assert status == 1, output
    assert time.monotonic() - begin < 60
    assert "error: Rank 0 waited for the other processes until the time-out before training began" in output
    assert "raise DIST_TIMEOUT" in output
    assert "Traceback" not in output
    assert not (tmp_path / "out").exists()


def slow(monkeypatch, **settings: object) -> None:
    """Make what is started from now on slow, see slow/sitecustomize.py."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "slow"))
    for name, value in settings.items():
        monkeypatch.setenv(f"SLOW_{name.upper()}", str(value))


@pytest.mark.parametrize(("what", "moment"), [("start", "start_sec"), ("data", "list_sec")])
def test_a_process_slower_than_the_time_out_is_named(runner, tmp_path, monkeypatch, what, moment):
    slow(monkeypatch, rank=1, **{moment: 30})
    port, given = free_port(), command(runner, "--opts", "DIST_TIMEOUT", "8")
    processes = [start_rank(runner, rank, 3, port, tmp_path, *given) for rank in range(3)]
    results = [runner.finish(processes[rank]) for rank in (0, 2)]
    processes[1].kill()
    processes[1].communicate()
    assert [status for status, _ in results] == [1, 1], results
    assert f"Not there after 8 s ({what}): rank 1." in results[0][1]
    assert "raise DIST_TIMEOUT" in results[0][1]
    for _, output in results:
        assert "gloo" not in output.lower()
        assert "Traceback" not in output


def test_a_restart_does_not_take_dead_processes_for_living_ones(runner, monkeypatch):
    """In torchrun's store are the addresses of the first start; the second rank 0 is later than rank 1."""
    slow(monkeypatch, rank=0, attempt=1, start_sec=3)
    monkeypatch.setenv("PET_MAX_RESTARTS", "1")
    process = runner.start("run", "--batch-size", "4", "--opts", "TRAIN.EPOCHS", "20", processes=2)
    runner.wait_for_rows("run", 15)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    status, output = runner.finish(process)
    assert status == 0, output
    assert output.count("resuming from") == 1


def children(process: int) -> list[int]:
    return [int(pid) for pid in subprocess.check_output(["pgrep", "-P", str(process)], text=True).split()]


def test_a_checkpoint_of_a_stop_that_takes_longer_than_the_time_out_is_finished(runner, monkeypatch):
    slow(monkeypatch, sync_sec=4)
    options = ["--batch-size", "4", "--opts", "TRAIN.EPOCHS", "200", "DIST_TIMEOUT", "6", "DATA.NUM_WORKERS", "1"]
    options += ["SAVE_FREQ", "200", "EVAL_FREQ", "200"]
    process = runner.start("stopped", *options, processes=2)
    runner.wait_for_rows("stopped", 12)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, output = runner.finish(process)
    assert 8 < time.monotonic() - begin < 30
    assert output.count("everything is saved") == 1
    status = json.loads((runner.run_dir("stopped") / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("stopped", 3)
    assert runner.checkpoint("stopped")["step"] == status["step"] >= 12


def test_a_checkpoint_that_takes_longer_than_the_time_out_does_not_end_the_run(runner, monkeypatch):
    slow(monkeypatch, sync_sec=5)  # one for the file and one for its folder, and so for each name
    options = ["--batch-size", "20", "--opts", "TRAIN.EPOCHS", "1", "DIST_TIMEOUT", "4"]
    status, output = runner.finish(runner.start("slow", *options, processes=2))
    assert status == 0, output
    assert json.loads((runner.run_dir("slow") / "status.json").read_text())["state"] == "done"


@pytest.mark.slow
@pytest.mark.parametrize("delay_sec", [0.05, 0.3, 0.8, 1.5, 2.5, 3.5])
def test_a_signal_before_training_is_a_word_and_3(runner, delay_sec):
    process = runner.start("early", "--opts", "TRAIN.EPOCHS", "2000")
    time.sleep(delay_sec)
    process.send_signal(signal.SIGTERM)
    status, output = runner.finish(process)
    if delay_sec < 0.1 and status == -signal.SIGTERM:
        pytest.skip("Python itself was not there yet")
    assert status == 3, output
    assert "before training began" in output or "everything is saved" in output
    assert "Traceback" not in output


def test_data_that_one_process_cannot_open_end_all_with_its_message(runner, shapes, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "mine").symlink_to(shapes)
    port, given = free_port(), command(runner, "--data-path", "mine")
    processes = [start_rank(runner, rank, 2, port, folder, *given) for rank, folder in enumerate(folders)]
    results = [runner.finish(process) for process in processes]
    assert [status for status, _ in results] == [2, 2], results
    assert "DATA.DATA_PATH mine does not exist" in results[0][1]
    assert results[1][1] == "", "one of them says it"


def test_a_failure_of_one_process_is_what_the_status_keeps(runner, shapes, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(shapes, broken)
    for number in range(13):  # one process or the other meets one in the first epoch; either may be the second
        (broken / "train" / "cross" / f"{number:03}.png").write_bytes(b"no image")
    process = runner.start("run", "--data-path", str(broken), "--batch-size", "4", processes=2)
    status, output = runner.finish(process)
    assert status == 1, output  # torchrun's own
    ended = json.loads((runner.run_dir("run") / "status.json").read_text())
    assert (ended["state"], ended["exit_code"]) == ("failed", 2), output
    assert "is not an image" in ended["message"]

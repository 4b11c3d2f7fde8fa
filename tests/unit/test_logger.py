"""What a run says: console, log.txt, metrics.jsonl and TensorBoard."""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from swin.errors import ConfigError
from swin.logger import Logger

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def make_logger():
    made = []

    def make(run_dir=None, is_main=True, step=0, **options):
        made.append(Logger(is_main=is_main))
        if run_dir is not None:
            made[-1].open(run_dir, step=step, **options)
        return made[-1]

    yield make
    for logger in made:
        logger.close()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def become_terminal(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", Terminal())
    return sys.stdout


def read_rows(path):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_messages_go_to_console_and_log_and_are_appended(make_logger, run_dir, capsys):
    for number in range(2):
        logger = make_logger(run_dir)
        logger.info(f"start {number}")
        logger.warning("few workers")
        logger.close()
    assert capsys.readouterr().out == "start 0\nwarning: few workers\nstart 1\nwarning: few workers\n"
    lines = (run_dir / "log.txt").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        "INFO start 0",
        "WARNING warning: few workers",
        "INFO start 1",
        "WARNING warning: few workers",
    ]


def test_colours_are_for_terminals_only(make_logger, run_dir, monkeypatch):
    stream = become_terminal(monkeypatch)
    logger = make_logger(run_dir)
    logger.warning("hot")
    logger.info("\x1b[32mgreen\x1b[0m")
    out = stream.getvalue()
    assert "\x1b[33mwarning: hot\x1b[0m" in out
    assert "\x1b[32mgreen" in out
    assert "\x1b" not in (run_dir / "log.txt").read_text()


def test_no_terminal_no_colours_and_no_bar(make_logger, capsys):
    logger = make_logger()
    logger.info("\x1b[32mgreen\x1b[0m")
    logger.progress(1, 2, "epoch 0")
    captured = capsys.readouterr()
    assert captured.out == "green\n"
    assert captured.err == ""


def test_a_bar_on_a_terminal(make_logger, monkeypatch):
    stream = become_terminal(monkeypatch)
    logger = make_logger()
    logger.progress(3, 10, "epoch 0")
    logger.info("a line")
    logger.progress(10, 10, "epoch 0")
    logger.progress(1, 10, "epoch 1")
    logger.close()
    out = stream.getvalue()
    assert "epoch 0:  30%" in out
    assert "a line\n" in out
    assert "epoch 1:  10%" in out


def test_messages_before_the_files_are_open_are_kept_with_their_times(make_logger, run_dir, monkeypatch):
    logger = make_logger()
    monkeypatch.setattr("time.strftime", lambda _: "2030-01-02 03:04:05")
    logger.info("early")
    assert not list(run_dir.iterdir())
    monkeypatch.setattr("time.strftime", lambda _: "2030-01-02 03:04:06")
    logger.open(run_dir, step=0)
    logger.info("late")
    assert (run_dir / "log.txt").read_text() == "2030-01-02 03:04:05 INFO early\n2030-01-02 03:04:06 INFO late\n"
    assert {path.name for path in run_dir.iterdir()} == {"log.txt", "metrics.jsonl", "tensorboard"}


def test_warnings_of_other_processes_are_shown_once_and_if_the_main_one_did_not(make_logger, run_dir, capsys):
    loggers = [make_logger(is_main=rank == 0) for rank in range(3)]
    for logger in loggers:
        logger.warning("few workers")
    for logger in loggers[1:]:
        logger.warning("a.jpg is empty")
        logger.error("not shown")
    assert [logger.warnings for logger in loggers] == [[], *[["few workers", "a.jpg is empty"]] * 2]
    for _ in range(2):
        loggers[0].show_warnings([logger.warnings for logger in loggers])
    captured = capsys.readouterr()
    assert captured.out == "warning: few workers\nwarning: process 1: a.jpg is empty\n"
    assert captured.err == ""


def test_any_message_can_be_written(make_logger, run_dir, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    logger = make_logger(run_dir)
    logger.info("caf\udce9 \0 \r é")
    logger.metrics("train", step=1, samples=1, file="caf\udce9")
    assert stream.buffer.getvalue() == b"caf\\udce9 \0 \r \\xe9\n"
    assert "INFO caf\\udce9 \0 \r é\n".encode() in (run_dir / "log.txt").read_bytes()
    assert read_rows(run_dir / "metrics.jsonl")[0]["file"] == "caf\udce9"


def run_script(script, *arguments, **options):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, text=True, stderr=subprocess.PIPE, timeout=60, **options)


TALK = """
import sys
from pathlib import Path
from swin.logger import Logger
logger = Logger(is_main=True)
logger.open(Path(sys.argv[1]), step=0)
for number in range(3):
    logger.info(f"line {number}")
logger.close()
"""


def test_a_console_whose_reader_has_gone_is_done_without(run_dir):
    reader, writer = os.pipe()
    os.close(reader)
    finished = run_script(TALK, run_dir, stdout=writer)
    os.close(writer)
    assert (finished.returncode, finished.stderr) == (0, "")
    lines = [line.split(" ", 2)[2] for line in (run_dir / "log.txt").read_text().splitlines()]
    gone = "WARNING warning: the console is gone (Broken pipe); going on without it"
    assert lines == [gone, "INFO line 0", "INFO line 1", "INFO line 2"]


def test_no_console_at_all(run_dir):
    finished = run_script("import sys; sys.stdout = None\n" + TALK, run_dir)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert (run_dir / "log.txt").read_text().count("INFO line") == 3


def test_metrics_are_json_lines_and_appended(make_logger, run_dir):
    logger = make_logger(run_dir)
    logger.metrics("train", epoch=0, step=10, samples=80, loss=0.5, lr=torch.tensor(0.25), grad_norm=math.nan, name="é")
    logger.close()
    logger = make_logger(run_dir, step=10)
    logger.metrics(
        "eval", epoch=0, step=10, samples=80, correct1=np.int64(3), worst=torch.tensor(math.inf), recall=[1.0, math.nan]
    )
    assert read_rows(run_dir / "metrics.jsonl") == [
        {
            "kind": "train",
            "epoch": 0,
            "step": 10,
            "samples": 80,
            "loss": 0.5,
            "lr": 0.25,
            "grad_norm": None,
            "name": "é",
        },
        {"kind": "eval", "epoch": 0, "step": 10, "samples": 80, "correct1": 3, "worst": None, "recall": [1.0, None]},
    ]


def test_numbers_reach_tensorboard_by_samples(make_logger, run_dir):
    logger = make_logger(run_dir)
    logger.metrics("train", epoch=0, step=10, samples=80, loss=0.5, grad_norm=math.nan)
    logger.metrics("train", epoch=0, step=20, samples=160, position=160, loss=0.25, grad_norm=2.0)
    logger.close()
    board = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == [(80, 0.5), (160, 0.25)]
    assert [(event.step, event.value) for event in board.Scalars("train/grad_norm")] == [(160, 2.0)]
    assert sorted(board.Tags()["scalars"]) == ["train/grad_norm", "train/loss"]


def curves(run_dir, tag):
    board = EventAccumulator(str(run_dir / "tensorboard"), purge_orphaned_data=True).Reload()
    return [(event.step, event.value) for event in board.Scalars(tag)]


def train_rows(logger, steps, loss):
    for step in steps:
        logger.metrics("train", step=step, samples=10 * step, loss=loss)


@pytest.mark.parametrize(("evaluated", "step"), [(True, 6), (False, 6), (True, 7)])
def test_a_resumed_run_has_each_update_and_evaluation_once_in_file_and_curves(make_logger, run_dir, evaluated, step):
    killed = make_logger(run_dir)
    train_rows(killed, range(1, 7), loss=1.0)
    killed.metrics("eval", step=3, samples=30, acc1=50.0)
    killed.metrics("eval", step=6, samples=60, acc1=60.0)
    train_rows(killed, range(7, 10), loss=1.0)
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 1')
    resumed = make_logger(run_dir, step=step, evaluated=evaluated)
    if not evaluated:
        resumed.metrics("eval", step=6, samples=60, acc1=70.0)
    train_rows(resumed, range(step + 1, 12), loss=2.0)

    losses = [(number, 1.0 if number <= step else 2.0) for number in range(1, 12)]
    accuracies = [(3, 50.0), (6, 60.0 if evaluated else 70.0)]
    rows = read_rows(run_dir / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows if row["kind"] == "train"] == losses
    assert [(row["step"], row["acc1"]) for row in rows if row["kind"] == "eval"] == accuracies
    assert curves(run_dir, "train/loss") == [(10 * number, loss) for number, loss in losses]
    assert curves(run_dir, "eval/acc1") == [(10 * number, accuracy) for number, accuracy in accuracies]
    assert {path.name for path in run_dir.iterdir()} == {"log.txt", "metrics.jsonl", "tensorboard"}


def test_the_curves_are_cut_though_the_process_that_cut_them_was_killed_before_the_file(
    make_logger, run_dir, monkeypatch
):
    train_rows(make_logger(run_dir), range(1, 4), loss=1.0)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("swin.records.write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            make_logger(run_dir, step=1)
    train_rows(make_logger(run_dir, step=1), range(2, 4), loss=2.0)
    assert curves(run_dir, "train/loss") == [(10, 1.0), (20, 2.0), (30, 2.0)]


def test_metrics_with_nothing_to_cut_are_not_written_again(make_logger, run_dir):
    train_rows(make_logger(run_dir), range(1, 4), loss=1.0)
    before = (run_dir / "metrics.jsonl").stat()
    make_logger(run_dir, step=3)
    assert (run_dir / "metrics.jsonl").stat() == before


def test_a_whole_last_line_without_its_end_is_kept(make_logger, run_dir):
    (run_dir / "metrics.jsonl").write_text('{"kind": "train", "step": 1}')
    train_rows(make_logger(run_dir, step=1), [2], loss=1.0)
    assert [row["step"] for row in read_rows(run_dir / "metrics.jsonl")] == [1, 2]


@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl", "tensorboard"])
@pytest.mark.parametrize("kind", ["folder", "file", "pipe", "device"])
def test_records_of_another_kind_are_one_line(make_logger, run_dir, name, kind):
    path = run_dir / name
    if (kind == "folder") == (name == "tensorboard"):
        kind = "file" if name == "tensorboard" else "folder"
    make = {
        "folder": path.mkdir,
        "file": path.touch,
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/full"),
    }
    make[kind]()
    with pytest.raises(ConfigError, match=rf"^[^\n]*{name} (is not a regular file|cannot be written)[^\n]*--output"):
        make_logger(run_dir)


@pytest.fixture
def mount_disk(run_dir):
    """Make the run's folder a small disk of its own, where this user may."""
    mounted = []

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(run_dir)]
        if os.name != "posix" or os.geteuid() or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no disk can be mounted here")
        mounted.append(run_dir)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_read_only_disk_is_one_line(make_logger, run_dir, mount_disk):
    mount_disk("ro")
    with pytest.raises(ConfigError, match=r"log\.txt cannot be written \(Read-only file system\); change --output\.$"):
        make_logger(run_dir)


FILL = """
import resource, sys
from pathlib import Path
from swin.errors import ConfigError
from swin.logger import Logger
run_dir, what = Path(sys.argv[1]), sys.argv[2]
logger = Logger(is_main=True)
logger.open(run_dir, step=0)
if sys.argv[3:] == ["limit"]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
fill = {
    "log.txt": lambda step: logger.info("x" * 1000),
    "metrics.jsonl": lambda step: logger.metrics("train", step=step, samples=step, text="x" * 1000),
    # The tag of a number takes more room than its line of the metrics.
    "tensorboard": lambda step: logger.metrics("train", step=step, samples=step, **{f"l{n}": 1 for n in range(20)}),
}[what]
try:
    for step in range(10_000):
        fill(step)
except ConfigError as error:
    logger.error(str(error))
    fill(0)
    logger.close()
    sys.exit(error.exit_code)
"""


def fill(run_dir, what, *options):
    finished = run_script(FILL, run_dir, what, *options, stdout=subprocess.DEVNULL)
    assert finished.returncode == 2, finished.stderr
    assert finished.stderr.count("\n") == 1
    assert finished.stderr.startswith(f"error: {run_dir / what}")
    assert finished.stderr.endswith("; free disk space or change --output.\n")
    return finished.stderr


@pytest.mark.parametrize("what", ["log.txt", "metrics.jsonl", "tensorboard"])
def test_a_file_that_may_not_grow_is_one_line_even_when_written_again(run_dir, what):
    assert "File too large" in fill(run_dir, what, "limit")


def test_a_full_disk_is_one_line(run_dir, mount_disk):
    mount_disk("size=64k")
    assert "No space left on device" in fill(run_dir, "log.txt")


@pytest.mark.parametrize("is_main", [True, False])
def test_nothing_is_written_without_a_folder_or_on_other_ranks(make_logger, run_dir, capsys, is_main):
    logger = make_logger(run_dir=None if is_main else run_dir, is_main=is_main)
    logger.info("hello")
    logger.warning("careful")
    logger.metrics("train", step=1, samples=8, loss=1.0)
    logger.progress(1, 2)
    logger.close()
    assert not list(run_dir.iterdir())
    assert capsys.readouterr().out == ("hello\nwarning: careful\n" if is_main else "")

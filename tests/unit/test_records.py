"""Files and console lines of a run."""

import io
import json
import math
import sys

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from swin.records import Records, describe_environment


@pytest.fixture
def open_records(tmp_path):
    opened = []

    def make(run_dir=tmp_path / "run", is_main=True):
        opened.append(Records(run_dir, is_main=is_main))
        return opened[-1]

    yield make
    for records in opened:
        records.close()


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


def test_messages_go_to_console_and_log_and_are_appended(open_records, tmp_path, capsys):
    for number in range(2):
        records = open_records()
        records.info(f"start {number}")
        records.warning("few workers")
        records.close()
    assert capsys.readouterr().out == "start 0\nwarning: few workers\nstart 1\nwarning: few workers\n"
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        "INFO start 0",
        "WARNING warning: few workers",
        "INFO start 1",
        "WARNING warning: few workers",
    ]


def test_colours_are_for_terminals_only(open_records, tmp_path, monkeypatch):
    stream = become_terminal(monkeypatch)
    records = open_records()
    records.warning("hot")
    records.info("\x1b[32mgreen\x1b[0m")
    out = stream.getvalue()
    assert "\x1b[33mwarning: hot\x1b[0m" in out
    assert "\x1b[32mgreen" in out
    assert "\x1b" not in (tmp_path / "run" / "log.txt").read_text()


def test_no_terminal_no_colours_and_no_bar(open_records, capsys):
    records = open_records(run_dir=None)
    records.info("\x1b[32mgreen\x1b[0m")
    records.progress(1, 2, "epoch 0")
    captured = capsys.readouterr()
    assert captured.out == "green\n"
    assert captured.err == ""


def test_a_bar_on_a_terminal(open_records, monkeypatch):
    stream = become_terminal(monkeypatch)
    records = open_records(run_dir=None)
    records.progress(3, 10, "epoch 0")
    records.info("a line")
    records.progress(10, 10, "epoch 0")
    records.progress(1, 10, "epoch 1")
    records.close()
    out = stream.getvalue()
    assert "epoch 0:  30%" in out
    assert "a line\n" in out
    assert "epoch 1:  10%" in out


def test_metrics_are_json_lines_and_appended(open_records, tmp_path):
    records = open_records()
    records.metrics("train", epoch=0, step=10, loss=0.5, lr=torch.tensor(0.25), grad_norm=math.nan, name="é")
    records.close()
    records = open_records()
    records.metrics(
        "eval", epoch=0, step=10, correct1=np.int64(3), worst=torch.tensor(math.inf), recall=[1.0, math.nan]
    )
    assert read_rows(tmp_path / "run" / "metrics.jsonl") == [
        {"kind": "train", "epoch": 0, "step": 10, "loss": 0.5, "lr": 0.25, "grad_norm": None, "name": "é"},
        {"kind": "eval", "epoch": 0, "step": 10, "correct1": 3, "worst": None, "recall": [1.0, None]},
    ]


def test_numbers_reach_tensorboard(open_records, tmp_path):
    records = open_records()
    records.metrics("train", epoch=0, step=10, loss=0.5, grad_norm=math.nan)
    records.metrics("train", epoch=0, step=20, loss=0.25, grad_norm=2.0)
    records.close()
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == [(10, 0.5), (20, 0.25)]
    assert [(event.step, event.value) for event in board.Scalars("train/grad_norm")] == [(20, 2.0)]
    assert sorted(board.Tags()["scalars"]) == ["train/grad_norm", "train/loss"]


def test_run_files(open_records, tmp_path):
    records = open_records()
    records.write_run_files("TAG: é\n", ["daisy", "löwenzahn"], ["main.py", "--data-path", "my images"])
    folder = tmp_path / "run"
    assert (folder / "config.yaml").read_text(encoding="utf-8") == "TAG: é\n"
    assert json.loads((folder / "classes.json").read_text(encoding="utf-8")) == ["daisy", "löwenzahn"]
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["command"] == "main.py --data-path 'my images'"
    assert environment["torch"] == torch.__version__
    assert environment["cpus"] >= environment["cpus_usable"] >= 1


def test_environment_outside_a_checkout_has_no_git(monkeypatch, tmp_path):
    monkeypatch.setattr("swin.records.__file__", str(tmp_path / "site-packages" / "swin" / "records.py"))
    assert describe_environment([])["git"] is None


@pytest.mark.parametrize("is_main", [True, False])
def test_nothing_is_written_without_a_folder_or_on_other_ranks(open_records, tmp_path, capsys, is_main):
    records = open_records(run_dir=None if is_main else tmp_path / "run", is_main=is_main)
    records.info("hello")
    records.warning("careful")
    records.metrics("train", step=1, loss=1.0)
    records.write_run_files("", [], [])
    records.progress(1, 2)
    records.close()
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == ("hello\nwarning: careful\n" if is_main else "")

"""The benchmark of learning: settings in turns, whole runs, their figures."""

import json
import subprocess
from types import SimpleNamespace

import pytest

import main as program
from swin.errors import ConfigError
from tools.benchmark import learning
from tools.benchmark.__main__ import main, parse_arguments
from tools.benchmark.learning import parse_setting, run_learning, train_once

SMALL = ["MODEL.SWIN.DEPTHS", "[1]", "MODEL.SWIN.NUM_HEADS", "[2]", "MODEL.SWIN.EMBED_DIM", "8", "TRAIN.EPOCHS", "2"]
SMALL += ["TRAIN.WARMUP_EPOCHS", "0"]


def test_settings_take_turns_with_each_seed(monkeypatch):
    seen = []

    def train(args, options):
        seen.append(options)
        score = 10.0 * len(seen)
        return {"acc1_last": score, "acc1_best": score + 1, "seconds": 2.0, "cpu_seconds": 3.0}

    monkeypatch.setattr(learning, "train_once", train)
    args = parse_arguments(["learning", "--seeds", "2", "--try", "a=X 1", "--try", "b=Y '2 3'"])
    results = dict(run_learning(args))
    one, two = ["X", "1", "SEED"], ["Y", "2 3", "SEED"]
    assert seen == [[*one, "0"], [*two, "0"], [*one, "1"], [*two, "1"]]
    assert results["a"]["settings"] == "X 1"
    assert results["a"]["n"] == 2
    assert results["a"]["acc1_last"] == {"values": [10.0, 30.0], "mean": 20.0, "stdev": pytest.approx(14.142, abs=1e-3)}
    assert results["b"]["acc1_best"]["values"] == [21.0, 41.0]


@pytest.mark.parametrize("text", ["TRAIN.EPOCHS 2", "=TRAIN.EPOCHS 2"])
def test_a_setting_without_a_name_is_refused(text):
    with pytest.raises(ConfigError, match="expected NAME=OPTIONS"):
        parse_setting(text)


def test_an_unclosed_quote_is_refused():
    with pytest.raises(ConfigError, match="No closing quotation; quote options as a shell takes them"):
        parse_setting("a='x")


def test_folds_cannot_be_compared(runner, monkeypatch):
    def run(command, **_):
        return subprocess.CompletedProcess(command, program.main(command[2:]), "", "why")

    monkeypatch.setattr(learning, "subprocess", SimpleNamespace(run=run))
    what = ["learning", "--cfg", str(runner.config), "--data-path", str(runner.data / "train"), "--device", "cpu"]
    assert main([*what, "--seeds", "1", "--try", "a=DATA.FOLDS 2 TRAIN.EPOCHS 1"]) == 2
    assert "set DATA.FOLDS to 0" in runner.text()


def test_no_seeds_are_refused(capsys):
    assert main(["learning", "--seeds", "0"]) == 2
    assert "--seeds 0" in capsys.readouterr().err


def test_two_settings_of_one_name_are_refused(capsys):
    assert main(["learning", "--try", "a=X 1", "--try", "a=X 2"]) == 2
    assert "same name" in capsys.readouterr().err


def test_a_whole_run_gives_its_figures():
    row = train_once(parse_arguments(["learning", "--device", "cpu"]), [*SMALL, "EVAL_FREQ", "1"])
    assert 5 < row["acc1_last"] <= row["acc1_best"] <= 100
    assert row["seconds"] > 0
    assert row["seconds"] / 4 < row["cpu_seconds"]


def test_a_run_that_fails_says_why(capsys, tmp_path):
    file = tmp_path / "figures.json"
    assert main(["learning", "--seeds", "1", "--try", "bad=TRAIN.EPOCH 2", "--json", str(file)]) == 2
    message = capsys.readouterr().err
    assert "TRAIN.EPOCH" in message
    assert "ended with 2" in message
    assert not file.exists()


def test_the_figures_are_written(monkeypatch, tmp_path, capsys):
    row = {"acc1_last": 50.0, "acc1_best": 60.0, "seconds": 2.0, "cpu_seconds": 3.0}
    monkeypatch.setattr(learning, "train_once", lambda args, options: row)
    file = tmp_path / "figures.json"
    assert main(["learning", "--seeds", "1", "--json", str(file)]) == 0
    written = json.loads(file.read_text())
    assert written["results"]["recipe"]["acc1_best"] == {"values": [60.0], "mean": 60.0, "stdev": None}
    assert "recipe: acc1_last 50.00, acc1_best 60.00, seconds 2.00, cpu_seconds 3.00 (n = 1)" in capsys.readouterr().out

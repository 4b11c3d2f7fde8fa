"""A single folder of class folders, part of it held out."""

import json
import shutil

import pytest


@pytest.fixture
def folder(shapes, tmp_path):
    return shutil.copytree(shapes / "train", tmp_path / "mine")


def held_out(runner, tag):
    return set(json.loads((runner.run_dir(tag) / "split.json").read_text())["val"])


def test_a_resumed_or_evaluated_run_holds_out_the_same_images(runner, folder):
    options = ["--data-path", str(folder), "--opts", "DATA.VAL_SPLIT", "0.2", "TRAIN.EPOCHS"]
    assert runner("first", *options, "1") == 0
    last = str(runner.run_dir("first") / "checkpoints" / "last.pth")
    # New images and another seed would make another split.
    shutil.copy(next((folder / "cross").iterdir()), folder / "cross" / "new.png")
    assert runner("first", *options, "2", "SEED", "7") == 0
    assert runner("second", *options, "2", "SEED", "7", "--resume", last) == 0
    assert runner("third", "--eval", *options, "1", "SEED", "7", "--resume", last) == 0
    assert held_out(runner, "first") == held_out(runner, "second") == held_out(runner, "third")
    result = json.loads((runner.run_dir("third") / "eval.json").read_text())
    assert result["seen"] == len(held_out(runner, "first")) == 16
    assert runner("fourth", *options, "1", "SEED", "7") == 0
    assert held_out(runner, "fourth") != held_out(runner, "first")


def test_weights_of_a_run_are_evaluated_on_what_it_has_held_out(runner):
    share = ("--data-path", str(runner.data / "train"), "--opts", "DATA.VAL_SPLIT", "0.25", "TRAIN.EPOCHS", "1")
    assert runner("own", *share) == 0
    assert runner("other", "--eval", "--pretrained", str(runner.run_dir("own")), *share) == 0
    held_out = json.loads((runner.run_dir("own") / "split.json").read_text())["val"]
    metrics = json.loads((runner.run_dir("other") / "eval" / "metrics.json").read_text())
    assert metrics["seen"] == len(held_out) < 78

"""The command `python -m tools.estimate`: what it counts is what a run does."""

import json
from pathlib import Path

import pytest

from swin.engine.measure import TrainingTime
from tools.estimate import Part, as_time, combine, main, parse
from tools.trial import begin_trial, find_phases, make_trial


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def make_trainer(runner, *more: str):
    _, cfg = parse(runner.arguments("tried", *more))
    return make_trial(cfg, begin_trial(cfg))


def made_parts(trainer, *image_secs: float) -> list[Part]:
    whole = find_phases(trainer)[0]
    return [
        Part([(whole, TrainingTime(image_sec=each, epoch_sec=2.0, wait=0.0))], evaluation_sec=10.0, save_sec=1.0)
        for each in image_secs
    ]


def test_the_whole_is_the_sum_of_updates_evaluations_and_checkpoints(runner):
    """Seven epochs of 78 images, evaluated after 3, 6 and 7; the last checkpoint is waited for, too."""
    trainer = make_trainer(runner, "--opts", "TRAIN.EPOCHS", "7", "EVAL_FREQ", "3")
    found = combine(trainer, made_parts(trainer, 0.1, 0.1), memory_bytes=5)
    assert (found.num_evaluations, found.num_saves, found.memory_bytes) == (3, 4, 5)
    assert found.updates_sec == pytest.approx(7 * (78 * 0.1 + 2))
    assert found.seconds == pytest.approx(7 * (78 * 0.1 + 2) + 3 * 10 + 4 * 1)
    assert found.error_sec == pytest.approx(0)
    assert found.test_sec == 0


def test_the_error_is_the_interval_of_students_t(runner):
    trainer = make_trainer(runner, "--opts", "TRAIN.EPOCHS", "1")
    found = combine(trainer, made_parts(trainer, 0.1, 0.2, 0.3), memory_bytes=0)
    # Of the totals 7.8 s apart: t of 2 degrees of freedom, 4.303, times their standard deviation by the root of 3.
    assert found.seconds == pytest.approx(78 * 0.2 + 2 + 10 + 2 * 1)
    assert found.error_sec == pytest.approx(4.3027 * 7.8 / 3**0.5, rel=1e-4)


def test_only_the_rest_of_a_resumed_run_counts(runner):
    assert runner("begun", "--opts", "TRAIN.EPOCHS", "2") == 0
    last = str(runner.run_dir("begun") / "checkpoints" / "last.pth")
    trainer = make_trainer(runner, "--resume", last, "--opts", "TRAIN.EPOCHS", "5")
    found = combine(trainer, made_parts(trainer, 0.1, 0.1), memory_bytes=0)
    assert found.num_evaluations == 3
    assert found.updates_sec == pytest.approx(3 * (78 * 0.1 + 2))


def test_a_real_run_evaluates_as_often_and_is_left_alone(runner):
    opts = ["--opts", "TRAIN.EPOCHS", "5", "EVAL_FREQ", "2", "SAVE_FREQ", "100"]
    assert runner("run", *opts) == 0
    folder = runner.run_dir("run")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    runner.text()
    assert main([*runner.arguments("run"), "--updates", "5", "--format", "json", *opts]) == 0
    found = json.loads(runner.capsys.readouterr().out)
    assert found["num_evaluations"] == len(runner.rows("run", "eval")) == 3
    assert found["seconds"] == pytest.approx(sum(found[f"{part}_sec"] for part in ("updates", "evaluations", "saves")))
    assert 0 < found["error_sec"] < 100 * found["seconds"]
    assert 1e8 < found["memory_bytes"] < 1e11
    assert found["images_per_sec"] > 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_digits_are_estimated_in_words(capsys, tmp_path):
    assert main(["--cfg", "swin_digits", "--updates", "5", "--device", "cpu", "--opts", "TRAIN.PATIENCE", "3"]) == 0
    out = capsys.readouterr().out
    assert "swin_digits: 80 epochs of 1,437 images, 48 an update, on cpu" in out
    assert "16 evaluations" in out
    assert "95% of 5 parts" in out
    assert "less where TRAIN.PATIENCE ends the run early" in out
    assert not list(tmp_path.iterdir())


def test_the_folds_of_a_cross_validation_are_named(runner):
    assert main([*runner.arguments("folds"), "--updates", "5", "--opts", "DATA.FOLDS", "3"]) == 0
    text = runner.text()
    assert "2 epochs of 52 images" in text
    assert "each of the 3 folds takes as much time" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.678, "5.68 s"), (119, "119 s"), (150, "2.5 min"), (7300, "2.03 h"), (500_000, "139 h")]
)
def test_times_are_in_the_unit_that_people_use(seconds, text):
    assert as_time(seconds) == text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--cfg", "swin_absent"], "swin_absent"),
        (["--cfg", "swin_digits", "--opts", "TRAIN.EPOCH", "2"], "TRAIN.EPOCHS"),
        (["--cfg", "swin_digits", "--throughput"], "leave out --eval"),
        (["--cfg", "swin_flowers", "--data-path", "absent"], "absent"),
        (["--cfg", "swin_digits", "--pretrained", "absent.pth"], "absent.pth"),
    ],
)
def test_errors_are_one_message(flags, words, capsys):
    assert main([*flags, "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert words in captured.err

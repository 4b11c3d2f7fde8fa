"""The command `python -m tools.estimate`: what it counts is what a run does."""

import json
from pathlib import Path

import pytest

from swin.engine import budget
from swin.engine.budget import Prices
from swin.engine.measure import TrainingTime
from tools import estimate
from tools.estimate import as_time, combine, main, measure, parse
from tools.trial import begin_trial, make_trial


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def make_trainer(runner, *more: str):
    _, cfg = parse(runner.arguments("tried", *more))
    return make_trial(cfg, begin_trial(cfg))


def made_parts(trainer, *image_secs: float) -> list[Prices]:
    """Parts at which an image of 32 pixels takes so long, and a smaller one as much less as it has fewer pixels."""
    sizes = {img_size: img_size[0] * img_size[1] / 32**2 for _, img_size, _ in trainer.phases.phases}
    return [
        Prices({size: TrainingTime(image_sec=each * share, epoch_sec=2.0, wait=0.0) for size, share in sizes.items()},
               evaluation_sec=10.0, save_sec=1.0)
        for each in image_secs
    ]  # fmt: skip


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


SIZES = ["DATA.IMG_SIZE_SCHEDULE", "[[0.5, 16], [0.15, [24, 16]]]", "TRAIN.EPOCHS", "6"]


def test_small_images_count_as_what_they_take(runner):
    """Six epochs: three of 16 px at a quarter of the price, one of 24 x 16 px at three eighths, two of 32 px."""
    trainer = make_trainer(runner, "--opts", *SIZES, "EVAL_FREQ", "6")
    found = combine(trainer, made_parts(trainer, 0.1, 0.1), memory_bytes=0)
    assert found.updates_sec == pytest.approx(78 * 0.1 * (3 / 4 + 3 / 8 + 2) + 6 * 2)
    assert found.images_per_sec == pytest.approx(6 * 78 / found.updates_sec)
    assert found.seconds == pytest.approx(found.updates_sec + 10 + 2 * 1)
    trainer.progress.epoch, trainer.progress.position = 3, 40
    found = combine(trainer, made_parts(trainer, 0.1, 0.1), memory_bytes=0)
    assert found.updates_sec == pytest.approx(0.1 * (38 * 3 / 8 + 2 * 78) + 3 * 2)


def test_an_estimate_is_what_a_run_of_minutes_reckons_with(runner, monkeypatch):
    """A length was found for a time: the estimate of a run of that length is that time."""
    trainer = make_trainer(runner, "--opts", *SIZES)
    prices = made_parts(trainer, 0.1)[0]
    length = budget.find_length(prices, trainer.cfg, trainer.progress, trainer.phases, 200.0, has_val=True)
    trainer.set_length(length)
    found = combine(trainer, [prices, prices], memory_bytes=0)
    assert 200 - 11 - 2 - 8 * 0.1 < found.seconds <= 200


def test_each_size_to_come_is_measured_with_its_updates(runner, monkeypatch):
    trainer, asked = make_trainer(runner, "--opts", *SIZES), []

    def time_training(trainer, seconds, *, phase):
        asked.append((phase.img_size, seconds))
        return TrainingTime(0.01, 0.0, 0.0)

    monkeypatch.setattr(estimate, "time_training", time_training)
    monkeypatch.setattr(estimate, "time_saving", lambda trainer: 0.0)
    trainer.progress.epoch = 3
    measure(trainer, 20, lambda text: None)
    # Four updates of 20 and of 8 images a part, at 0.01 s an image.
    part = [((24, 16), 0.0), ((24, 16), pytest.approx(0.8)), ((32, 32), 0.0), ((32, 32), pytest.approx(0.32))]
    assert asked == 5 * part


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
    assert "swin_digits: 12 epochs of 1,437 images, 48 an update, on cpu" in out
    assert "4 evaluations" in out
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

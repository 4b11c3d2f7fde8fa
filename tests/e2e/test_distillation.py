"""Runs with a teacher: resumed exactly, on several processes, with a table on disk, and refused with a reason."""

import json
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch

from swin.engine import teach
from swin.engine.teach import _read
from swin.errors import DataError
from tests.conftest import CLASSES
from tests.e2e.test_resume import stop_at

TEACHER = ["MODEL.SWIN.EMBED_DIM", "32", "DATA.MEAN", "[0.3, 0.3, 0.3]", "DATA.IMG_SIZE", "48", "TRAIN.EPOCHS", "1"]
EVERYTHING = ["TRAIN.DISTILL.FEATURES", "0.5", "TRAIN.DISTILL.TEMPERATURE", "2.0", "TRAIN.EMA.ENABLE", "True"]
PLAIN = ["AUG.MIXUP", "0", "AUG.CUTMIX", "0"]
CACHED = [*PLAIN, "TRAIN.DISTILL.CACHE", "True"]


@pytest.fixture
def teacher(runner) -> list[str]:
    """The option that names a trained teacher, twice as wide as its student and of another size and mean."""
    assert runner("teacher", "--opts", *TEACHER) == 0
    runner.text()
    return ["TRAIN.DISTILL.TEACHER", str(runner.run_dir("teacher"))]


def tables(runner) -> list:
    return sorted((runner.folder / "out" / "teachers").glob("*"))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_a_stopped_run_ends_in_the_bits_of_one_that_was_not_stopped(
    runner, teacher, assert_equal_state, monkeypatch, optimizer
):
    options = ["--opts", *teacher, *EVERYTHING, "TRAIN.OPTIMIZER.NAME", optimizer]
    assert runner("whole", *options) == 0
    whole = runner.checkpoint("whole")
    assert whole["objective"].keys() == {"teacher", "projection"}
    assert whole["objective"]["projection"]["weight"].shape == (64, 32)
    assert not any("projection" in name or "teacher" in name for name in (*whole["model"], *whole["ema"]["model"]))
    with monkeypatch.context() as patch:
        stop_at(patch, step=4)
        assert runner("stopped", *options) == 3
    assert not torch.equal(
        runner.checkpoint("stopped")["objective"]["projection"]["weight"], whole["objective"]["projection"]["weight"]
    )
    assert runner("stopped", *options) == 0
    assert_equal_state(whole, runner.checkpoint("stopped"))
    assert runner("other", "--eval", "--resume", str(runner.run_dir("whole"))) == 0  # as any other checkpoint


def test_a_teacher_moves_the_weights_but_not_the_draws(runner, teacher):
    own = [*teacher, *PLAIN]
    assert runner("alone", "--opts", *PLAIN) == 0
    assert runner("taught", "--opts", *own) == 0
    assert runner("hard", "--opts", *own, "TRAIN.DISTILL.KIND", "hard") == 0
    assert "objective" not in runner.checkpoint("alone")
    # Before the first update all are the same model on the same batch: the parts of the losses add up.
    first = {tag: runner.rows(tag, "train")[0]["loss"] for tag in ("alone", "taught", "hard")}
    assert len(set(first.values())) == 3
    assert runner("labels", "--opts", *own, "TRAIN.DISTILL.ALPHA", "1") == 0
    lesson = runner.rows("labels", "train")[0]["loss"]
    assert first["taught"] == pytest.approx((first["alone"] + lesson) / 2, rel=1e-5)


def test_two_processes_give_the_losses_of_one(runner, teacher):
    options = ["--opts", *teacher, *EVERYTHING, *PLAIN, "MODEL.DROP_PATH_RATE", "0", "TRAIN.EPOCHS", "1"]
    assert runner("one", "--batch-size", "8", "--accumulation-steps", "2", *options) == 0
    status, output = runner.finish(
        runner.start("two", "--batch-size", "4", "--accumulation-steps", "2", *options, processes=2)
    )
    assert status == 0, output
    one, two = (runner.rows(tag, "train") for tag in ("one", "two"))
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=2e-4)
    assert [row["grad_norm"] for row in two] == pytest.approx([row["grad_norm"] for row in one], rel=5e-3)
    torch.testing.assert_close(
        *(runner.checkpoint(tag)["objective"]["projection"]["weight"] for tag in ("one", "two")), rtol=0.05, atol=2e-4
    )


def test_a_table_is_written_once_and_read_by_other_runs(runner, teacher, monkeypatch):
    assert runner("one", "--opts", *teacher, *CACHED) == 0
    assert "are written to" in runner.text()
    (file,) = tables(runner)
    table = np.load(file)
    assert (table.shape, table.dtype) == ((78, 3), np.float32)
    when = file.stat().st_mtime_ns
    monkeypatch.setattr("swin.engine.teach.evaluate", None)  # the teacher is not asked again
    assert runner("two", "--opts", *teacher, *CACHED, "TRAIN.DISTILL.KIND", "hard", "SEED", "3") == 0
    assert "are read from" in runner.text()
    assert tables(runner) == [file]
    assert file.stat().st_mtime_ns == when
    file.write_bytes(file.read_bytes()[:-8])
    assert runner("three", "--opts", *teacher, *CACHED) == 2
    assert "remove the file" in runner.text()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.0])
def test_a_damaged_table_is_refused(tmp_path, value):
    table = np.array([[0.0, -1.0], [-2.0, 0.0]], np.float32)
    np.save(tmp_path / "table.npy", table)
    assert np.array_equal(_read(tmp_path / "table.npy", (2, 2)), table)
    table[1, 0] = value
    np.save(tmp_path / "table.npy", table)
    with pytest.raises(DataError, match=r"are damaged: .*; remove the file"):
        _read(tmp_path / "table.npy", (2, 2))
    with (tmp_path / "table.npy").open("wb") as file:
        np.savez(file, table)
    with pytest.raises(DataError, match=r"are no table, expected float \(2, 2\); remove the file"):
        _read(tmp_path / "table.npy", (2, 2))


def test_a_large_table_is_written_in_parts_and_refused_where_the_disk_is_too_small(runner, teacher, monkeypatch):
    assert runner("one", "--opts", *teacher, *CACHED) == 0
    (file,) = tables(runner)
    whole = np.load(file)
    file.unlink()
    monkeypatch.setattr(teach, "_VALUES_AT_ONCE", 30)  # 10 images of 3 classes, and 8 at the end
    monkeypatch.setattr(teach, "FLOAT32_VALUES", 1)
    assert runner("two", "--opts", *teacher, *CACHED) == 0
    assert "of 78 right) are written to" in runner.text()
    assert tables(runner) == [file]
    table = np.load(file)
    assert table.dtype == np.float16
    np.testing.assert_allclose(table, whole, atol=2e-3)
    file.unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(9))
    runner.text()
    assert runner("three", "--opts", *teacher, *CACHED) == 2
    assert "set TRAIN.DISTILL.CACHE False, or another OUTPUT" in runner.text()
    assert not tables(runner)


def test_what_is_in_a_table_is_what_the_teacher_says(runner, teacher, shapes):
    """Of each training image under its number in the data set, by the route that predictions take."""
    from swin.images import open_input
    from swin.inference import load_predictor

    assert runner("one", "--opts", *teacher, *CACHED) == 0
    predictor = load_predictor(runner.run_dir("teacher"), device="cpu")
    files = [file for name in CLASSES for file in sorted((shapes / "train" / name).iterdir())]
    scores = predictor.scores([open_input(file) for file in files])
    kept = torch.from_numpy(np.load(tables(runner)[0])).softmax(dim=1)
    # The images are normalised for the student, and again for the teacher: a rounding or two.
    torch.testing.assert_close(kept, scores, rtol=1e-3, atol=1e-4)


def test_other_teachers_and_other_images_have_tables_of_their_own(runner, teacher, tmp_path):
    import shutil

    assert runner("one", "--opts", *teacher, *CACHED) == 0
    last = str(runner.run_dir("teacher") / "checkpoints" / "last.pth")
    assert runner("same", "--opts", "TRAIN.DISTILL.TEACHER", last, *CACHED) == 0  # the best is the last
    assert len(tables(runner)) == 1
    assert runner("teacher2", "--opts", *TEACHER, "SEED", "5") == 0
    assert runner("other", "--opts", "TRAIN.DISTILL.TEACHER", str(runner.run_dir("teacher2")), *CACHED) == 0
    assert len(tables(runner)) == 2
    copied = tmp_path / "copied"
    shutil.copytree(runner.data, copied)
    (copied / "train" / "cross" / "000.png").unlink()
    arguments = ["--data-path", str(copied), "--opts", *teacher, *CACHED]
    assert runner("fewer", *arguments) == 0
    assert len(tables(runner)) == 3
    names = ("001.png", "002.png")
    first, second = (copied / "train" / "circle" / name for name in names)
    content = first.read_bytes(), second.read_bytes()
    first.write_bytes(content[1]), second.write_bytes(content[0])  # other pixels under the same names
    assert runner("exchanged", *arguments) == 0
    assert len(tables(runner)) == 4


def test_a_run_with_a_table_is_resumed_exactly_and_two_processes_read_it(
    runner, teacher, assert_equal_state, monkeypatch
):
    options = ["--opts", *teacher, *CACHED, "MODEL.DROP_PATH_RATE", "0"]
    assert runner("whole", *options) == 0
    with monkeypatch.context() as patch:
        stop_at(patch, step=4)
        assert runner("stopped", *options) == 3
    assert runner("stopped", *options) == 0
    assert_equal_state(runner.checkpoint("whole"), runner.checkpoint("stopped"))
    tables(runner)[0].unlink()  # so that two processes make it anew, each its part
    status, output = runner.finish(runner.start("two", "--batch-size", "4", *options, processes=2))
    assert status == 0, output
    one, two = (runner.rows(tag, "train") for tag in ("whole", "two"))
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=5e-4)


def test_a_dry_run_writes_nothing(runner, teacher):
    for more in (EVERYTHING, CACHED):
        assert runner("dry", "--dry-run", "--opts", *teacher, *more) == 0
        text = runner.text()
        assert "teacher" in text
        assert "dry run: one update" in text
    assert not tables(runner)
    assert not runner.run_dir("dry").exists()


def test_a_teacher_that_does_not_fit_is_refused_before_anything_is_written(runner, teacher, tmp_path):
    best = runner.run_dir("teacher") / "checkpoints" / "best.pth"
    content = torch.load(best, weights_only=True)
    content["classes"][1] = "square"
    torch.save({key: content[key] for key in ("model", "classes", "config")}, tmp_path / "square.pth")
    assert runner("one", "--opts", "TRAIN.DISTILL.TEACHER", str(tmp_path / "square.pth")) == 2
    assert "does not know 'cross'" in runner.text()
    assert runner("one", "--opts", "TRAIN.DISTILL.TEACHER", str(tmp_path / "absent.pth")) == 2
    assert "absent.pth does not exist" in runner.text()
    assert not runner.run_dir("one").exists()
    assert runner("one", "--opts", *teacher, "TRAIN.EPOCHS", "1") == 0
    del content["classes"]
    torch.save({"model": content["model"], "config": content["config"]}, tmp_path / "nameless.pth")
    assert runner("two", "--opts", "TRAIN.DISTILL.TEACHER", str(tmp_path / "nameless.pth"), "TRAIN.EPOCHS", "1") == 0
    assert "does not name its classes" in runner.text()
    assert json.loads((runner.run_dir("one") / "status.json").read_text())["state"] == "done"

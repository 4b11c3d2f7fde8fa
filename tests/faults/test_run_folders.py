"""What a run's folder goes through: refused starts, a second run, other settings, a new run under an old name."""

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def fails(runner, tag: str, *arguments: str) -> str:
    assert runner(tag, *arguments) == 2
    text = runner.text()
    assert "Traceback" not in text
    return text


def test_a_refused_start_leaves_the_folder_as_it_was_or_none_at_all(runner, shapes, tmp_path):
    assert runner("run") == 0
    before = contents(runner.run_dir("run"))
    other = tmp_path / "other"
    shutil.copytree(shapes, other)
    for split in ("train", "val"):
        (other / split / "cross").rename(other / split / "x")
    assert "the first difference is 'cross' there" in fails(runner, "run", "--data-path", str(other))
    assert "--pretrained" in fails(runner, "run", "--opts", "MODEL.SWIN.EMBED_DIM", "32")
    assert "NUM_CLASSES" in fails(runner, "run", "--opts", "MODEL.NUM_CLASSES", "7")
    assert "does not exist" in fails(runner, "run", "--resume", str(tmp_path / "none.pth"))
    assert contents(runner.run_dir("run")) == before
    for name in ("new", "deep/new"):
        fails(runner, name, "--opts", "MODEL.NUM_CLASSES", "7")
        assert not (runner.run_dir(name)).exists()
    assert not runner.run_dir("deep").exists()


def test_a_damaged_run_is_refused_and_left_as_it_was(runner):
    assert runner("run", "--opts", "TRAIN.EPOCHS", "1") == 0
    for path in (runner.run_dir("run") / "checkpoints").glob("*.pth"):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[:1000])
    before = contents(runner.run_dir("run"))
    assert "none of the 2 checkpoints" in fails(runner, "run")
    assert contents(runner.run_dir("run")) == before


def test_settings_that_changed_are_told(runner):
    assert runner("run") == 0
    runner.text()
    assert runner("run", "--opts", "TRAIN.EPOCHS", "3", "AUG.MIXUP", "0.2") == 0
    assert "settings that differ from the checkpoint's: AUG.MIXUP 0.8 -> 0.2, TRAIN.EPOCHS 2 -> 3" in runner.text()


def test_a_new_run_under_an_old_name_moves_the_old_one_aside(runner):
    assert runner("run") == 0
    before = contents(runner.run_dir("run"))
    assert runner("run", "--opts", "TRAIN.AUTO_RESUME", "False", "TRAIN.EPOCHS", "1") == 0
    (aside,) = (path for path in runner.run_dir("run").parent.iterdir() if path.name.startswith("run."))
    assert contents(aside) == before
    assert str(aside) in runner.text()
    assert [row["step"] for row in runner.rows("run", "train")] == list(range(1, 11))


def test_a_second_run_in_the_same_folder_is_refused_and_the_first_goes_on(runner):
    first = runner.start("run", "--opts", "TRAIN.EPOCHS", "40", "DATA.NUM_WORKERS", "1")
    runner.wait_for_rows("run")
    text = fails(runner, "run", "--opts", "TRAIN.EPOCHS", "40")
    assert f"in use by process {first.pid} on {os.uname().nodename} since" in text
    status, output = runner.finish(first)
    assert status == 0, output
    assert [row["step"] for row in runner.rows("run", "train")] == list(range(1, 401))


def test_records_are_cut_back_to_where_a_killed_run_goes_on(runner):
    options = ["--opts", "TRAIN.EPOCHS", "9", "SAVE_FREQ", "4", "EVAL_FREQ", "4"]
    killed = runner.start("run", *options)
    runner.wait_for_rows("run", 56, pause_sec=0.001)
    killed.send_signal(signal.SIGKILL)
    runner.finish(killed)
    assert runner("run", *options) == 0
    assert [row["step"] for row in runner.rows("run", "train")] == list(range(1, 91))
    assert [row["epoch"] for row in runner.rows("run", "eval")] == [3, 7, 8]
    board = EventAccumulator(str(runner.run_dir("run") / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [
        row["samples"] for row in runner.rows("run", "train")
    ]
    status = json.loads((runner.run_dir("run") / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["step"], status["samples"]) == ("done", 0, 90, 9 * 78)


@pytest.mark.parametrize(("max_errors", "expected"), [(2, 0), (1, 1)])
def test_unreadable_images_are_counted_once_over_all_processes(runner, shapes, tmp_path, max_errors, expected):
    broken = tmp_path / "broken"
    shutil.copytree(shapes, broken)
    names = [broken / "train" / "cross" / name for name in ("003.png", "017.png")]
    for name in names:
        name.write_bytes(b"no image")
    skip = ["DATA.ON_ERROR", "skip", "DATA.MAX_ERRORS", str(max_errors), "TRAIN.EPOCHS", "3"]
    process = runner.start("run", "--data-path", str(broken), "--batch-size", "4", "--opts", *skip, processes=3)
    status, output = runner.finish(process)
    assert status == expected, output
    if expected:
        assert output.count("2 images cannot be read, more than DATA.MAX_ERRORS 1") == 1
        ended = json.loads((runner.run_dir("run") / "status.json").read_text())
        assert (ended["state"], ended["exit_code"]) == ("failed", 2)
    else:
        assert [output.count(f"taken: {name}") for name in names] == [1, 1]
        assert {row["unreadable"] for row in runner.rows("run", "train")} >= {2}


@pytest.mark.parametrize("name", ["003.png", "*.png"])
def test_a_run_that_fails_ends_its_workers_at_once(runner, shapes, tmp_path, monkeypatch, name):
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "1000")  # how long workers take to follow a SIGTERM
    broken = tmp_path / "broken"
    shutil.copytree(shapes, broken)
    for path in (broken / "train").glob(f"*/{name}"):
        path.write_bytes(b"no image")
    process = runner.start("run", "--data-path", str(broken), "--opts", "DATA.NUM_WORKERS", "2")
    status, output = runner.finish(process)
    assert status == 2, output
    assert "Alarm clock" not in output


def test_the_content_of_a_resumed_checkpoint_is_not_kept(runner, monkeypatch):
    import weakref

    from swin.engine import resume

    assert runner("run", "--opts", "TRAIN.EPOCHS", "1", "TRAIN.EMA.ENABLE", "True") == 0
    original, kept = resume.read_checkpoint, []

    def read(path):
        content = original(path)
        groups = (content["model"], content["ema"]["model"], *content["optimizer"]["state"].values())
        kept.extend(weakref.ref(value) for group in groups for value in group.values())
        return content

    alive = []
    monkeypatch.setattr(resume, "read_checkpoint", read)
    monkeypatch.setattr(
        "swin.engine.trainer.Trainer.run", lambda trainer: alive.append(sum(ref() is not None for ref in kept))
    )
    assert runner("run", "--opts", "TRAIN.EPOCHS", "2", "TRAIN.EMA.ENABLE", "True") == 0
    assert len(kept) > 200
    assert alive == [0]


def test_a_full_disk_in_a_record_is_one_line(runner, monkeypatch):
    from swin import records

    def full(path, content):
        with records.writing(path):
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr("swin.run_folder.write_atomically", full)
    text = fails(runner, "run")
    assert "config.yaml cannot be written (No space left on device); free disk space" in text
    assert np.all([line.startswith("error: ") for line in text.splitlines() if "cannot" in line])


def test_a_dry_run_looks_at_no_earlier_run(runner):
    assert runner("run") == 0
    before = contents(runner.run_dir("run"))
    runner.text()
    assert runner("run", "--dry-run") == 0
    assert "resuming" not in runner.text()
    assert contents(runner.run_dir("run")) == before

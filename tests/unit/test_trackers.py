"""What shows a run: TensorBoard, and with their packages, offline, wandb and MLflow."""

import importlib.util
import json
import os
import sys

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from swin.logger import Logger
from swin.trackers import Run, group, require_packages
from swin.trackers.base import Tracker

CONFIG = {"MODEL.NAME": "tiny", "DATA.IMG_SIZE": [32, 48], "TRAIN.BASE_LR": 0.5, "AMP_ENABLE": False, "SEED": 1}
PICTURE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
ROW = {"epoch": 0, "acc1": 50.0, "acc5": 75.0, "correct1": 2, "correct5": 3, "seen": 4, "loss": 1.5}


def track(run_dir, *names, step=0, k=5):
    """A run of two updates from `step` on, with all that trackers can show."""
    logger = Logger(is_main=True)
    logger.open(run_dir, step=step, trackers=names, name="tiny/run")
    logger.text("plan", "data *digits*  \nsteps", 10 * step)
    logger.hparams(CONFIG)
    logger.image("train/batch", PICTURE, 10 * step)
    for done in (step + 1, step + 2):
        logger.metrics("train", epoch=0, step=done, samples=10 * done, loss=0.5 * done)
    logger.metrics("eval", step=done, samples=10 * done, **ROW, k=k)
    logger.hparams(CONFIG, done=True)
    logger.close()


def test_tensorboard_has_curves_text_pictures_and_a_table_of_runs(tmp_path):
    track(tmp_path, "tensorboard", k=3)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    curves = {"train/loss", "eval/acc1", "eval/acc3", "eval/loss", "final/acc1", "final/acc3", "final/loss"}
    assert set(board.Tags()["scalars"]) == curves
    assert [(event.step, event.value) for event in board.Scalars("eval/acc3")] == [(20, 75.0)]
    assert board.Tensors("plan/text_summary")[0].tensor_proto.string_val == [b"data *digits*  \nsteps"]
    (image,) = board.Images("train/batch")
    path = tmp_path / "image.png"
    path.write_bytes(image.encoded_image_string)
    assert np.array_equal(np.asarray(Image.open(path)), PICTURE)
    start = board.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert all(key.encode() in start for key in CONFIG)
    assert b"[32, 48]" in start


def test_without_trackers_there_are_still_metrics(tmp_path):
    track(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"log.txt", "metrics.jsonl"}
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 3


def test_mlflow_keeps_a_run_in_the_folder_and_goes_on_with_it(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for step in (0, 2):
        track(tmp_path, "mlflow", step=step)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("swin-trainer").experiment_id])
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"mlflow": run.info.run_id}
    assert (run.info.run_name, run.info.status) == ("tiny/run", "FINISHED")
    assert run.data.params == {key: str(value) for key, value in CONFIG.items()}
    assert run.data.metrics["final/acc1"] == 50.0
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(10, 0.5), (20, 1.0), (30, 1.5), (40, 2.0)]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"images", "plan.md"}


def test_wandb_goes_offline_without_an_account_and_goes_on_with_a_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # where a key would be
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    for step in (0, 2):
        track(tmp_path, "wandb", step=step)
    run_id = json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    records = sorted((tmp_path / "wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"))
    assert records
    content = b"".join(path.read_bytes() for path in records)
    for text in (b"tiny/run", b"swin-trainer", b"train/loss", b"eval/acc1", b"final/acc1", b"TRAIN.BASE_LR"):
        assert text in content
    assert len(list((tmp_path / "wandb").glob("offline-run-*/files/media/images/train/*.png"))) >= 1
    out = capsys.readouterr().out
    assert "wandb: offline (no API key is set" in out
    assert "has failed" not in out


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_an_error_before_anything_is_made(runner, name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    assert runner("run", "--opts", "LOGGERS", f"[{name}]") == 2
    assert f'LOGGERS names {name}, which is not installed: pip install "swin-trainer[trackers]"' in runner.text()
    assert not runner.run_dir("run").exists()


def test_packages_that_are_not_named_are_not_needed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name != "tensorboard" else object())
    require_packages(["tensorboard"])


class Fails(Tracker):
    """A service that fails at one method, and counts the calls of it."""

    calls = 0

    def __init__(self, at):
        self._at = at

    def _call(self, name):
        if name == self._at:
            type(self).calls += 1
            raise ConnectionError(f"no network for {name}\nat all")

    def scalars(self, row):
        self._call("scalars")

    def text(self, name, markdown, samples):
        self._call("text")

    def image(self, name, image_HWC, samples):
        self._call("image")

    def hparams(self, config, metrics):
        self._call("hparams")

    def go_back(self, samples, rows):
        self._call("go_back")

    def close(self):
        self._call("close")


@pytest.mark.parametrize("at", ["text", "image", "scalars", "hparams", "close"])
def test_a_tracker_that_fails_is_left_alone_with_one_warning(tmp_path, monkeypatch, capsys, at):
    monkeypatch.setitem(group._TRACKERS, "wandb", lambda run: Fails(at))
    monkeypatch.setattr(Fails, "calls", 0)
    track(tmp_path, "wandb", "tensorboard")
    warning = f"warning: wandb has failed (ConnectionError: no network for {at}); the run goes on without it.\n"
    assert capsys.readouterr().out == warning
    assert Fails.calls == 1
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert "final/acc1" in board.Tags()["scalars"]


def test_a_tracker_that_cannot_start_does_not_end_a_run(runner, monkeypatch):
    def refuse(run: Run):
        assert run.name == "tiny/run"
        raise RuntimeError("wrong key")

    monkeypatch.setitem(group._TRACKERS, "mlflow", refuse)
    monkeypatch.setattr(group, "find_spec", lambda _: object())
    assert runner("run", "--opts", "LOGGERS", "[mlflow, tensorboard]", "TRAIN.EPOCHS", "1") == 0
    assert runner.text().count("warning: mlflow has failed (RuntimeError: wrong key)") == 1
    run_dir = runner.run_dir("run")
    board = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    assert {"eval/acc3", "final/acc3"} <= set(board.Tags()["scalars"])
    assert board.Tags()["images"] == ["train/batch"]
    assert b"steps: 1 epochs" in board.Tensors("plan/text_summary")[0].tensor_proto.string_val[0]
    counts = {"train": {"circle": 26, "cross": 26, "stripes": 26}, "val": {"circle": 34, "cross": 34, "stripes": 33}}
    assert json.loads((run_dir / "data.json").read_text()) == counts
    with Image.open(run_dir / "batch.png") as sheet:
        assert sheet.size == (4 * 224, 2 * 252)  # a batch of 8


def test_a_run_that_goes_on_keeps_the_picture_of_its_start(runner):
    assert runner("run", "--opts", "TRAIN.EPOCHS", "1") == 0
    picture = runner.run_dir("run") / "batch.png"
    picture.write_bytes(b"kept")
    assert runner("run", "--opts", "TRAIN.EPOCHS", "2") == 0
    assert picture.read_bytes() == b"kept"

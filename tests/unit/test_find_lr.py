"""The command `python -m tools.find_lr`: curves of real, short trainings, and what is read off them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from swin.config import load_config
from tools.find_lr import Curve, main, suggest


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def made_curve(rates: np.ndarray, noise: float, depth: float = 1.0) -> Curve:
    """A loss that falls from 2.3 by `depth` around 1e-3, is lowest at 1e-2 and rises above."""
    decades = np.log10(rates)
    means = 2.3 - depth / (1 + np.exp(-6 * (decades + 3))) + np.exp(3 * (decades + 1)) * depth
    means = means + np.random.default_rng(0).normal(0, noise, len(rates))
    samples = np.full(len(rates), 16.0)
    samples[::7] = 3  # the end of an epoch
    return Curve(rates, means * samples, samples, is_diverged=True)


@pytest.mark.parametrize("updates", [60, 100, 400])
def test_the_suggestion_lies_between_the_steepest_and_the_lowest_place(updates):
    found = suggest(made_curve(np.geomspace(1e-5, 1, updates), noise=0.02))
    assert found.is_sound
    assert found.steepest == pytest.approx(1e-3, rel=0.5)
    assert 2e-3 < found.lowest < 3e-2
    assert found.rate == pytest.approx((found.steepest * found.lowest) ** 0.5)


def test_noise_alone_suggests_nothing():
    rates, random = np.geomspace(1e-5, 1, 100), np.random.default_rng(0)
    curves = [Curve(rates, random.normal(2.3, 0.05, 100), np.ones(100), is_diverged=False) for _ in range(100)]
    assert sum(suggest(curve).is_sound for curve in curves) <= 5


def test_a_small_last_update_weighs_as_little_as_it_has_samples():
    """One image with a loss of 20 among updates of 100 images: the mean of its neighbours hardly moves."""
    rates, means, samples = np.geomspace(1e-4, 1, 100), np.full(100, 2.0), np.full(100, 100.0)
    means[50], samples[50] = 3.9, 1
    smoothed = Curve(rates, means * samples, samples, is_diverged=False).smoothed()
    assert smoothed.max() < 2.01
    assert smoothed.min() == pytest.approx(2.0)


def test_digits_with_muon_are_near_the_recipes_rates(capsys, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    opts = ["--opts", "TRAIN.OPTIMIZER.NAME", "muon", "DEVICE", "cpu", "TRAIN.LR_REFERENCE_BATCH", "12"]
    assert main(["--cfg", "swin_digits", "--updates", "120", "--picture", "new/lr.png", *opts]) == 0
    torch.set_num_threads(threads)
    facts = json.loads(Path("new/lr.json").read_text())
    assert 2e-3 < facts["suggested"] < 1e-1
    assert facts["steepest"] <= facts["suggested"] <= facts["lowest"]
    assert facts["is_diverged"]
    assert facts["lr_factor"] == 4  # 48 images an update, for the rates of 12
    assert facts["base_lr"] == pytest.approx(facts["suggested"] / 4)
    rates = np.array(facts["rates"])
    assert np.diff(np.log(rates)) == pytest.approx(np.log(1e6) / 119)
    assert set(facts["samples"]) == {48, 45}  # the last update of 1,437 images has 45
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith("  BASE_LR: "))
    Path("found.yaml").write_text(f"TRAIN:\n{line}\n")
    assert pytest.approx(facts["base_lr"], rel=0.05) == load_config("found.yaml").TRAIN.BASE_LR
    assert "multiplied by 4 for this batch" in out
    pixels = np.asarray(Image.open("new/lr.png").convert("RGB")).reshape(-1, 3)
    assert (np.abs(pixels - np.array([255, 127, 14])).sum(1) < 30).sum() > 300  # the line of the suggestion
    assert {path.name for path in tmp_path.iterdir()} == {"new", "found.yaml"}  # no folder of a run


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_every_optimizer_is_swept_and_a_run_of_the_same_name_is_left_alone(runner, name):
    assert runner("one", "--opts", "TRAIN.EPOCHS", "1") == 0
    before = {path: path.stat().st_mtime_ns for path in runner.folder.rglob("*")}
    runner.text()
    opts = ["--optim", name, "--picture", "lr.png", "--updates", "30", "--highest", "100", "--accumulation-steps", "2"]
    status = main(runner.arguments("one", *opts))
    assert status in (0, 2)  # 30 updates of 16 small images may teach nothing
    assert ("BASE_LR" if status == 0 else "no rate is suggested: the loss fell by") in runner.text()
    facts = json.loads(Path("lr.json").read_text())
    assert (facts["optimizer"], facts["batch"]) == (name, 16)
    assert (facts["suggested"] is None) == (status == 2)
    after = {path: path.stat().st_mtime_ns for path in runner.folder.rglob("*") if path.stem != "lr"}
    before.pop(runner.folder, None), after.pop(runner.folder, None)
    assert {path: time for path, time in after.items() if path.stem != "lr"} == before


def test_a_budget_is_not_measured(runner, monkeypatch):
    monkeypatch.setattr("swin.engine.run.fix_length", lambda *_: pytest.fail("measured for nothing"))
    main(runner.arguments("budget", "--updates", "20", "--opts", "TRAIN.MINUTES", "5"))
    assert Path("find_lr.json").is_file()


def test_one_fold_of_a_cross_validation_is_tried(runner):
    main(runner.arguments("folds", "--updates", "20", "--opts", "DATA.FOLDS", "3"))
    assert json.loads(Path("find_lr.json").read_text())["samples"][:7] == [*[8] * 6, 4]  # two thirds of 78 images
    assert not runner.run_dir("folds").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--cfg", "swin_absent"], "swin_absent"),
        (["--cfg", "swin_digits", "--opts", "TRAIN.EPOCH", "2"], "TRAIN.EPOCHS"),
        (["--cfg", "swin_digits", "--picture", "plot.jpg"], "has to end in .png"),
        (["--cfg", "swin_digits", "--updates", "5"], "at least 20"),
        (["--cfg", "swin_digits", "--lowest", "1", "--highest", "0.1"], "--highest 0.1 has to be above --lowest 1"),
        (["--cfg", "swin_digits", "--eval"], "leave out --eval"),
        (["--cfg", "swin_digits", "--dry-run"], "and --dry-run"),
        (["--cfg", "swin_flowers", "--data-path", "absent"], "absent"),
        (["--cfg", "swin_digits", "--device", "tpu"], "tpu"),
        (["--cfg", "swin_digits", "--lr", "1"], "TRAIN.BASE_LR"),
        (["--cfg", "swin_digits", "--updates", "40", "--lowest", "1e4", "--highest", "1e6"], "lower --lowest"),
    ],
)
def test_errors_are_one_message(flags, words, capsys):
    assert main([*flags, *([] if "--device" in flags else ["--device", "cpu"])]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert words in captured.err
    assert not list(Path.cwd().iterdir())

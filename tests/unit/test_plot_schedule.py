"""The command `python -m tools.plot_schedule`."""

import json

import numpy as np
import pytest
from PIL import Image

from swin.config import load_config
from tools.plot_schedule import main, make_plan

TINY = {"num_images": 1_281_167, "processes": 8}


def test_the_rates_of_swin_tiny_are_the_official_ones():
    """300 epochs of 1,252 updates of 1,024 images, 20 of them warm-up; base rates 5e-4, 5e-7 and 5e-6 for 512."""
    plan = make_plan("swin_tiny", load_config("swin_tiny"), **TINY)
    assert (plan.progress.updates_per_epoch, plan.warmup_steps, len(plan.rates)) == (1252, 25_040, 375_600)
    assert plan.rates[0] == pytest.approx(1e-6)
    assert plan.rates[12_520] == pytest.approx((1e-6 + 1e-3) / 2)
    assert int(plan.rates.argmax()) == 25_040
    assert plan.rates.max() == pytest.approx(1e-3)
    middle = (25_040 + 375_600) // 2
    assert plan.rates[middle] == pytest.approx((1e-3 + 1e-5) / 2)
    assert plan.rates[-1] == pytest.approx(1e-5, rel=1e-4)


def test_layer_decay_scales_down_to_the_embedding():
    cfg = load_config("swin_tiny", ["TRAIN.LAYER_DECAY", "0.9"])
    # Twelve blocks lie between the patches and the head.
    assert make_plan("a", cfg, num_images=1000, processes=1).scales == pytest.approx((0.9**13, 1.0))


def test_several_recipes_are_drawn_in_one_picture(tmp_path, capsys):
    output = tmp_path / "new" / "plot.png"
    assert main(["--cfg", "swin_digits", "--cfg", "swin_flowers", "--images", "2000", "--output", str(output)]) == 0
    text = capsys.readouterr().out
    assert "swin_digits: 2,000 images, 48 an update, 42 updates an epoch, 504 in all" in text
    assert "first 1e-06, peak 0.03 at update 50, last 1.04e-05" in text
    assert f"{output}, with its numbers in {tmp_path / 'new' / 'plot.json'}" in text
    digits, flowers = json.loads(output.with_suffix(".json").read_text())["schedules"]
    assert (digits["updates_per_epoch"], digits["warmup_updates"], flowers["images"]) == (42, 50, 2000)
    assert len(digits["lr_by_epoch"]) == 13
    assert digits["weight_decay"] == pytest.approx(0.05)
    colours = np.unique(np.asarray(Image.open(output).convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colours) > 20


def test_the_digits_and_a_folder_are_counted(tmp_path, shapes):
    output = tmp_path / "plot.png"
    for flags, count in ((["--cfg", "swin_digits"], 1437), (["--cfg", "swin_flowers", "--data-path", str(shapes)], 78)):
        assert main([*flags, "--output", str(output)]) == 0
        assert json.loads(output.with_suffix(".json").read_text())["schedules"][0]["images"] == count


def test_a_length_that_a_budget_decides_is_said_to_be_unknown(tmp_path, capsys):
    output = tmp_path / "plot.png"
    assert main(["--cfg", "swin_digits", "--output", str(output), "--opts", "TRAIN.MINUTES", "2"]) == 0
    assert "drawn over the 12 of TRAIN.EPOCHS instead" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--cfg", "swin_absent"], "swin_absent"),
        (["--cfg", "swin_digits", "--opts", "TRAIN.EPOCH", "2"], "TRAIN.EPOCHS"),
        (["--cfg", "swin_digits", "--output", "plot.jpg"], "has to end in .png"),
        (["--cfg", "swin_flowers", "--data-path", "absent"], "absent"),
    ],
)
def test_errors_are_one_message(flags, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(flags) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert words in captured.err
    assert not list(tmp_path.iterdir())

"""The recipes for own folders, with smaller models: each trains two epochs, the probe its head alone."""

import pytest
import torch

import main
from swin import create_model
from swin.config import load_config

# As scratch_small, but narrower and shallower; its size goes with it, since a recipe's variant would win otherwise.
SMALL = [
    *("MODEL.SWIN.EMBED_DIM", "16", "MODEL.SWIN.DEPTHS", "[1, 1]", "MODEL.SWIN.NUM_HEADS", "[1, 2]"),
    *("MODEL.SWIN.WINDOW_SIZE", "4", "DATA.IMG_SIZE", "32", "DATA.NUM_WORKERS", "0", "REPORT", "False"),
]


@pytest.fixture
def train(tmp_path, shapes, capsys):
    """Runs a recipe for two epochs; gives what it printed and its last checkpoint."""

    def run(name, *flags):
        arguments = ["--cfg", name, "--data-path", str(shapes), "--output", str(tmp_path), "--batch-size", "8", *flags]
        options = [*SMALL, "TRAIN.EPOCHS", "2", "EVAL_FREQ", "2"]
        assert main.main([*arguments, "--device", "cpu", "--disable-amp", "--opts", *options]) == 0
        checkpoint = tmp_path / name / "default" / "checkpoints" / "last.pth"
        return capsys.readouterr().out, torch.load(checkpoint, weights_only=True)

    return run


def test_from_scratch_then_fine_tuned_and_probed(train, tmp_path):
    text, first = train("scratch_small")
    assert "steps: 2 epochs x 10 updates = 20, the first 1 of them warm-up" in text
    assert "x sqrt(8/32)): first 5.000e-07 peak 3.500e-03" in text
    assert first["ema"] is not None
    file = str(tmp_path / "scratch_small" / "default")
    text, tuned = train("finetune", "--pretrained", file)
    assert "the first 2 of them warm-up" in text
    assert "x sqrt(8/128), x 0.9 for each block below the head): first 2.500e-08 peak 2.500e-05" in text
    assert "will be learned" not in text
    moved = {name for name, value in tuned["model"].items() if not torch.equal(value, first["ema"]["model"][name])}
    assert moved == set(tuned["model"])
    _, probed = train("probe", "--pretrained", file)
    moved = {name for name, value in probed["model"].items() if not torch.equal(value, first["ema"]["model"][name])}
    assert moved == {"head.weight", "head.bias"}


def test_the_short_imagenet_schedule_takes_any_length(shapes, tmp_path):
    options = [*SMALL, "TRAIN.EPOCHS", "2"]
    arguments = ["--cfg", "in1k_100e", "--data-path", str(shapes), "--output", str(tmp_path), "--device", "cpu"]
    assert main.main([*arguments, "--dry-run", "--disable-amp", "--batch-size", "26", "--opts", *options]) == 0


def test_weights_of_another_variant_say_what_to_type(shapes, tmp_path, capsys):
    torch.save(create_model("swin_small", num_classes=3).state_dict(), tmp_path / "small.pth")
    arguments = ["--cfg", "finetune", "--data-path", str(shapes), "--pretrained", str(tmp_path / "small.pth")]
    assert main.main([*arguments, "--output", str(tmp_path), "--device", "cpu", "--dry-run"]) == 2
    captured = capsys.readouterr()
    instead = ["--opts", "MODEL.VARIANT", "swin_small"]
    assert f"The file is a swin_small: {' '.join(instead)} trains this model" in captured.out + captured.err
    assert load_config("finetune", instead[1:]).MODEL.SWIN.DEPTHS == [2, 2, 18, 2]

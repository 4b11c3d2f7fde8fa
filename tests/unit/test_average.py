"""Averages of checkpoints: uniform, of the newest epochs, and greedy ones that are measured."""

from pathlib import Path

import pytest
import torch

from swin import SwinTransformer, inference_model, load_weights
from swin.errors import CheckpointError
from swin.weights import Weights, read_weights
from tools import average

SHAPE = {"img_size": 32, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4, "num_classes": 3}


def write(path: Path, seed: int, classes=("a", "b", "c"), **more) -> str:
    torch.manual_seed(seed)
    torch.save({"model": SwinTransformer(**{**SHAPE, **more}).state_dict(), "classes": list(classes)}, path)
    return str(path)


def run(output: Path, *arguments: str) -> int:
    return average.main(["--output", str(output), "--checkpoints", *arguments])


def test_the_uniform_average_is_the_mean_in_any_order(tmp_path):
    files = [write(tmp_path / f"{seed}.pth", seed) for seed in range(3)]
    assert run(tmp_path / "one.pth", *files) == 0
    assert run(tmp_path / "other.pth", *reversed(files)) == 0
    found, other = read_weights(tmp_path / "one.pth"), read_weights(tmp_path / "other.pth")
    parts = [read_weights(file).tensors for file in files]
    for name, value in found.tensors.items():
        expected = torch.stack([part[name].double() for part in parts]).mean(dim=0).float()
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-7)
        torch.testing.assert_close(value, other.tensors[name], rtol=0, atol=1e-7)
    assert found.classes == ["a", "b", "c"]
    model = SwinTransformer(**SHAPE)
    assert not load_weights(model, tmp_path / "one.pth", strict=True).initialised
    assert found.config["MODEL"]["SWIN"]["EMBED_DIM"] == 8


def test_several_labels_keep_a_threshold(tmp_path):
    files = [write(tmp_path / f"{seed}.pth", seed) for seed in range(2)]
    for file, threshold in zip(files, (0.2, 0.4), strict=True):
        torch.save({**torch.load(file), "multi_label": True, "threshold": threshold}, file)
    assert run(tmp_path / "mean.pth", *files) == 0
    assert read_weights(tmp_path / "mean.pth").threshold == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"embed_dim": 16}, "other tensors"), ({"classes": ("a", "b", "d")}, "other classes"), (None, "at least two")],
)
def test_what_is_not_of_one_model_is_refused(tmp_path, capsys, change, expected):
    files = [write(tmp_path / "0.pth", 0), *([write(tmp_path / "1.pth", 1, **change)] if change else [])]
    assert run(tmp_path / "mean.pth", *files) == 2
    captured = capsys.readouterr()
    assert expected in captured.out + captured.err
    assert not (tmp_path / "mean.pth").exists()
    assert run(tmp_path / "mean.safetensors", *files, files[0]) == 2


def make_weights(name: str, value: float) -> Weights:
    return Weights(name, {"x": torch.tensor([value])}, {}, "official")


def test_a_greedy_average_keeps_what_makes_it_no_worse():
    # Of 5, the aim, 4.5 is nearest; 5.8 brings the mean nearer, 7 and 40 do not.
    weights = [make_weights(f"{value}.pth", value) for value in (40.0, 5.8, 4.5, 7.0)]
    said = []
    mean = average.choose(weights, lambda tensors: -abs(float(tensors["x"]) - 5.0), said.append)
    assert mean.count == 2
    assert float(mean.tensors()["x"]) == pytest.approx(5.15)
    assert [line.rpartition(", ")[2] for line in said[4:]] == ["kept", "left out", "left out"]


def test_the_newest_epochs_of_a_run_are_averaged_and_measured(digits_run, tmp_path, capsys):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    content = torch.load(digits_run / "checkpoints" / "last.pth")
    content = {key: content[key] for key in ("model", "classes", "config")}
    for epoch, factor in ((2, 7.0), (9, 1.0), (10, 0.98)):
        model = {name: value * factor for name, value in content["model"].items()}
        torch.save({**content, "model": model}, tmp_path / "run" / "checkpoints" / f"ckpt_epoch_{epoch}.pth")
    assert run(tmp_path / "mean.pth", str(tmp_path / "run"), "--last", "2") == 0
    mean, bias = read_weights(tmp_path / "mean.pth"), content["model"]["norm.weight"]
    torch.testing.assert_close(mean.tensors["norm.weight"], bias * 0.99)
    capsys.readouterr()
    greedy = ["--greedy", "--workers", "0", "--device", "cpu"]
    assert run(tmp_path / "soup.pth", str(tmp_path / "run"), "--last", "3", *greedy) == 0
    text = capsys.readouterr().out
    assert "choosing by Acc@1 of 360 images" in text
    assert text.count("kept") + text.count("left out") == 2
    image = torch.zeros(8, 8, dtype=torch.uint8).numpy()
    assert len(inference_model(tmp_path / "soup.pth", image)["pred_scores"]) == 10
    assert average.main(["--output", str(tmp_path / "x.pth"), "--checkpoints", str(tmp_path), "--last", "2"]) == 2


def test_a_folder_without_epochs_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="SAVE_KEEP"):
        average.read_all([str(tmp_path)], last=2)

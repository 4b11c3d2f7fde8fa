"""The benchmark's contestants, floor and figures, on a small model."""

import json

import pytest
import torch
from torch import nn

from swin.engine.precision import Precision
from swin.models import SwinTransformer
from tools import benchmark
from tools.benchmark_model import ProcessAction, activation_bytes, largest_batch, make_contestant, scaling_exponent

SMALL = {"img_size": 56, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 5}
FP32 = Precision("cpu", None)


@pytest.mark.parametrize("peer", ["timm", "torchvision"])
def test_a_contestant_computes_the_same_function(peer):
    ours = SwinTransformer(**SMALL, drop_path_rate=0.0).eval()
    images = torch.randn(1, 3, 56, 56)
    with torch.inference_mode():
        torch.testing.assert_close(make_contestant(peer, ours).eval()(images), ours(images), rtol=1e-4, atol=1e-5)


def start_process(model: nn.Module, *, channels: int, train: bool) -> ProcessAction:
    images, labels = torch.randn(1, channels, 56, 56), torch.tensor([0])
    return ProcessAction(model, images, labels, FP32, train=train, compile_mode="off", keep_memory=train)


def test_a_contestant_in_its_own_process_works_on_a_copy_and_reports_its_memory():
    model = SwinTransformer(**SMALL)
    action = start_process(model, channels=3, train=True)
    action()
    assert action.peak_bytes() > 50 * 2**20
    assert model.head.weight.grad is None
    action.close()


def test_a_contestant_whose_process_fails_says_so():
    action = start_process(SwinTransformer(**SMALL), channels=4, train=False)
    with pytest.raises(RuntimeError, match="process ended with status 1"):
        action()


def test_activation_bytes_count_what_autograd_keeps_and_no_weights():
    layer = nn.Linear(32, 32)
    assert activation_bytes(nn.Sequential(layer, nn.ReLU()), torch.randn(4, 32), FP32) == 2 * 32 * 4


def test_the_largest_batch_is_found_by_doubling_and_halving(monkeypatch):
    def step(batch: int) -> None:
        if batch > 11:
            raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert largest_batch(step) == 11


def test_the_exponent_of_a_power_law():
    pixels = [1, 4, 9, 16]
    assert scaling_exponent(pixels, [3 * count**1.2 for count in pixels]) == pytest.approx(1.2)


@pytest.mark.parametrize("what", ["model", "train", "loop"])
def test_the_command_prints_and_writes_its_figures(what, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "create_model", lambda name, **changes: SwinTransformer(**SMALL))
    file = tmp_path / "result.json"
    command = [what, "--against", "timm", "--dtype", "fp32", "--rounds", "1", "--warmup", "0", "--device", "cpu"]
    assert benchmark.main([*command, "--batch-size", "2", "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert result["machine"]["torch"] == torch.__version__
    assert result["fp32"]["images_per_sec"]["loop" if what == "loop" else "timm"]["median"] > 0
    text = capsys.readouterr().out
    assert "the loop keeps" in text and "with the loader" in text if what == "loop" else "of the floor" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--against", "keras"], "expected some of: timm, torchvision"), (["--dtype", "int8"], "fp32, bf16, fp16")],
)
def test_what_is_not_known_is_said(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "create_model", lambda name, **changes: SwinTransformer(**SMALL))
    assert benchmark.main(["model", "--device", "cpu", *arguments]) == 2
    assert message in capsys.readouterr().err

"""What --throughput measures: turns, medians, the floor, memory."""

import json

import pytest
import torch
from torch import nn

from swin.engine import throughput
from swin.engine.precision import Precision
from swin.engine.throughput import Floor, Throughput, Timing, interleave, measure_throughput
from swin.models import SwinTransformer

SMALL = {"img_size": 56, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 5}
FP32 = Precision("cpu", None)


def test_the_contestants_take_turns_and_the_warm_up_is_not_counted():
    order: list[str] = []
    timings = interleave(
        {name: lambda name=name: order.append(name) for name in "ab"},
        8,
        rounds=2,
        warmup=1,
        device=torch.device("cpu"),
    )
    assert order == list("ababab")
    assert timings["a"].fields()["lowest"] <= timings["a"].median <= timings["a"].fields()["highest"]


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    # The second round was slow for both.
    assert Timing((10.0, 2.0, 12.0)).ratio(Timing((5.0, 1.0, 4.0))) == 2.0


def test_the_floor_is_every_linear_layer_and_gives_each_a_gradient():
    model = SwinTransformer(**SMALL)
    images = torch.randn(2, 3, 56, 56)
    floor = Floor(model, images, None)
    floor(images)
    weights = [module.weight for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    assert len(floor.inputs) == len(weights)
    assert all(weight.grad is not None for weight in weights)
    assert model.norm.weight.grad is None


@pytest.mark.parametrize("backend", ["cpu", "sdpa"])
def test_the_floor_is_given_what_each_layer_is_given_in_the_model(backend):
    model = SwinTransformer(**SMALL, attention=backend)
    images = torch.randn(3, 3, 56, 56)
    floor = Floor(model, images, None)
    shapes = {}
    for layer in floor.layers:
        layer.register_forward_pre_hook(lambda layer, inputs: shapes.update({layer: inputs[0].shape}))
    model(images)
    assert [shapes[layer] for layer in floor.layers] == [saved.shape for saved in floor.inputs]


def test_a_model_is_timed_in_inference_and_left_as_it_was(monkeypatch):
    monkeypatch.setattr(throughput, "TIME_LIMIT", 0)
    model = SwinTransformer(**SMALL)
    calls = []
    model.register_forward_pre_hook(
        lambda model, inputs: calls.append((model.training, torch.is_grad_enabled(), len(inputs[0])))
    )
    result = measure_throughput(model, torch.randn(2, 3, 56, 56), FP32)
    assert model.training
    assert set(calls) == {(False, False, 2)}
    assert len(result.model.speeds) == len(result.floor.speeds) == throughput.MIN_ROUNDS
    assert result.peak_bytes > 50 * 2**20


def test_the_figures_are_medians_of_rounds():
    result = Throughput(model=Timing((10.0, 30.0, 20.0)), floor=Timing((20.0, 40.0, 80.0)), peak_bytes=2**30)
    assert result.share_of_floor == 0.5
    assert str(result) == (
        "throughput 20.0 (10.0 to 30.0) images/s over 3 rounds, 50% of its linear layers alone, peak memory 1024 MiB"
    )


def test_the_option_prints_and_writes_the_figures_and_nothing_else(runner, monkeypatch):
    monkeypatch.setattr(throughput, "TIME_LIMIT", 0)
    assert runner("speed", "--throughput") == 0
    assert "batch_size 8 throughput" in runner.text()
    result = json.loads((runner.run_dir("speed") / "throughput.json").read_text())
    assert result["images_per_sec"]["model"]["median"] > 0
    assert (result["batch_size"], result["rounds"], result["precision"]) == (8, throughput.MIN_ROUNDS, "fp32")
    assert [file.name for file in runner.run_dir("speed").iterdir()] == ["throughput.json"]


def test_the_option_compiles_where_the_config_says_so(runner, monkeypatch):
    monkeypatch.setattr(throughput, "TIME_LIMIT", 0)
    modes = []
    monkeypatch.setattr(SwinTransformer, "compile", lambda self, mode: modes.append(mode))
    assert runner("speed", "--throughput", "--opts", "TRAIN.COMPILE", "default") == 0
    assert modes == ["default"]

"""The benchmark's baselines, linear bound, turns and format, on a small model."""

import json
import os
from functools import partial

import pytest
import torch
from torch import nn

from swin.engine.precision import Precision
from swin.models import SwinTransformer
from tests.engines.extras import need
from tools.benchmark import models
from tools.benchmark.__main__ import main
from tools.benchmark.linear_bound import LinearBound
from tools.benchmark.memory import activation_bytes, largest_batch
from tools.benchmark.process import ProcessRun
from tools.benchmark.timing import describe, interleave, make_result, ratio

SMALL = {"img_size": 56, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 5}
FP32 = Precision("cpu", None)
FIGURES = {"median", "mean", "stdev", "lowest", "highest"}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(models, "create_model", lambda name, **changes: SwinTransformer(**SMALL))


def test_the_baselines_take_turns_and_the_warm_up_is_not_counted():
    order: list[str] = []

    def run(name: str) -> float:
        order.append(name)
        return float(len(order))

    speeds = interleave({name: partial(run, name) for name in "ab"}, rounds=2, warmup=1)
    assert order == list("ababab")
    assert speeds == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    # The second round was slow for both.
    assert ratio([10.0, 2.0, 12.0], [5.0, 1.0, 4.0]) == 2.0
    # The fraction of the linear bound.
    assert ratio([10.0, 30.0, 20.0], [20.0, 40.0, 80.0]) == 0.5


def test_a_result_holds_mean_spread_and_n_and_is_told_in_lines():
    result = make_result({"ours": [10.0, 30.0, 20.0]}, {"fraction": 0.5}, peak_bytes={"ours": 2**30}, images=3)
    figures = {"median": 20.0, "mean": 20.0, "stdev": 10.0, "lowest": 10.0, "highest": 30.0}
    assert result["figures"] == {"ours": figures}
    assert (result["unit"], result["n"], result["images"]) == ("images/s", 3, 3)
    assert describe("fp32", result).splitlines() == [
        "fp32: images/s, median (lowest to highest) of 3 rounds",
        "  ours: 20.0 (10.0 to 30.0)",
        "  ratios: fraction 0.500",
        "  peak_bytes: ours 1024.0 MiB",
    ]


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_baseline_computes_the_same_function(library):
    ours = SwinTransformer(**SMALL, drop_path_rate=0.0).eval()
    images = torch.randn(1, 3, 56, 56)
    with torch.inference_mode():
        theirs = models.make_baseline(library, ours).eval()(images)
        torch.testing.assert_close(theirs, ours(images), rtol=1e-4, atol=1e-5)


def test_the_linear_bound_is_every_linear_layer_and_gives_each_a_gradient():
    model = SwinTransformer(**SMALL)
    images = torch.randn(2, 3, 56, 56)
    bound = LinearBound(model, images, None)
    bound(images)
    weights = [module.weight for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    assert len(bound.inputs) == len(weights)
    assert all(weight.grad is not None for weight in weights)
    assert model.norm.weight.grad is None


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_the_linear_bound_is_given_what_each_layer_is_given_in_the_model(backend):
    model = SwinTransformer(**SMALL, attention=backend)
    images = torch.randn(3, 3, 56, 56)
    bound = LinearBound(model, images, None)
    shapes = {}
    for layer in bound.layers:
        layer.register_forward_pre_hook(lambda layer, inputs: shapes.update({layer: inputs[0].shape}))
    model(images)
    assert [shapes[layer] for layer in bound.layers] == [saved.shape for saved in bound.inputs]


def start_process(model: nn.Module, *, channels: int, train: bool) -> ProcessRun:
    arguments = (model, torch.randn(1, channels, 56, 56), torch.tensor([0]), FP32)
    return ProcessRun(partial(models.make_run, *arguments, is_training=train, compile_mode="off"), keep_memory=train)


def test_a_baseline_in_its_own_process_works_on_a_copy_and_reports_its_memory():
    model = SwinTransformer(**SMALL)
    run = start_process(model, channels=3, train=True)
    assert run() > 0
    assert run.peak_bytes > 50 * 2**20
    assert model.head.weight.grad is None
    run.close()


def test_a_baseline_that_fails_says_why():
    run = start_process(SwinTransformer(**SMALL), channels=4, train=False)
    with pytest.raises(RuntimeError, match="3 channels, but got 4"):
        run()
    run.close()


def test_a_baseline_whose_process_ends_says_so():
    run = ProcessRun(partial(partial, os._exit, 1), keep_memory=False)
    with pytest.raises(RuntimeError, match="process pool was terminated"):
        run()


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
    assert models.scaling_exponent([1, 2, 3, 4], [1 / (3 * side**2.4) for side in (1, 2, 3, 4)]) == pytest.approx(1.2)


RATIOS = {
    "model": {"fraction_of_linear_bound", "ours_to_best_baseline"},
    "train": {"fraction_of_linear_bound", "ours_to_best_baseline"},
    "loop": {"loop_to_bare", "loader_to_bare"},
    "model --scaling": set(),
}


@pytest.mark.parametrize("what", RATIOS)
def test_the_command_prints_and_writes_its_figures(what, small, tmp_path, capsys):
    file = tmp_path / "result.json"
    command = [*what.split(), "--against", "timm", "--dtype", "fp32", "--rounds", "1", "--warmup", "0"]
    command += ["--device", "cpu", "--batch-size", "2", "--json", str(file)]
    assert main(command) == 0
    record = json.loads(file.read_text())
    assert record["command"] == " ".join(["python -m tools.benchmark", *command])
    assert record["machine"]["torch"] == torch.__version__
    result = record["results"]["fp32"]
    name = {"loop": "loop", "model --scaling": "224"}.get(what, "timm")
    assert result["figures"][name]["median"] > 0
    assert all(set(figures) == FIGURES for figures in result["figures"].values())
    assert all(one["lowest"] <= one["median"] <= one["highest"] for one in result["figures"].values())
    assert (result["n"], result["unit"], set(result["ratios"])) == (1, "images/s", RATIOS[what])
    assert ("activation_bytes_per_image" in result) == (what == "train")
    text = capsys.readouterr().out
    assert all(f"{key} " in text for key in RATIOS[what])


@pytest.mark.slow
def test_engines_are_measured_beside_the_eager_models(small, tmp_path, capsys):
    need("onnxruntime", "openvino")
    file = tmp_path / "result.json"
    command = ["engines", "--against", "timm", "--dtype", "fp32", "--rounds", "1", "--warmup", "0", "--json", str(file)]
    assert main(command) == 0
    results = json.loads(file.read_text())["results"]
    assert list(results) == ["batch 1", "batch 8"]
    engines = ["eager fp32", "onnxruntime fp32", "openvino fp32"]
    expected = {f"{owner} {name}" for owner in ("ours", "timm") for name in engines} | {"ours compiled fp32"}
    for result in results.values():
        assert set(result["figures"]) == expected
        assert {f"ours to timm, {name}" for name in engines} < set(result["ratios"])
        assert result["ratios"]["eager fp32 to eager fp32"] == 1
    assert main(["engines", "--dtype", "fp64"]) == 2
    assert "expected some of: fp32, bf16, int8" in capsys.readouterr().err


def test_the_steps_of_an_evaluation_are_timed_and_what_they_leave_is_measured(tmp_path, capsys):
    file = tmp_path / "result.json"
    command = ["evaluation", "--images", "300", "--classes", "10", "--rounds", "1", "--json", str(file)]
    assert main(command) == 0
    result = json.loads(file.read_text())["results"]["300 x 10"]
    steps = ["evaluate", "measure", "save", "write_csv", "write_report"]
    assert set(result["figures"]) == {*steps, "random_numbers"}
    assert all(figures["median"] > 0 for figures in result["figures"].values())
    assert (result["unit"], result["n"], result["logits"]) == ("ms", 1, "float32")
    peaks = result["peak_bytes"]
    assert list(peaks) == ["before", *steps]
    assert sorted(peaks.values()) == list(peaks.values())
    assert set(result["file_bytes"]) == {"predictions.npz", "predictions.csv", "report.html"}
    assert "write_report: " in capsys.readouterr().out
    assert main(["evaluation", "--images", "300"]) == 2
    assert "--images and --classes take as many numbers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--against", "keras"], "expected some of: timm, torchvision"), (["--dtype", "int8"], "fp32, bf16, fp16")],
)
def test_what_is_not_known_is_said(arguments, message, small, capsys):
    assert main(["model", "--device", "cpu", *arguments]) == 2
    assert message in capsys.readouterr().err

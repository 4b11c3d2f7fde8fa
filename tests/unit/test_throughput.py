"""What --throughput measures: medians of rounds, memory."""

import json
import re

import torch

from swin.engine import throughput
from swin.engine.precision import Precision
from swin.engine.throughput import measure_throughput, summarize
from swin.models import SwinTransformer

SMALL = {"img_size": 56, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 5}


def test_a_model_is_timed_in_inference_and_left_as_it_was(monkeypatch):
    monkeypatch.setattr(throughput, "TIME_LIMIT", 0)
    model = SwinTransformer(**SMALL)
    calls = []
    model.register_forward_pre_hook(
        lambda model, inputs: calls.append((model.training, torch.is_grad_enabled(), len(inputs[0])))
    )
    speeds, peak = measure_throughput(model, torch.randn(2, 3, 56, 56), Precision("cpu", None))
    assert model.training
    assert set(calls) == {(False, False, 2)}
    assert len(speeds) == throughput.MIN_ROUNDS < len(calls)
    assert peak > 50 * 2**20


def test_the_figures_are_medians_of_rounds():
    figures = summarize([10.0, 30.0, 20.0])
    assert figures == {"median": 20.0, "mean": 20.0, "stdev": 10.0, "lowest": 10.0, "highest": 30.0}
    assert throughput.SUMMARY.format(**figures) == "20.0 (10.0 to 30.0)"


def test_a_single_round_has_no_spread():
    assert summarize([2.0])["stdev"] is None


def test_the_option_prints_and_writes_the_figures_and_nothing_else(runner, monkeypatch):
    monkeypatch.setattr(throughput, "TIME_LIMIT", 0)
    assert runner("speed", "--throughput") == 0
    number = r"[\d.]+"
    line = rf"batch_size 8 throughput {number} \({number} to {number}\) images/s over 5 rounds, peak memory \d+ MiB"
    assert re.search(line + r" \(fp32 on cpu\)", runner.text())
    result = json.loads((runner.run_dir("speed") / "throughput.json").read_text())
    assert result["images_per_sec"]["model"]["median"] > 0
    assert result["peak_bytes"] > 50 * 2**20
    assert (result["batch_size"], result["rounds"], result["precision"]) == (8, throughput.MIN_ROUNDS, "fp32")
    assert [file.name for file in runner.run_dir("speed").iterdir()] == ["throughput.json"]


def test_the_option_compiles_where_the_config_says_so(runner, monkeypatch):
    monkeypatch.setattr(throughput, "TIME_LIMIT", 0)
    modes = []
    monkeypatch.setattr(SwinTransformer, "compile", lambda self, mode: modes.append(mode))
    assert runner("speed", "--throughput", "--opts", "TRAIN.COMPILE", "default") == 0
    assert modes == ["default"]

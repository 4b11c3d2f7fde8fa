"""Attention backends and whole models on a GPU against references, and their speed beside timm's."""

import json

import pytest
import torch

from swin import SwinTransformer
from swin.kernels import BACKENDS
from tests.numerics.test_window_attention import GRIDS, attend, reference
from tools.benchmark.__main__ import main

# Largest differences from float64, relative to the largest value. float32: sums of up to 49 terms, each rounded at
# 6e-8. The small formats round inputs of products, and weights, to 8 and 11 bits; errors add up over tokens.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SIZES = {"embed_dim": 32, "depths": (2, 2, 2), "num_heads": (2, 4, 8), "num_classes": 10, "drop_path_rate": 0.0}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("height", "width", "window", "shift"), GRIDS)
def test_results_and_gradients_equal_the_definition(device, backend, dtype, height, width, window, shift):
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(2, height, width, 3, 2, 32, generator=generator).to(dtype)
    bias = torch.randn(2, window**2, window**2, generator=generator)
    upstream = torch.randn(2, height, width, 64, generator=generator).to(dtype)
    results = []
    for name, place, kind in ((backend, device, dtype), (None, torch.device("cpu"), torch.float64)):
        # The bias table stays in float32 in training; its products are in the format of the queries.
        inputs = [tensor.to(place, kind).requires_grad_() for tensor in (qkv, bias)]
        out = attend(*inputs, window, shift, name) if name else reference(*inputs, window, shift)
        results.append((out, *torch.autograd.grad(out, inputs, upstream.to(place, out.dtype))))
    for ours, exact in zip(*results, strict=True):
        error = (ours.double().cpu() - exact).abs().max() / exact.abs().max()
        assert error < 2 * TOLERANCE[dtype]  # the bias is rounded too


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16], ids=str)
def test_a_models_gradients_are_those_of_float64_on_a_cpu(device, backend, autocast):
    torch.manual_seed(0)
    exact = SwinTransformer(attention="eager", **SIZES).double()
    model = SwinTransformer(attention=backend, **SIZES)
    model.load_state_dict(exact.state_dict())
    model.to(device)
    images = torch.randn(2, 3, 120, 72, generator=torch.Generator().manual_seed(1))  # padded and shifted grids
    with torch.autocast(device.type, dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        logits = model(images.to(device)).float()
    for output in (logits, exact(images.double())):
        torch.nn.functional.cross_entropy(output, torch.tensor([1, 2], device=output.device)).backward()
    # A hundred operations on the way, each rounded to 24, 8 and 11 bits. Gradients that almost cancel out, such as
    # those of some norms, have the errors of what they are sums of.
    limit = {None: 1e-5, torch.bfloat16: 0.15, torch.float16: 0.02}[autocast]
    total = torch.stack([parameter.grad.norm() for parameter in exact.parameters()]).norm()
    for (name, ours), theirs in zip(model.named_parameters(), exact.parameters(), strict=True):
        error = (ours.grad.double().cpu() - theirs.grad).norm() / theirs.grad.norm().clamp(min=0.05 * total)
        assert error < limit, name


@pytest.mark.gpu
def test_throughput_beside_timms_compiled(gpu, tmp_path, capsys):
    figures = tmp_path / "figures.json"
    options = ["--against", "timm", "--compile", "default", "--dtype", "bf16", "--batch-size", "64", "--rounds", "10"]
    assert main(["model", *options, "--json", str(figures)]) == 0
    result = json.loads(figures.read_text())["results"]["bf16"]
    with capsys.disabled():
        times = result["ratios"]["ours_to_best_baseline"]
        print(f"\nSwin-T, inference, bf16, batch 64, both compiled: {times:.2f} x timm's speed")
    assert all(timing["median"] > 0 for timing in result["figures"].values())

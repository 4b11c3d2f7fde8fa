"""Counted multiply-adds against those that torch counts while a model runs."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from swin import SwinTransformer, create_model
from swin.models.flops import count_flops, count_module_flops

SMALL = {"embed_dim": 8, "depths": (2, 1), "num_heads": (1, 2), "window_size": 4, "num_classes": 3}
MODELS = {
    "swin_tiny": lambda: create_model("swin_tiny", attention="eager"),
    "small": lambda: SwinTransformer(**SMALL, attention="eager"),
    "without patch norm": lambda: SwinTransformer(**SMALL, patch_norm=False, attention="eager"),
    "other factors and heads": lambda: SwinTransformer.from_layers(
        hidden_dim=6, layers=(1, 2), heads=(2, 3), head_dim=5, downscaling_factors=(4, 3), attention="eager"
    ),
}


def torch_flops(model: nn.Module, height: int, width: int) -> tuple[int, int]:
    """Multiply-adds of all matrix products and of the modules that hold weights, as torch sees them run."""
    module_flops = 0

    def add(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal module_flops
        module_flops += output.numel() * module.weight[0].numel()  # type: ignore[operator, index, union-attr]

    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(add)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, height, width))
    return counter.get_total_flops() // 2, module_flops


def norm_outputs(model: nn.Module, height: int, width: int) -> int:
    """Numbers that norms write."""
    total = 0

    def add(_: nn.Module, __: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel()

    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(add)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, height, width))
    return total


# Whole windows, then grids that are padded, oblong, and odd before a merging.
@pytest.mark.parametrize(("height", "width"), [(224, 224), (72, 100)])
@pytest.mark.parametrize("name", MODELS)
def test_both_counts_are_what_a_run_computes(name, height, width):
    model = MODELS[name]()
    all_products, in_modules = torch_flops(model, height, width)
    norms = norm_outputs(model, height, width)
    assert count_flops(model, height, width) == all_products + norms
    tokens = model.feature_maps(torch.zeros(1, 3, height, width))
    first, last = tokens[0], tokens[-1]
    bias, pooling = first.numel(), last.numel()
    assert count_module_flops(model, height, width) == in_modules + 2 * norms + bias + pooling


@pytest.mark.parametrize("attention", ["auto", "sdpa", "eager"])
def test_counting_leaves_the_model_as_it_is_whatever_its_backend(attention):
    model = SwinTransformer(**SMALL, attention=attention, use_checkpoint=True).train()
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    counts = [count(model, 72, 100) for count in (count_flops, count_module_flops)]
    assert torch.equal(torch.get_rng_state(), random_state)
    eager = SwinTransformer(**SMALL, attention="eager")
    assert counts == [count(eager, 72, 100) for count in (count_flops, count_module_flops)]
    assert model.training
    assert model.layers[0].blocks[0].attn.backend == attention
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

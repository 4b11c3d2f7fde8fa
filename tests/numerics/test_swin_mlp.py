"""Swin-MLP against its definition: a grouped convolution over the tokens of windows, in float64."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from swin import SwinMLP
from swin.models.swin_mlp import SpatialMlp
from tests.numerics.peers import perturb, relative_error

SMALL = {"img_size": 64, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4, "num_classes": 5}


def mix_by_definition(x: Tensor, weight: Tensor, bias: Tensor, heads: int, window: int, shift: int) -> Tensor:
    """As the paper's appendix has it: windows one after the other, each by torch's grouped convolution of width 1.

    Args:
        x: (B, H, W, C), whole windows.
    """
    _, H, W, C = x.shape
    before, after = (window - shift, shift) if shift else (0, 0)
    x = F.pad(x, (0, 0, before, after, before, after))
    out = torch.zeros_like(x)
    for top in range(0, x.shape[1], window):
        for left in range(0, x.shape[2], window):
            tokens = x[:, top : top + window, left : left + window].flatten(1, 2)  # (B, T, C)
            groups = (
                tokens.unflatten(-1, (heads, C // heads)).transpose(1, 2).flatten(1, 2)
            )  # (B, heads * T, C / heads)
            mixed = F.conv1d(groups, weight, bias, groups=heads).unflatten(1, (heads, -1)).transpose(1, 2).flatten(2)
            out[:, top : top + window, left : left + window] = mixed.unflatten(1, (window, window))
    return out[:, before : before + H, before : before + W]


@pytest.mark.parametrize(("grid", "shifted"), [((8, 12), False), ((8, 12), True), ((4, 4), True)])
def test_outputs_and_gradients_equal_the_definition(grid, shifted):
    torch.manual_seed(0)
    mlp = SpatialMlp(3, 4, is_shifted=shifted).double()
    perturb(mlp)
    x = torch.randn(2, *grid, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    shift = mlp.shift_size if min(grid) > 4 else 0
    exact = mix_by_definition(x, mlp.weight, mlp.bias, 3, 4, shift)
    ours = mlp(x)
    torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(exact)
    pairs = [torch.autograd.grad(out, (x, mlp.weight, mlp.bias), upstream) for out in (ours, exact)]
    for own, wanted in zip(*pairs, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-12, atol=1e-12)


def test_a_ragged_grid_is_padded_with_zeros_and_cropped():
    torch.manual_seed(0)
    mlp = SpatialMlp(2, 4, is_shifted=True)
    x = torch.randn(1, 6, 9, 4)
    padded = F.pad(x, (0, 0, 0, 3, 0, 2))
    exact = mix_by_definition(padded, mlp.weight, mlp.bias, 2, 4, 2)[:, :6, :9]
    torch.testing.assert_close(mlp(x), exact)


def test_a_whole_model_keeps_residuals_and_norms_of_the_swin_transformer():
    torch.manual_seed(0)
    model = SwinMLP(**SMALL, drop_path_rate=0.0).eval()
    perturb(model)
    images = torch.randn(2, 3, 64, 64)
    x = model.patch_embed(images)
    for stage in model.layers:
        for block in stage.blocks:
            mlp = block.spatial_mlp
            shift = mlp.shift_size if x.shape[1] > 4 else 0
            x = x + mix_by_definition(block.norm1(x), mlp.weight, mlp.bias, mlp.num_heads, 4, shift)
            x = x + block.mlp(block.norm2(x))
        x = x if stage.downsample is None else stage.downsample(x)
    with torch.no_grad():
        assert relative_error(model(images), model.head(model.norm(x).mean((1, 2)))) < 1e-5


@pytest.mark.parametrize("size", [(4, 4), (31, 70)])
def test_any_image_of_at_least_a_patch_works(size):
    model = SwinMLP(**SMALL)
    model(torch.randn(1, 3, *size)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_names_and_shapes_are_the_official_ones():
    state = SwinMLP(**SMALL).state_dict()
    assert state["layers.1.blocks.0.spatial_mlp.weight"].shape == (4 * 16, 16, 1)
    assert state["layers.1.blocks.0.spatial_mlp.bias"].shape == (4 * 16,)
    assert [name.split(".", 4)[4] for name in state if name.startswith("layers.0.blocks.0.")] == [
        *("norm1.weight", "norm1.bias", "spatial_mlp.weight", "spatial_mlp.bias", "norm2.weight", "norm2.bias"),
        *("mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"),
    ]

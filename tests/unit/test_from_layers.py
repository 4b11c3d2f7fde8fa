"""Models in the vocabulary of the einops implementation, against timm where it has the same freedom."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from swin import SwinTransformer
from swin.errors import ConfigError
from swin.models import count_flops
from swin.models.layers import PatchMerging
from swin.models.swin import WindowAttention
from tests.numerics.peers import perturb, relative_error, timm_name

SMALL = {"hidden_dim": 12, "layers": (2, 1), "heads": (3, 2), "num_classes": 5, "head_dim": 8, "window_size": 4}
TWO_STAGES = {**SMALL, "downscaling_factors": (4, 2)}


def images(size=64, channels=3):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_the_defaults_are_swin_t():
    with torch.device("meta"):
        ours = SwinTransformer.from_layers(num_classes=1000)
        reference = SwinTransformer()
    shapes = [{name: tuple(p.shape) for name, p in model.named_parameters()} for model in (ours, reference)]
    assert shapes[0] == shapes[1]


def test_heads_of_any_size_equal_timms():
    model = SwinTransformer.from_layers(**TWO_STAGES, drop_path_rate=0.0)
    perturb(model)
    reference = timm.models.SwinTransformer(
        img_size=64,
        embed_dim=12,
        depths=(2, 1),
        num_heads=(3, 2),
        head_dim=8,
        window_size=4,
        num_classes=5,
        drop_path_rate=0.0,
    )
    reference.load_state_dict({timm_name(name): value for name, value in model.state_dict().items()})
    assert model.layers[0].blocks[0].attn.proj.weight.shape == (12, 24)
    # float32: two stages round a few times at 6e-8 each.
    with torch.no_grad():
        assert relative_error(model.eval()(images()), reference.eval()(images())) < 1e-5


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_without_a_bias_a_model_equals_one_whose_table_is_zero(backend):
    without = SwinTransformer.from_layers(**TWO_STAGES, relative_pos_embedding=False, attention=backend)
    assert not any("bias_table" in name for name in without.state_dict())
    perturb(without)
    zeroed = SwinTransformer.from_layers(**TWO_STAGES, attention=backend)
    zeroed.load_state_dict(without.state_dict(), strict=False)
    for name, parameter in zeroed.named_parameters():
        if "bias_table" in name:
            nn.init.zeros_(parameter)
    results = []
    for model in (without, zeroed):
        logits = model.eval()(images())
        logits.square().sum().backward()
        results.append((logits, model.patch_embed.proj.weight.grad))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_merging_takes_each_group_column_by_column(factor):
    torch.manual_seed(0)
    merging = PatchMerging(5, factor)
    grid = torch.randn(2, 7, 5, 5)  # (B, H, W, C), ragged for every factor but 1
    height, width = -(-7 // factor), -(-5 // factor)
    padded = F.pad(grid, (0, 0, 0, width * factor - 5, 0, height * factor - 7))
    expected = torch.empty(2, height, width, 5 * factor**2)
    for row in range(height):
        for column in range(width):
            group = padded[:, row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            expected[:, row, column] = torch.cat([group[:, r, c] for c in range(factor) for r in range(factor)], dim=1)
    torch.testing.assert_close(merging(grid), merging.reduction(merging.norm(expected)))
    assert merging(grid).shape == (2, height, width, 10)


@pytest.mark.parametrize(
    ("factors", "strides"),
    [((4, 2, 2, 2), (4, 8, 16, 32)), ((2, 2), (2, 4)), ((3, 4, 1), (3, 12, 12)), ((8,), (8,))],
)
def test_any_downscaling_factors(factors, strides):
    count = len(factors)
    model = SwinTransformer.from_layers(
        hidden_dim=4,
        layers=(1,) * count,
        heads=(1, 2, 3, 5)[:count],
        channels=2,
        head_dim=3,
        window_size=2,
        downscaling_factors=factors,
    )
    maps = model.feature_maps(images(96, channels=2))
    assert [tuple(item.shape[1:]) for item in maps] == [
        (4 * 2**stage, 96 // stride, 96 // stride) for stage, stride in enumerate(strides)
    ]
    assert model(images(95, channels=2)).shape == (2, 3)
    model(images(96, channels=2)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"downscaling_factors": (4, 2, 2)}, "2 stages need 1 merge factors"),
        ({"heads": (3,)}, "different numbers of stages"),
    ],
)
def test_numbers_that_do_not_fit(arguments, words):
    with pytest.raises(ConfigError, match=words):
        SwinTransformer.from_layers(**{**TWO_STAGES, **arguments})


def test_flops_count_the_widths_and_factors_of_the_model():
    model = SwinTransformer.from_layers(
        hidden_dim=6, layers=(1, 1), heads=(2, 1), head_dim=4, window_size=2, downscaling_factors=(4, 3)
    )
    tokens, merged = 6 * 6, 2 * 2
    expected = tokens * (3 * 16 * 6) + tokens * 6  # patches and their norm
    expected += tokens * (6 * 24 + 8 * 6 + 2 * 4 * 8 + 2 * 6 * 24 + 2 * 6)  # qkv, projection, attention, MLP, norms
    expected += merged * (54 * 12 + 54)  # merging 3 x 3 tokens of 6 channels into 12
    expected += merged * (12 * 12 + 4 * 12 + 2 * 4 * 4 + 2 * 12 * 48 + 2 * 12)
    expected += merged * 12 + 12 * 3  # final norm, head
    assert count_flops(model, 24, 24) == expected


def test_the_usual_attention_has_the_official_parameters():
    names = [name for name, _ in WindowAttention(8, 2, 4).named_parameters()]
    assert names == ["relative_position_bias_table", "qkv.weight", "qkv.bias", "proj.weight", "proj.bias"]

"""Swin V2 against its definition in float64 and against timm, torchvision and transformers with the same weights."""

import math

import pytest
import torch
import torchvision.models.swin_transformer as theirs
from timm.models.swin_transformer_v2 import SwinTransformerV2 as TimmSwinV2
from torch import Tensor, nn
from torch.nn import functional as F

from swin import SwinTransformerV2, create_model
from swin.models.swin_v2 import CosineWindowAttention
from swin.weights.formats import from_native
from swin.weights.layouts import split_bias
from tests.numerics.peers import perturb, relative_error, timm_name, torchvision_name

# See test_peers.py. Cosine attention divides by lengths and its logits are up to 100 times as large, so that a few more
# of the last digits go.
LOGITS_TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 2e-4

SMALL = {"img_size": 64, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4, "num_classes": 5}


def make_small(**changes) -> SwinTransformerV2:
    torch.manual_seed(0)
    model = SwinTransformerV2(**{**SMALL, "drop_path_rate": 0.0, **changes})
    perturb(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.add_(0.5)  # at zero the branches would not be seen
            if name.endswith("logit_scale"):
                parameter.copy_(torch.linspace(1.0, 6.0, len(parameter)).view(-1, 1, 1))  # above ln 100, too
    return model.eval()


def draw_images(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(1))


def coordinate(distance: int, reference: int) -> float:
    """The logarithm of a distance in tokens, by equation 4 of the paper in the official units."""
    scaled = 8 * distance / max(1, reference - 1)
    return math.copysign(math.log2(abs(scaled) + 1) / 3, scaled) if scaled else 0.0


def attend_by_definition(attention: CosineWindowAttention, x: Tensor, window: tuple[int, int], shift: int) -> Tensor:
    """Head by head and pair by pair: (B, H, W, C), whose grid is whole windows, to (B, H, W, C)."""
    _, H, W, C = x.shape
    heads, D = attention.num_heads, C // attention.num_heads
    weight = attention.qkv.weight
    q, k, v = (x @ part.T for part in weight.chunk(3))
    if attention.q_bias is not None:
        q, v = q + attention.q_bias, v + attention.v_bias
    reference = (attention.pretrained_window_size,) * 2 if attention.pretrained_window_size else window
    shifts = [shift if size > side else 0 for size, side in zip((H, W), window, strict=True)]
    out = torch.zeros_like(q)
    for top in range(0, H, window[0]):
        for left in range(0, W, window[1]):
            cells = [(top + r, left + c) for r in range(window[0]) for c in range(window[1])]
            source = [((r + shifts[0]) % H, (c + shifts[1]) % W) for r, c in cells]
            side = [(r + shifts[0] >= H, c + shifts[1] >= W) for r, c in cells]
            for n in range(heads):
                span = slice(n * D, (n + 1) * D)
                scale = attention.logit_scale[n, 0, 0].clamp(max=math.log(100)).exp()
                for i, (row, column) in enumerate(source):
                    logits = []
                    for j, (other_row, other_column) in enumerate(source):
                        a, b = q[:, row, column, span], k[:, other_row, other_column, span]
                        cosine = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)).clamp(min=1e-24)
                        offset = [cells[i][axis] - cells[j][axis] for axis in (0, 1)]
                        where = [coordinate(distance, side) for distance, side in zip(offset, reference, strict=True)]
                        bias = 16 * torch.sigmoid(attention.cpb_mlp(torch.tensor(where, dtype=x.dtype))[n])
                        logits.append(cosine * scale + bias - 100.0 * (side[i] != side[j]))
                    weights = torch.stack(logits, dim=-1).softmax(-1)  # (B, T)
                    values = torch.stack([v[:, r, c, span] for r, c in source], dim=1)
                    out[:, row, column, span] = (weights[..., None] * values).sum(1)
    return attention.proj(out)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("grid", "window", "pretrained", "shifted"),
    [((4, 4), 2, 0, True), ((4, 6), 2, 3, True), ((3, 6), 4, 0, True), ((2, 3), 4, 6, False), ((2, 2), 1, 0, True)],
)
def test_attention_equals_its_definition_in_float64(backend, grid, window, pretrained, shifted):
    torch.manual_seed(0)
    arguments = {"pretrained_window_size": pretrained, "is_shifted": shifted, "backend": backend}
    attention = CosineWindowAttention(8, 2, window, **arguments).double()
    perturb(attention)
    with torch.no_grad():
        attention.logit_scale.copy_(torch.tensor([2.0, 6.0]).view(2, 1, 1))
    x = torch.randn(2, *grid, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    shape = (min(window, grid[0]), min(window, grid[1]))
    padded = F.pad(x, (0, 0, 0, -grid[1] % shape[1], 0, -grid[0] % shape[0]))
    exact = attend_by_definition(attention, padded, shape, attention.shift_size)[:, : grid[0], : grid[1]]
    # Lengths are divided out in float32, whose last digit is 6e-8, times a scale of up to 100.
    torch.testing.assert_close(attention(x), exact, rtol=0, atol=2e-5)


def as_timm(ours: SwinTransformerV2, **arguments) -> nn.Module:
    model = TimmSwinV2(**{**SMALL, "drop_path_rate": 0.0, **arguments})
    model.load_state_dict({timm_name(name): value for name, value in ours.state_dict().items()})
    return model.eval()


def as_torchvision(ours: SwinTransformerV2) -> nn.Module:
    model = theirs.SwinTransformer(
        patch_size=[4, 4],
        embed_dim=16,
        depths=[2, 2],
        num_heads=[1, 2],
        window_size=[4, 4],
        num_classes=5,
        stochastic_depth_prob=0.0,
        block=theirs.SwinTransformerBlockV2,
        downsample_layer=theirs.PatchMergingV2,
    )
    model.load_state_dict(from_native(ours.state_dict(), "torchvision", windows=ours.windows()), strict=True)
    return model.eval()


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("changes", [{}, {"pretrained_window_sizes": (6, 3)}, {"window_size": 8}, {"qkv_bias": False}])
def test_logits_equal_timm(backend, changes):
    ours = make_small(**changes, attention=backend)
    images = draw_images(2, 3, 64, 64)
    with torch.no_grad():
        assert relative_error(ours(images), as_timm(ours, **changes)(images)) < LOGITS_TOLERANCE


@pytest.mark.parametrize("size", [(64, 64), (40, 72), (61, 100)])
def test_logits_equal_torchvision_also_where_the_grid_is_padded(size):
    ours = make_small()
    images = draw_images(2, 3, *size)
    with torch.no_grad():
        assert relative_error(ours(images), as_torchvision(ours)(images)) < LOGITS_TOLERANCE


def test_timm_shifts_before_it_pads_which_is_another_model_there():
    """timm 1.0.31 rolls the grid and pads it then (its issue 2438); the mask is made for the other order."""
    ours = make_small()
    model = as_timm(ours, img_size=(40, 72))
    images = draw_images(2, 3, 40, 72)
    with torch.no_grad():
        assert relative_error(ours(images), model(images)) > 1e-3


@pytest.mark.parametrize("peer", [as_timm, as_torchvision])
def test_every_gradient_equals_the_peers(peer):
    ours = make_small().train()
    reference = peer(ours).train()
    for model in (ours, reference):
        F.cross_entropy(model(draw_images(2, 3, 64, 64)), torch.tensor([1, 4])).backward()
    rename = timm_name if peer is as_timm else torchvision_name
    gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    if peer is as_torchvision:
        gradients = split_bias(gradients)  # of queries, keys and values in one
    assert len(gradients) == len(list(ours.parameters()))
    for name, parameter in ours.named_parameters():
        theirs_name = rename(name)
        error = (parameter.grad - gradients[theirs_name]).abs().max()
        # The key's part of a layer whose attention hardly depends on it has gradients near 0.
        assert error < GRADIENT_TOLERANCE * max(1e-3, float(gradients[theirs_name].abs().max())), name


def test_transformers_loads_ours_and_agrees():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    ours = make_small(pretrained_window_sizes=(6, 3))
    config = transformers.Swinv2Config(
        image_size=64,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[1, 2],
        window_size=4,
        pretrained_window_sizes=[6, 3],
        num_labels=5,
        drop_path_rate=0.0,
    )
    model, info = transformers.Swinv2ForImageClassification.from_pretrained(
        None, config=config, state_dict=from_native(ours.state_dict(), "transformers"), output_loading_info=True
    )
    assert not any(info.values())
    images = draw_images(2, 3, 64, 64)
    with torch.no_grad():
        assert relative_error(ours(images), model.eval()(images).logits) < LOGITS_TOLERANCE


def test_a_new_block_passes_on_what_it_gets():
    model = SwinTransformerV2(**SMALL, drop_path_rate=0.0).eval()
    tokens = draw_images(1, 16, 16, 16)
    block = model.layers[0].blocks[1]
    assert torch.equal(block(tokens), tokens)
    assert not any(block.norm1.bias), "norm1 starts at zero, weight and bias"


def test_an_extra_norm_ends_every_so_many_blocks_of_a_stage():
    model = SwinTransformerV2(**{**SMALL, "depths": (2, 5)}, extra_norm_every=2)
    have = [[block.norm3 is not None for block in stage.blocks] for stage in model.layers]
    assert have == [[False, True], [False, True, False, True, False]]
    tokens = draw_images(1, 16, 16, 16)
    assert model.layers[0].blocks[1](tokens).mean(-1).abs().max() < 1e-5, "normalised"


@pytest.mark.parametrize("size", [(4, 4), (28, 28), (31, 70), (224, 32)])
def test_any_image_of_at_least_a_patch_works_and_gives_finite_gradients(size):
    model = make_small().train()
    model(draw_images(1, 3, *size)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_float16_keeps_padding_finite():
    """Keys have no bias, so that those of padding have length 0."""
    model = make_small().half()
    with torch.no_grad():
        assert model(draw_images(1, 3, 40, 72).half()).isfinite().all()


def test_a_wider_window_with_the_pretrained_one_keeps_what_a_distance_means():
    narrow, wide = (
        make_small(window_size=side, pretrained_window_sizes=(4, 4)).layers[0].blocks[0].attn for side in (4, 6)
    )
    wide.load_state_dict(narrow.state_dict())
    before, after = narrow.relative_position_bias((4, 4)), wide.relative_position_bias((6, 6))
    inner = [row * 6 + column for row in range(4) for column in range(4)]
    torch.testing.assert_close(after[:, inner][:, :, inner], before)
    assert not torch.allclose(after[:, :16, :16], before), "otherwise the test could not fail"


def test_a_smooth_image_in_a_wider_window_gives_about_the_same():
    source, ramp = make_small(), torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    model = make_small(img_size=96, window_size=6, pretrained_window_sizes=(4, 4))
    model.load_state_dict(source.state_dict())
    with torch.no_grad():
        error = relative_error(model(torch.linspace(-1, 1, 96).expand(1, 3, 96, 96)), source(ramp))
    assert error < 0.05  # 1.8%, and 2% without the pretrained windows: a random bias hardly tells distances apart


@pytest.mark.parametrize("name", ["swinv2_huge_22k", "swinv2_giant_22k"])
def test_the_largest_models_are_built_without_memory(name):
    with torch.device("meta"):
        model = create_model(name)
        logits = model(torch.empty(1, 3, 192, 192))
    assert logits.shape == (1, 21_841)
    extra = [block for stage in model.layers for block in stage.blocks if block.norm3 is not None]
    assert len(extra) == {"swinv2_huge_22k": 3, "swinv2_giant_22k": 7}[name]

"""Weights made to fit other windows, grids, patches and channels."""

import pytest
import torch
from torch.nn import functional as F

from swin.weights.resize import resize_to

TABLE, POSITION, PATCH = (
    "layers.0.blocks.0.attn.relative_position_bias_table",
    "absolute_pos_embed",
    "patch_embed.proj.weight",
)


def resize(name, value, shape, grid=(1, 1)):
    result = resize_to(name, value, torch.Size(shape), grid)
    assert result is not None
    assert result[0].shape == torch.Size(shape)
    assert result[0].is_contiguous()
    return result


def test_a_bias_table_is_interpolated_head_by_head():
    old, new = 7, 12
    side = torch.linspace(-1, 1, 2 * old - 1)
    maps = torch.stack([side[:, None] + 0 * side, 0 * side[:, None] + side])  # rows, then columns, (N, 13, 13)
    table, words = resize(TABLE, maps.flatten(1).T, ((2 * new - 1) ** 2, 2))
    assert words == "window 7 to 12, bicubic"
    rows, columns = table.T.reshape(2, 23, 23)
    assert torch.allclose(rows, columns.T, atol=1e-6)
    assert (rows.diff(dim=0) > 0).all()  # still a ramp along its own axis, flat along the other
    assert rows.std(dim=1).max() < 1e-6
    assert rows[11].abs().max() < 1e-6  # the centre, offset 0, stays where it is


def test_a_bias_table_goes_back_to_nearly_itself_when_it_is_smooth():
    side = torch.linspace(-1, 1, 13)
    table = torch.exp(-(side[:, None] ** 2 + side**2)).reshape(169, 1)
    larger, _ = resize(TABLE, table, (529, 1))
    smaller, _ = resize(TABLE, larger, (169, 1))
    assert (smaller - table).abs().max() < 0.02


@pytest.mark.parametrize("rows", [168, 100])
def test_tables_of_other_heads_or_no_window_are_not_touched(rows):
    assert resize_to(TABLE, torch.zeros(rows, 2), torch.Size((529, 2)), (1, 1)) is None
    assert resize_to(TABLE, torch.zeros(169, 3), torch.Size((529, 2)), (1, 1)) is None


def test_a_position_embedding_takes_another_grid():
    position = torch.randn(1, 7 * 7, 4, generator=torch.Generator().manual_seed(0))
    resized, words = resize(POSITION, position, (1, 10 * 6, 4), grid=(10, 6))
    expected = F.interpolate(position.reshape(1, 7, 7, 4).permute(0, 3, 1, 2), (10, 6), mode="bicubic")
    assert torch.allclose(resized.reshape(10, 6, 4).permute(2, 0, 1), expected[0])
    assert words == "grid 7 x 7 to 10 x 6, bicubic"


def test_an_oblong_position_embedding_has_the_proportions_of_the_model():
    _, words = resize(POSITION, torch.randn(1, 4 * 8, 4), (1, 6 * 12, 4), grid=(6, 12))
    assert words == "grid 4 x 8 to 6 x 12, bicubic"
    assert resize_to(POSITION, torch.randn(1, 35, 4), torch.Size((1, 72, 4)), (6, 12)) is None


@pytest.mark.parametrize(("old", "new"), [(3, 1), (1, 3), (3, 4), (3, 12), (4, 3), (2, 5)])
def test_patch_weights_answer_a_grey_image_as_before(old, new):
    weight = torch.randn(8, old, 4, 4, generator=torch.Generator().manual_seed(0)).abs()
    resized, words = resize(PATCH, weight, (8, new, 4, 4))
    assert words == f"{old} to {new} channels"
    if new % old == 0 or new == 1:
        assert torch.allclose(resized.sum(1), weight.sum(1), atol=1e-5)
    else:  # the channels beyond a multiple make it uneven, but the scale stays
        assert 0.5 < float(resized.sum() / weight.sum()) < 1.5


def test_three_channels_become_one_by_their_sum_and_many_by_repetition():
    weight = torch.randn(8, 3, 4, 4)
    assert torch.equal(resize(PATCH, weight, (8, 1, 4, 4))[0], weight.sum(1, keepdim=True))
    assert torch.equal(resize(PATCH, weight, (8, 6, 4, 4))[0], torch.cat([weight, weight], 1) / 2)


def test_a_patch_of_another_size_answers_a_smooth_image_as_before():
    weight = F.interpolate(torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0)), (4, 4), mode="bicubic")
    resized, words = resize(PATCH, weight, (8, 3, 8, 8))
    assert words == "patches of 4 to 8 pixels, bicubic"
    assert torch.allclose(resized.sum((2, 3)), weight.sum((2, 3)), atol=0.3)
    assert torch.equal(resize(PATCH, torch.ones(8, 3, 4, 4), (8, 3, 8, 8))[0], torch.full((8, 3, 8, 8), 0.25))


def test_other_tensors_are_left_alone():
    assert resize_to("layers.0.blocks.0.mlp.fc1.weight", torch.zeros(4, 4), torch.Size((8, 4)), (1, 1)) is None
    assert resize_to(PATCH, torch.zeros(8, 3, 4, 4), torch.Size((16, 3, 4, 4)), (1, 1)) is None

"""Learning rates that fall with the distance from the head."""

import pytest
import torch

from swin import SwinTransformer
from swin.config import load_config
from swin.errors import ConfigError
from swin.models import freeze
from swin.optim import build_optimizer, make_optimizer, parameter_depths, parameter_groups, set_lr


@pytest.fixture
def model() -> SwinTransformer:
    return SwinTransformer(embed_dim=8, depths=(2, 1), num_heads=(1, 2), window_size=4, num_classes=3, ape=True)


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("absolute_pos_embed", 0),
        ("patch_embed.proj.weight", 0),
        ("patch_embed.norm.bias", 0),
        ("layers.0.blocks.0.attn.qkv.weight", 1),
        ("layers.0.blocks.1.norm2.weight", 2),
        ("layers.0.downsample.reduction.weight", 2),
        ("layers.0.downsample.norm.bias", 2),
        ("layers.1.blocks.0.attn.relative_position_bias_table", 3),
        ("norm.weight", 4),
        ("head.bias", 4),
    ],
)
def test_depths_are_those_of_the_official_finetuning_code(model, name, depth):
    assert parameter_depths(model)[name] == depth


def test_each_depth_has_its_rate(model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    depths = parameter_depths(model)
    groups = parameter_groups(model, 0.05, layer_decay=0.5)
    assert len(groups) == 2 * 5
    assert sum(len(group["params"]) for group in groups) == len(names)
    for group in groups:
        (depth,) = {depths[names[id(parameter)]] for parameter in group["params"]}
        assert group["lr_scale"] == 0.5 ** (4 - depth)
        is_decayed = {p.ndim > 1 and "table" not in names[id(p)] and "pos" not in names[id(p)] for p in group["params"]}
        assert is_decayed == {group["weight_decay"] > 0}


def test_without_layer_decay_there_are_the_two_official_groups(model):
    groups = parameter_groups(model, 0.05, layer_decay=1.0)
    assert [sorted(group) for group in groups] == [["params", "weight_decay"]] * 2


def test_swin_t_as_the_config_describes_it():
    with torch.device("meta"):
        model = SwinTransformer()
    optimizer = build_optimizer(load_config(opts=["TRAIN.LAYER_DECAY", 0.8]), model)
    scales = {group["lr_scale"] for group in optimizer.param_groups}
    assert scales == {0.8**power for power in range(14)}  # head, 12 blocks, embedding
    set_lr(optimizer, 2.0)
    assert {group["lr"] for group in optimizer.param_groups} == {2.0 * scale for scale in scales}
    with pytest.raises(ConfigError, match=r"in \(0, 1\]"):
        load_config(opts=["TRAIN.LAYER_DECAY", 1.5])


def test_frozen_blocks_keep_their_depth(model):
    freeze(model, ["layers.0.blocks.0"])
    groups = parameter_groups(model, 0.05, layer_decay=0.5)
    assert {group["lr_scale"] for group in groups} == {0.5**power for power in (4, 2, 1, 0)}


def test_a_first_update_moves_parameters_in_proportion(model):
    optimizer = make_optimizer(model, name="adamw", lr=1.0, weight_decay=0.0, layer_decay=0.1)
    set_lr(optimizer, 1.0)
    before = [parameter.clone() for parameter in (model.patch_embed.norm.bias, model.head.bias)]
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    optimizer.step()
    # AdamW's first update is the rate times the sign of the gradient.
    after = (model.patch_embed.norm.bias, model.head.bias)
    moves = [(new - old).abs().max().item() for new, old in zip(after, before, strict=True)]
    assert moves == pytest.approx([1e-4, 1.0], rel=1e-2)

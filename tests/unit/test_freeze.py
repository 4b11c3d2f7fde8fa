"""Frozen parts: what is frozen, and that it stays as it is."""

import copy

import pytest
import torch

from swin import SwinTransformer
from swin.batches import Data
from swin.config import load_config
from swin.distributed import Distributed
from swin.engine.build import build_precision, build_state, describe_frozen
from swin.errors import ConfigError
from swin.models import freeze
from swin.optim import make_optimizer


def small(**changes) -> SwinTransformer:
    torch.manual_seed(0)
    arguments = {"embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2), "window_size": 4, "num_classes": 3}
    return SwinTransformer(**{**arguments, "drop_rate": 0.5, "drop_path_rate": 0.5, **changes})


def frozen_names(model):
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize(
    ("parts", "prefixes"),
    [
        ([0], ("layers.0.",)),
        ([0, 1], ("layers.0.", "layers.1.")),
        (["patch_embed", "layers.0"], ("patch_embed.", "layers.0.")),
        ([0, "patch_embed"], ("patch_embed.", "layers.0.")),
        (["layers.[01].blocks"], ("layers.0.blocks.", "layers.1.blocks.")),
        (["head.bias"], ("head.bias",)),
    ],
)
def test_parts_by_stage_and_pattern(parts, prefixes):
    model = small()
    names = freeze(model, parts)
    assert frozen_names(model) == set(names) == {n for n, _ in model.named_parameters() if n.startswith(prefixes)}


def test_a_pattern_may_name_one_kind_of_parameter_everywhere():
    model = small()
    freeze(model, ["*relative_position_bias_table", "*.attn.qkv"])
    assert len(frozen_names(model)) == 3 + 6


@pytest.mark.parametrize("part", [2, -1, "layer.0", "layers.0.blocks.7"])
def test_a_part_that_names_nothing_is_an_error_which_lists_the_names(part):
    model = small()
    with pytest.raises(ConfigError, match=r"patch_embed, layers\.0, layers\.1, norm, head"):
        freeze(model, ["patch_embed", part])
    assert not frozen_names(model), "an error changes nothing"


def test_something_must_be_left_to_train():
    with pytest.raises(ConfigError, match="every parameter"):
        freeze(small(), ["*"])


def test_frozen_parts_stay_in_evaluation_mode_and_others_follow():
    model = small()
    freeze(model, ["patch_embed", 0, "layers.1.blocks.1.norm1"])
    for mode in (True, False, True):
        model.train(mode)
        assert not any(module.training for module in model.layers[0].modules())
        assert model.layers[1].blocks[1].drop_path.training == model.training == mode
    twin = copy.deepcopy(model)
    assert not twin.train().layers[0].blocks[0].training


def test_frozen_maps_are_the_same_in_training():
    model = small(drop_rate=0.0)  # the dropout of the embeddings belongs to no frozen part
    freeze(model, ["patch_embed", 0])
    images = torch.randn(1, 3, 32, 32)
    training, evaluation = model.train().feature_maps(images), model.eval().feature_maps(images)
    assert torch.equal(training[0], evaluation[0])
    assert not torch.equal(training[1], evaluation[1])


def test_training_changes_the_rest_alone():
    model = small()
    freeze(model, ["patch_embed", 0])
    before = copy.deepcopy(model.state_dict())
    optimizer = make_optimizer(model, name="adamw", lr=0.1, weight_decay=0.1)
    model.train()(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    frozen = frozen_names(model)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not changed & frozen
    assert {"norm.weight", "head.bias", "layers.1.blocks.1.mlp.fc2.weight"} <= changed


def test_the_config_freezes_when_the_state_is_built():
    options = ["TRAIN.FREEZE", "[patch_embed, layers.0]", "TRAIN.EMA.ENABLE", True, "AMP_ENABLE", False]
    cfg = load_config(opts=options)
    model = small()
    dist = Distributed(0, 1, 0, torch.device("cpu"))
    data = Data(["a", "b", "c"], None, None, prepare=None, normalise=None, class_counts=[])
    state = build_state(cfg, model, data, build_precision(cfg, dist), dist)
    trained = sum(len(group["params"]) for group in state.optimizer.param_groups)
    assert trained == len(list(model.parameters())) - len(frozen_names(model))
    assert describe_frozen(model).startswith("frozen (TRAIN.FREEZE): ")
    assert load_config(opts=["TRAIN.FREEZE", "[0, 1]"]).TRAIN.FREEZE == [0, 1]
    assert load_config(opts=["TRAIN.FREEZE", "[0, patch_embed]"]).TRAIN.FREEZE == [0, "patch_embed"]
    with pytest.raises(ConfigError, match="a list of integers or texts"):
        load_config(opts=["TRAIN.FREEZE", "patch_embed"])


def test_a_run_with_frozen_parts(runner):
    assert runner("frozen", "--opts", "TRAIN.FREEZE", "[patch_embed, layers.0]", "TRAIN.EPOCHS", "1") == 0
    assert runner("typo", "--opts", "TRAIN.FREEZE", "[patchembed]") == 2
    text = runner.text()
    assert "frozen (TRAIN.FREEZE): " in text
    assert "'patchembed' names no parameter" in text

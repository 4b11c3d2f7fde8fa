"""Optimizers: groups, skipped updates, equality with torch's plain implementations, loading of states."""

import copy

import pytest
import torch
from torch import nn

from swin.config import load_config
from swin.errors import CheckpointError, ConfigError
from swin.models import SwinTransformer
from swin.optim import build_optimizer, make_optimizer, parameter_groups, set_lr, step_if

NAMES = ("adamw", "sgd", "muon")


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))


def backward(model, seed=1):
    images = torch.randn(8, 5, generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    model(images).square().sum().backward()


def snapshot(model, optimizer):
    return copy.deepcopy((list(model.parameters()), optimizer.state_dict()["state"]))


def assert_same(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def make(model, name, **changes):
    return make_optimizer(model, **{"name": name, "lr": 0.1, "weight_decay": 0.05, **changes})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("warm", [False, True])
def test_found_inf_skips_or_updates_on_the_device(name, warm):
    # What `step_if` and the training step rely on torch's fused kernels for.
    model = small_model()
    optimizer = make(model, name)
    if warm:
        backward(model)
        optimizer.step()
    backward(model, seed=2)
    before = snapshot(model, optimizer)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    after = snapshot(model, optimizer)
    assert_same(after[0], before[0])
    if warm:
        assert_same(after[1], before[1])
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert not torch.equal(model[0].weight, before[0][0])


@pytest.mark.parametrize("name", NAMES)
def test_an_update_after_a_skipped_first_one_equals_a_first_update(name):
    skipped, plain = small_model(), small_model()
    skipping_optimizer, plain_optimizer = make(skipped, name), make(plain, name)
    backward(skipped)
    for parameter in skipped.parameters():
        parameter.grad.fill_(torch.nan)
    step_if(skipping_optimizer, torch.tensor(False))
    for model, optimizer in ((skipped, skipping_optimizer), (plain, plain_optimizer)):
        backward(model)
        step_if(optimizer, torch.tensor(True))
    assert_same(snapshot(skipped, skipping_optimizer), snapshot(plain, plain_optimizer))
    assert not hasattr(plain_optimizer, "found_inf")


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_updates_equal_torch_without_fusing(name):
    fused, plain = small_model(), small_model()
    ours = make(fused, name, lr=0.01)  # small enough for SGD to converge: diverging weights magnify roundings
    groups = parameter_groups(plain, 0.05)
    if name == "adamw":
        reference = torch.optim.AdamW(groups, lr=0.01, foreach=False, fused=False)
    else:
        reference = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True, foreach=False, fused=False)
    for seed in range(3):
        for model, optimizer in ((fused, ours), (plain, reference)):
            backward(model, seed)
            optimizer.step()
    # The kernels order the same float32 operations differently: a few roundings an update.
    torch.testing.assert_close(list(fused.parameters()), list(plain.parameters()), rtol=1e-5, atol=1e-6)


def test_groups_of_a_swin_model_are_the_official_ones():
    model = SwinTransformer(
        embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4, num_classes=3, img_size=32, ape=True
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decay, no_decay = parameter_groups(model, 0.05)
    decayed = [names[id(parameter)] for parameter in decay["params"]]
    exempt = [names[id(parameter)] for parameter in no_decay["params"]]
    assert (decay["weight_decay"], no_decay["weight_decay"]) == (0.05, 0.0)
    assert len(decayed) + len(exempt) == len(names)
    assert "absolute_pos_embed" in exempt
    assert "layers.0.blocks.0.attn.relative_position_bias_table" in exempt
    assert all(name.endswith(".weight") and "norm" not in name for name in decayed)
    order = list(names.values())
    assert decayed == sorted(decayed, key=order.index)
    assert exempt == sorted(exempt, key=order.index)


def test_frozen_parameters_are_left_out():
    model = small_model()
    model[0].requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(model, 0.1)) == 4


def test_set_lr_honours_the_scale_of_a_group():
    optimizer = make(small_model(), "adamw")
    optimizer.param_groups[1]["lr_scale"] = 0.5
    set_lr(optimizer, 0.2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.1]


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_state_continues_exactly(name):
    model = small_model()
    optimizer = make(model, name)
    backward(model)
    optimizer.step()
    resumed = copy.deepcopy(model)
    other = make(resumed, name)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, each_optimizer in ((model, optimizer), (resumed, other)):
        backward(each, seed=3)
        each_optimizer.step()
    assert_same(snapshot(model, optimizer), snapshot(resumed, other))


def test_a_state_of_torchs_plain_adamw_loads_but_settings_stay():
    model = small_model()
    plain = torch.optim.AdamW(parameter_groups(model, 0.3), lr=0.7)
    backward(model)
    plain.step()
    optimizer = make(model, "adamw")
    optimizer.load_state_dict(plain.state_dict())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    assert all(group["fused"] and group["lr"] == 0.1 for group in optimizer.param_groups)
    assert optimizer.state[model[0].weight]["step"] == 1
    before = snapshot(model, optimizer)
    step_if(optimizer, torch.tensor(False))
    assert_same(snapshot(model, optimizer), before)


def test_an_sgd_state_without_momentum_gets_zeros():
    model = small_model()
    optimizer = make(model, "sgd")
    optimizer.load_state_dict(torch.optim.SGD(parameter_groups(model, 0.1), lr=0.1).state_dict())
    assert all(not optimizer.state[parameter]["momentum_buffer"].any() for parameter in model.parameters())


def test_states_of_other_models_are_refused():
    model = small_model()
    other = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 3))
    backward(other)
    other_optimizer = make(other, "adamw")
    other_optimizer.step()
    with pytest.raises(CheckpointError, match=r"exp_avg of shape \(6, 5\) for a parameter of shape \(4, 5\)"):
        make(model, "adamw").load_state_dict(other_optimizer.state_dict())
    fewer = make(nn.Linear(5, 3), "adamw")
    with pytest.raises(CheckpointError, match=r"groups of \[1, 1\] tensors, this model has \[2, 4\]"):
        make(model, "adamw").load_state_dict(fewer.state_dict())


def test_unknown_name():
    with pytest.raises(ConfigError, match="'adam'"):
        make(small_model(), "adam")


def test_built_from_the_config():
    optimizer = build_optimizer(load_config(opts=["TRAIN.OPTIMIZER.EPS", 1e-6]), small_model())
    assert isinstance(optimizer, torch.optim.AdamW)
    group = optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-6, 0.05)
    sgd = build_optimizer(load_config(opts=["TRAIN.OPTIMIZER.NAME", "sgd"]), small_model())
    assert (sgd.param_groups[0]["momentum"], sgd.param_groups[0]["nesterov"]) == (0.9, True)

"""The averaged weights against a loop by hand."""

import copy

import pytest
import torch
from torch import nn

from swin.ema import Ema
from swin.errors import CheckpointError


def make_model(width=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, width), nn.LayerNorm(width))


def change(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def test_equals_a_loop_by_hand():
    model = make_model()
    ema = Ema(model, decay=0.5)
    expected = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    for step in range(20):
        change(model, step)
        ema.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * parameter.detach().double()
    assert ema.num_updates == 20
    for name, value in expected.items():
        # 20 updates of float32 roundings on values of order 1.
        torch.testing.assert_close(ema.shadow[name].double(), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("num_updates", "fraction"), [(80_000, 9 / 80_010), (10**6, 1e-4)])
def test_a_decay_near_one_keeps_its_precision(num_updates, fraction):
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = Ema(model, decay=0.9999)
    ema.num_updates.fill_(num_updates)
    nn.init.ones_(model.weight)
    ema.update(model)
    assert ema.shadow["weight"].item() == pytest.approx(fraction, rel=1e-6)


def test_not_ok_leaves_everything():
    model = make_model()
    ema = Ema(model, decay=0.9)
    change(model, 0)
    ema.update(model)
    before = copy.deepcopy(ema.state_dict())
    change(model, 1)
    for ok in (torch.tensor(0.0), torch.tensor(False)):
        ema.update(model, ok)
    torch.testing.assert_close(ema.state_dict(), before, rtol=0, atol=0)
    other = Ema(make_model(), decay=0.9)
    other.load_state_dict(before)
    ema.update(model, torch.tensor(True))
    other.update(model)
    torch.testing.assert_close(ema.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_resumes_bit_for_bit(tmp_path):
    model = make_model()
    straight = Ema(model, decay=0.999)
    for step in range(3):
        change(model, step)
        straight.update(model)
    torch.save(straight.state_dict(), tmp_path / "ema.pth")
    resumed = Ema(make_model(), decay=0.999)
    resumed.load_state_dict(torch.load(tmp_path / "ema.pth", weights_only=True))
    for step in range(3, 6):
        change(model, step)
        straight.update(model)
        resumed.update(model)
    torch.testing.assert_close(straight.state_dict(), resumed.state_dict(), rtol=0, atol=0)


def test_shadows_are_float32_copies():
    model = make_model().bfloat16()
    ema = Ema(model, decay=0.9)
    change(model, 0)
    ema.update(model)
    assert all(shadow.dtype == torch.float32 and not shadow.requires_grad for shadow in ema.shadow.values())
    assert not torch.equal(ema.shadow["0.weight"], model[0].weight.float())


def test_applied_swaps_and_restores_even_after_an_error():
    model = make_model()
    ema = Ema(model, decay=0.9)
    change(model, 0)
    own = copy.deepcopy(model.state_dict())

    def fail():
        with ema.applied(model):
            torch.testing.assert_close(dict(model.named_parameters()), ema.shadow, rtol=0, atol=0)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    torch.testing.assert_close(model.state_dict(), own, rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("other", [make_model(5), nn.Linear(3, 4)])
def test_a_state_of_another_model_is_refused(other):
    with pytest.raises(CheckpointError, match="do not fit"):
        Ema(make_model(), decay=0.9).load_state_dict(Ema(other, decay=0.9).state_dict())

"""Optimizers of timm and schedule-free AdamW: what is refused, and that all others update, skip and resume exactly."""

import copy
import io
import sys

import pytest
import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn

from swin.config import flatten, load_config
from swin.engine.checkpoint import read_checkpoint, write_checkpoint
from swin.engine.precision import Precision
from swin.engine.schema import check_content
from swin.engine.step import StepTotals, train_step
from swin.errors import CheckpointError, ConfigError
from swin.library_optim import ScheduleFreeAverage
from swin.models import SwinTransformer
from swin.optim import make_optimizer, set_lr, step_if
from tests.updates import make_state, updates

# Of the names in timm's list, beginnings of those that the messages refuse.
REFUSED = ("adafactorbv", "cadafactorbv", "adahessian", "bnb", "fused", "kron")
NAMES = [*(f"timm:{name}" for name in list_optimizers() if not name.startswith(REFUSED)), "schedulefree"]


def make_model():
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 4, "in_chans": 1, "num_classes": 3, "drop_path_rate": 0.0}
    return SwinTransformer(**sizes, window_size=2, embed_dim=8, depths=(1, 1), num_heads=(1, 2))


def make(model, name, **changes):
    return make_optimizer(model, **{"name": name, "lr": 1e-3, "weight_decay": 0.05, **changes})


def update(model, optimizer, step, *, ok=True):
    random = torch.Generator().manual_seed(step)
    images, labels = torch.randn(4, 1, 16, 16, generator=random), torch.randint(3, (4,), generator=random)
    nn.functional.cross_entropy(model(images), labels).backward()
    if not ok:
        next(model.parameters()).grad.fill_(torch.nan)
    set_lr(optimizer, 1e-3 * (1 + step % 3))
    step_if(optimizer, torch.tensor(ok))
    optimizer.zero_grad(set_to_none=True)


def train(model, optimizer, steps):
    for step in steps:
        update(model, optimizer, step)


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def assert_same(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def make_content(model, optimizer, step):
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": -1, "step": step}


def corrects_decay(name):
    return name != "schedulefree" and _defaults(name).get("corrected_weight_decay")


def _defaults(name):
    return create_optimizer_v2([nn.Parameter(torch.zeros(2, 2))], opt=name.removeprefix("timm:"), lr=0.1).defaults


@pytest.mark.parametrize("name", NAMES)
def test_each_optimizer_updates_skips_and_resumes_exactly_or_is_refused(name, tmp_path):
    model = make_model()
    if corrects_decay(name):
        with pytest.raises(ConfigError, match="corrects the weight decay"):
            make(model, name)
        return
    optimizer, first = make(model, name), weights(model)
    update(model, optimizer, 0, ok=False)
    assert_same(weights(model), first)
    train(model, optimizer, range(6))
    moved = [not torch.equal(*pair) for pair in zip(weights(model), first, strict=True) if (pair[1] != 1).any()]
    assert all(moved), "each parameter is updated, biases and tables too; norms may be too near 1 for a small update"
    assert all(parameter.isfinite().all() for parameter in model.parameters())

    write_checkpoint(tmp_path / "last.pth", make_content(model, optimizer, 5))
    content = read_checkpoint(tmp_path / "last.pth")
    before, state = weights(model), io.BytesIO()
    torch.save(optimizer.state_dict(), state)
    update(model, optimizer, 9, ok=False)
    assert_same(weights(model), before)
    assert_same(optimizer.state_dict()["state"], torch.load(io.BytesIO(state.getvalue()))["state"])

    # One that begins anew, and one that has gone on and goes back, as a run does after updates that are not finite.
    fresh, gone_on = make_model(), make_model()
    others = [(fresh, make(fresh, name)), (gone_on, make(gone_on, name))]
    train(*others[1], range(7, 9))
    train(model, optimizer, range(6, 10))
    for other, its_optimizer in others:
        other.load_state_dict(content["model"])
        its_optimizer.load_state_dict(content["optimizer"])
        train(other, its_optimizer, range(6, 10))
        assert_same(weights(other), weights(model))


@pytest.mark.parametrize("name", ["timm:lamb", "timm:adan", "schedulefree"])
def test_going_back_to_before_the_first_update_is_exact(name):
    model = make_model()
    optimizer = make(model, name)
    content, first = copy.deepcopy((optimizer.state_dict(), model.state_dict()))
    train(model, optimizer, range(3))
    expected = weights(model)
    model.load_state_dict(first)
    optimizer.load_state_dict(content)
    train(model, optimizer, range(3))
    assert_same(weights(model), expected)


@pytest.mark.parametrize("name", ["timm:lion", "timm:lamb", "schedulefree"])
def test_the_official_groups_and_layer_decay_hold(name):
    model = make_model()
    optimizer = make(model, name, layer_decay=0.5)
    set_lr(optimizer, 0.1)
    exempt = {id(p) for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]}
    names = [key for key, parameter in model.named_parameters() if id(parameter) in exempt]
    assert all(key.endswith(("bias", "bias_table")) or "norm" in key for key in names)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model.head.weight)] == 0.1
    assert rates[id(model.patch_embed.proj.weight)] == pytest.approx(0.1 * 0.5**3)


def test_lion_is_its_papers():
    """Sign of an interpolation of momentum and gradient, and decay apart (arXiv 2302.06675, algorithm 2)."""
    model = nn.Linear(3, 2)
    optimizer = make(model, "timm:lion", arguments={"betas": [0.9, 0.98]})
    weight, momentum = model.weight.detach().double(), torch.zeros(2, 3, dtype=torch.float64)
    for step in range(4):
        model.weight.grad = torch.randn(2, 3, generator=torch.Generator().manual_seed(step))
        grad = model.weight.grad.double()
        set_lr(optimizer, 0.01)
        step_if(optimizer, torch.tensor(True))
        weight = weight * (1 - 0.01 * 0.05) - 0.01 * (0.9 * momentum + 0.1 * grad).sign()
        momentum = 0.98 * momentum + 0.02 * grad
        torch.testing.assert_close(model.weight.detach().double(), weight, rtol=1e-5, atol=1e-6)  # float32's rounding


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:lionn", "the nearest are lion"),
        ("timm:adafactorbv", "adafactor can be"),
        ("timm:adahessian", "second derivatives"),
        ("timm:fusedadam", "apex"),
        ("timm:bnbadam8bit", "bitsandbytes"),
        ("timm:kronw", "compiles itself"),
        ("timm:lookahead_adam", "no optimizer 'lookahead_adam'"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(name, words):
    with pytest.raises(ConfigError, match=words):
        make(make_model(), name)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("timm:lion", {"betos": [0.9, 0.99]}, "does not take .*betos"),
        ("timm:lion", {"betas": [0.9, 2.0]}, "does not take"),
        ("timm:lion", {"betas": [0.9]}, "does not take .*list index out of range"),
        ("timm:lamb", {"max_grad_norm": "all"}, "does not take .*unsupported operand"),
        ("timm:adamw", {"differentiable": True}, "does not take .*in-place operation"),
        ("timm:adamw", {"layer_decay": 0.5}, "layer_decay of timm:adamw is not set there"),
        ("schedulefree", {"r": "much"}, "does not take .*unsupported operand"),
        ("schedulefree", {"r": float("inf")}, "does not take .*its updates are not finite"),
        ("timm:lion", {"lr": 0.1}, "lr of timm:lion is not set there"),
        ("timm:adamw", {"fused": True}, "only adamw, sgd and muon are fused"),
        ("schedulefree", {"warmup_steps": 3}, "warmup_steps of schedulefree is not set there"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(name, arguments, words):
    with pytest.raises(ConfigError, match=words):
        make(make_model(), name, arguments=arguments)


def test_schedule_free_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(ConfigError, match=r"pip install \"swin-trainer\[optim\]\""):
        make(make_model(), "schedulefree")


@pytest.mark.parametrize(
    ("saved", "other"),
    [("timm:lion", "timm:lamb"), ("timm:adamw", "adamw"), ("muon", "timm:lion"), ("adamw", "timm:adamw")],
)
def test_a_state_of_another_optimizer_is_refused(saved, other):
    optimizer = make(nn.Linear(3, 2), saved)
    with pytest.raises(CheckpointError, match=r"another optimizer than|parameter groups"):
        make(nn.Linear(3, 2), other).load_state_dict(optimizer.state_dict())


def damage(content, what):
    optimizer = content["optimizer"]
    if what == "no state":
        del optimizer["state"][0]
    elif what == "a text":
        optimizer["state"][0]["exp_avg"] = "0"
    else:
        optimizer["param_groups"][0]["step"] = torch.tensor(torch.nan)
    return content


def test_a_momentum_that_is_no_share_does_not_make_a_checkpoint_unreadable():
    model = make_model()
    optimizer = make(model, "timm:sgd", arguments={"momentum": 1.5})
    train(model, optimizer, range(2))
    check_content(make_content(model, optimizer, 2), "last.pth")


@pytest.mark.parametrize("what", ["no state", "a text", "no count"])
def test_a_damaged_state_is_refused_before_it_is_used(what):
    model = make_model()
    optimizer = make(model, "timm:lamb")
    train(model, optimizer, range(2))
    content = make_content(model, optimizer, 2)
    check_content(content, "last.pth")
    with pytest.raises(CheckpointError, match="'optimizer'"):
        check_content(damage(content, what), "last.pth")


def test_schedule_free_evaluates_and_saves_its_average_without_changing_a_bit():
    model = make_model()
    optimizer = make(model, "schedulefree", weight_decay=0.0)
    average, points = ScheduleFreeAverage(optimizer, model), []
    assert_same(list(average.state_dict()["model"].values()), weights(model))
    for step in range(5):
        train(model, optimizer, [step])
        points.append([optimizer.state[parameter]["z"].clone() for parameter in model.parameters()])
    before = weights(model)
    with average.applied(model):
        inside = weights(model)
    assert_same(weights(model), before)
    saved = average.state_dict()
    assert_same(list(saved["model"].values()), inside)
    assert saved["num_updates"] == 5
    # The average of the points, each weighted by the square of the greatest rate so far (arXiv 2405.15682).
    shares = torch.tensor([1.0, 4.0, 9.0, 9.0, 9.0]) / 32
    expected = [
        sum(share * point for share, point in zip(shares, each, strict=True)) for each in zip(*points, strict=True)
    ]
    torch.testing.assert_close(inside, expected, rtol=1e-4, atol=1e-6)  # x is found from y and z in float32


def test_schedule_free_is_built_with_its_average():
    options = ["TRAIN.OPTIMIZER.NAME", "schedulefree", "TRAIN.LR_SCHEDULER.NAME", "constant"]

    state = make_state(torch.device("cpu"), Precision("cpu", None), *options, lesson={"features": 0.5})
    assert isinstance(state.ema, ScheduleFreeAverage)
    # What is trained besides the model has an average, too, and no bit of it is changed either.
    for step in range(3):
        train_step(state, step, updates(), 0.01, StepTotals(torch.device("cpu")), [])
    before = weights(state.network)
    state.state_dict()
    assert_same(weights(state.network), before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["TRAIN.OPTIMIZER.NAME", "schedulefree"], "set it to constant"),
        (["TRAIN.OPTIMIZER.NAME", "schedulefree", "TRAIN.EMA.ENABLE", True], "an average of its own"),
        (["TRAIN.OPTIMIZER.NAME", "schedulefree", "TRAIN.OPTIMIZER.BETAS", "[0, 0.99]"], "a first value above 0"),
        (["TRAIN.OPTIMIZER.ARGS", "{betas: [0.9, 0.99]}"], "leave them out with"),
        (["TRAIN.OPTIMIZER.NAME", "timm:"], "timm:NAME"),
        (["TRAIN.OPTIMIZER.ARGS", "{betas: [[1]]}"], "a mapping, as {NAME: VALUE}"),
        (["TRAIN.OPTIMIZER.ARGS", "[1]"], "a mapping, as {NAME: VALUE}"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        load_config(opts=options)


def test_arguments_come_from_the_config():
    options = [
        "TRAIN.OPTIMIZER.NAME",
        "timm:lion",
        "TRAIN.OPTIMIZER.ARGS",
        "{betas: [0.8, 0.9], caution: true, eps: 1e-6}",
    ]
    cfg = load_config(opts=options)
    assert dict(cfg.TRAIN.OPTIMIZER.ARGS) == {"betas": [0.8, 0.9], "caution": True, "eps": 1e-6}
    assert load_config(None, (), flatten(cfg)) == cfg
    assert not cfg.warnings


def test_keys_that_timms_optimizers_do_not_use_are_warned_of():
    cfg = load_config(opts=["TRAIN.OPTIMIZER.NAME", "timm:lion", "TRAIN.OPTIMIZER.EPS", 1e-6])
    assert any("TRAIN.OPTIMIZER.ARGS {eps: VALUE}" in warning for warning in cfg.warnings)

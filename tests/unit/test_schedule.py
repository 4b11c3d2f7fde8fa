"""Schedules against literals and against timm's scheduler classes."""

import pytest
import torch
from timm.scheduler import CosineLRScheduler, StepLRScheduler

from swin.config import flatten, load_config
from swin.errors import ConfigError
from swin.schedule import build_schedule, count_warmup_steps, find_lr_factor, make_schedule

COMMON = {"peak_lr": 1.0, "warmup_lr": 0.1, "min_lr": 0.01, "total_steps": 100, "warmup_steps": 10}


def timm_values(kind, **arguments):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=COMMON["peak_lr"])
    scheduler = kind(optimizer, warmup_t=10, warmup_lr_init=0.1, t_in_epochs=False, **arguments)
    return [scheduler._get_lr(step)[0] for step in range(100)]


@pytest.mark.parametrize("prefix", [True, False])
def test_cosine_equals_timm(prefix):
    ours = make_schedule(name="cosine", warmup_prefix=prefix, **COMMON)
    t_initial = 90 if prefix else 100
    expected = timm_values(CosineLRScheduler, t_initial=t_initial, lr_min=0.01, warmup_prefix=prefix)
    assert [ours(step) for step in range(100)] == pytest.approx(expected, rel=1e-12)


def test_step_equals_timm_without_prefix():
    ours = make_schedule(name="step", decay_steps=30, decay_rate=0.5, **COMMON)
    expected = timm_values(StepLRScheduler, decay_t=30, decay_rate=0.5, warmup_prefix=False)
    assert [ours(step) for step in range(100)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"name": "cosine"}, {0: 0.1, 5: 0.55, 10: 1.0, 55: 0.505, 100: 0.01, 250: 0.01}),
        ({"name": "cosine", "warmup_prefix": False}, {5: 0.55, 50: 0.505, 100: 0.01}),
        ({"name": "linear"}, {0: 0.1, 9: 0.91, 10: 1.0, 55: 0.505, 100: 0.01, 250: 0.01}),
        ({"name": "wsd"}, {0: 0.1, 5: 0.55, 10: 1.0, 80: 1.0, 85: 0.505, 100: 0.01, 250: 0.01}),
        ({"name": "wsd", "decay_share": 1.0}, {9: 0.91, 10: 1.0, 32.5: 0.505, 100: 0.01}),
        ({"name": "step", "decay_steps": 40}, {5: 0.55, 39: 1.0, 40: 0.1, 80: 0.01}),
        ({"name": "multistep", "milestones": (30, 60), "gamma": 0.2}, {5: 0.55, 29: 1.0, 30: 0.2, 60: 0.04}),
    ],
)
def test_literals(arguments, expected):
    schedule = make_schedule(**arguments, **COMMON)
    assert {step: schedule(step) for step in expected} == pytest.approx(expected)


def test_without_warmup_the_first_update_has_the_peak():
    for name in ("cosine", "linear"):
        assert make_schedule(name=name, **{**COMMON, "warmup_steps": 0})(0) == 1.0


def test_a_run_of_warmup_alone_divides_by_nothing():
    assert make_schedule(name="cosine", **{**COMMON, "total_steps": 10})(10) == 1.0


@pytest.mark.parametrize(("arguments", "words"), [({"name": "cosin"}, "'cosin'"), ({"name": "step"}, "found 0")])
def test_unusable_arguments(arguments, words):
    with pytest.raises(ConfigError, match=words):
        make_schedule(**arguments, **COMMON)


def test_the_decay_of_wsd_is_a_share_of_the_run():
    options = ["TRAIN.LR_SCHEDULER.NAME", "wsd", "TRAIN.LR_SCHEDULER.DECAY_SHARE", 0.5, "TRAIN.MIN_LR", 0]
    schedule = build_schedule(load_config(opts=options), effective_batch=512, total_updates=300 * 10)
    assert [schedule(step) for step in (200, 1500, 1875, 3000)] == pytest.approx([5e-4, 5e-4, 2.5e-4, 0.0])


def test_official_recipe_is_scaled_by_the_effective_batch():
    schedule = build_schedule(load_config(), effective_batch=1024, total_updates=300 * 1251)
    assert schedule(0) == pytest.approx(1e-6)
    assert schedule(20 * 1251) == pytest.approx(1e-3)
    assert schedule(300 * 1251) == pytest.approx(1e-5)


def test_learning_rates_as_written_and_linear_ends_at_min_lr():
    options = ["TRAIN.LR_REFERENCE_BATCH", 0, "TRAIN.LR_SCHEDULER.NAME", "linear", "TRAIN.EPOCHS", 40]
    schedule = build_schedule(load_config(opts=options), effective_batch=1024, total_updates=400)
    # The official linear schedule ends at 1% of the peak, which is the default MIN_LR.
    assert (schedule(200), schedule(300), schedule(400)) == pytest.approx((5e-4, 2.525e-4, 5e-6))


def test_milestones_are_epochs():
    options = ["TRAIN.LR_SCHEDULER.NAME", "multistep", "TRAIN.LR_SCHEDULER.MULTISTEPS", "[30, 60]"]
    schedule = build_schedule(load_config(opts=options), effective_batch=512, total_updates=3000)
    assert (schedule(299), schedule(300), schedule(600)) == pytest.approx((5e-4, 5e-5, 5e-6))


@pytest.mark.parametrize(
    ("warmup", "epochs", "steps"), [("0.1", 2, 2), ("0.1", 300, 300), ("0.05", 1, 0), ("1", 2, 10)]
)
def test_a_warm_up_may_be_a_share_of_the_run(warmup, epochs, steps):
    cfg = load_config(opts=["TRAIN.WARMUP_EPOCHS", warmup, "TRAIN.EPOCHS", epochs, "TRAIN.LR_REFERENCE_BATCH", 0])
    assert count_warmup_steps(cfg, 10 * epochs) == steps
    schedule = build_schedule(cfg, effective_batch=7, total_updates=10 * epochs)
    assert schedule(steps) == pytest.approx(5e-4)
    assert steps == 0 or schedule(0) == pytest.approx(5e-7)
    assert load_config(None, (), flatten(cfg)) == cfg, "a share is dumped as a share"


def test_epochs_keep_their_share_of_a_run_of_another_length():
    options = ["TRAIN.EPOCHS", "100", "TRAIN.WARMUP_EPOCHS", "10", "TRAIN.LR_REFERENCE_BATCH", "0"]
    steps = ["TRAIN.LR_SCHEDULER.NAME", "multistep", "TRAIN.LR_SCHEDULER.MULTISTEPS", "[50, 75]"]
    cfg = load_config(opts=[*options, *steps, "TRAIN.MINUTES", "1"])
    assert count_warmup_steps(cfg, 230) == 23
    schedule = build_schedule(cfg, effective_batch=7, total_updates=230)
    assert [schedule(step) for step in (23, 114, 115, 229)] == pytest.approx([5e-4, 5e-4, 5e-5, 5e-6])
    decay = ["TRAIN.LR_SCHEDULER.NAME", "step", "TRAIN.LR_SCHEDULER.DECAY_EPOCHS", "30"]
    schedule = build_schedule(load_config(opts=[*options, *decay]), effective_batch=7, total_updates=10)
    assert [schedule(step) for step in (2, 3, 6)] == pytest.approx([5e-4, 5e-5, 5e-6])


def test_rates_may_follow_the_square_root_of_the_batch():
    cfg = load_config(opts=["TRAIN.LR_SCALING", "sqrt"])
    for batch, factor in ((512, 1.0), (8, 0.125), (2048, 2.0)):
        schedule = build_schedule(cfg, effective_batch=batch, total_updates=3000)
        assert (schedule(0), schedule(200), schedule(3000)) == pytest.approx(
            (5e-7 * factor, 5e-4 * factor, 5e-6 * factor)
        )
    assert find_lr_factor(load_config(opts=["TRAIN.LR_SCALING", "sqrt", "TRAIN.LR_REFERENCE_BATCH", 0]), 8) == 1.0

"""Per-sample losses against torch's and timm's."""

import pytest
import torch
import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

from swin.config import load_config
from swin.errors import ConfigError
from swin.losses import balanced_weights, build_loss, make_loss, weight_loss


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator) * 3
    labels = torch.randint(5, (6,), generator=generator)
    soft = torch.softmax(torch.randn(6, 5, generator=generator), dim=1)
    return logits, labels, soft


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_classes(batch, smoothing):
    logits, labels, _ = batch
    losses = make_loss(smoothing=smoothing)(logits, labels)
    assert losses.shape == (6,)
    torch.testing.assert_close(losses.mean(), F.cross_entropy(logits, labels, label_smoothing=smoothing))
    torch.testing.assert_close(losses.mean(), LabelSmoothingCrossEntropy(smoothing)(logits, labels))


def test_cross_entropy_of_soft_targets(batch):
    logits, _, soft = batch
    torch.testing.assert_close(make_loss(smoothing=0.0)(logits, soft).mean(), SoftTargetCrossEntropy()(logits, soft))
    smoothed = make_loss(smoothing=0.1)(logits, soft).mean()
    torch.testing.assert_close(smoothed, SoftTargetCrossEntropy()(logits, soft * 0.9 + 0.1 / 5))


@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_one_hot_targets_equal_classes(batch, kind):
    logits, labels, _ = batch
    loss = make_loss(smoothing=0.1, kind=kind)
    torch.testing.assert_close(loss(logits, F.one_hot(labels, 5).float()), loss(logits, labels))


def test_binary_cross_entropy_equals_timm(batch):
    logits, labels, soft = batch
    for smoothing in (0.0, 0.2):
        ours = make_loss(smoothing=smoothing, kind="bce")(logits, labels)
        torch.testing.assert_close(ours.mean(), BinaryCrossEntropy(smoothing=smoothing)(logits, labels))
    unreduced = BinaryCrossEntropy(smoothing=0.0, reduction="none")(logits, soft)
    torch.testing.assert_close(make_loss(smoothing=0.0, kind="bce")(logits, soft), unreduced.mean(dim=1))


@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_half_precision_logits_give_float32_losses(batch, kind):
    logits, labels, _ = batch
    losses = make_loss(smoothing=0.1, kind=kind)(logits.bfloat16(), labels)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, make_loss(smoothing=0.1, kind=kind)(logits.bfloat16().float(), labels))


def test_unknown_kind():
    with pytest.raises(ConfigError, match="'mse'"):
        make_loss(smoothing=0.0, kind="mse")


def test_built_from_the_config(batch):
    logits, labels, _ = batch
    options = ["MODEL.LABEL_SMOOTHING", 0.3, "TRAIN.LOSS", "bce"]
    expected = make_loss(smoothing=0.3, kind="bce")(logits, labels)
    torch.testing.assert_close(build_loss(load_config(opts=options))(logits, labels), expected)


def test_balanced_weights_make_classes_count_alike(batch):
    counts = [8, 1, 3, 0, 4]
    weights = balanced_weights(counts)
    sums = weights * torch.tensor(counts)
    torch.testing.assert_close(sums[[0, 1, 2, 4]], torch.full((4,), 4.0))
    assert sums.sum() == sum(counts)  # the mean loss keeps its scale
    logits, labels, soft = batch
    loss = make_loss(smoothing=0.1)
    weighted = weight_loss(loss, weights)
    torch.testing.assert_close(weighted(logits, labels), loss(logits, labels) * weights[labels])
    one_hot = F.one_hot(labels, 5).float()
    torch.testing.assert_close(weighted(logits, one_hot), weighted(logits, labels))
    torch.testing.assert_close(weighted(logits, soft), loss(logits, soft) * (soft @ weights))


def test_class_weights_are_configured(batch):
    logits, labels, _ = batch
    weighted = build_loss(load_config(overrides={"TRAIN.CLASS_WEIGHTS": "balanced"}), [1, 2, 3, 4, 5])
    plain = build_loss(load_config(), [1, 2, 3, 4, 5])
    assert not torch.equal(weighted(logits, labels), plain(logits, labels))

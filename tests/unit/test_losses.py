"""Per-sample losses against torch's and timm's."""

from inspect import signature

import pytest
import torch
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel, BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

from swin.config import load_config
from swin.errors import ConfigError
from swin.losses import asymmetric_loss, balanced_weights, build_loss, make_loss, weight_loss


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


ASL = [(4.0, 1.0, 0.05), (2.0, 0.0, 0.2), (4.0, 1.0, 0.0), (0.0, 0.0, 0.0), (0.5, 0.5, 0.05)]


@pytest.fixture
def label_batch():
    generator = torch.Generator().manual_seed(1)
    labels = (torch.rand(8, 6, generator=generator) < 0.3).to(torch.uint8)
    labels[0] = 0  # an image without labels
    return torch.randn(8, 6, generator=generator) * 4, labels


@pytest.mark.parametrize(("gamma_neg", "gamma_pos", "clip"), ASL)
def test_the_asymmetric_loss_is_the_papers_formula(label_batch, gamma_neg, gamma_pos, clip):
    logits, labels = label_batch
    p, y = logits.double().sigmoid(), labels.double()
    p_m = (p - clip).clamp(min=0)
    expected = -(y * (1 - p) ** gamma_pos * p.log() + (1 - y) * p_m**gamma_neg * (1 - p_m).log())
    found = make_loss(smoothing=0.0, kind="asl", gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip)(logits, labels)
    assert found.dtype == torch.float32
    # Sums of 6 float32 values.
    torch.testing.assert_close(found.double(), expected.sum(dim=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("gamma_neg", "gamma_pos", "clip"), ASL[:3])
def test_the_asymmetric_loss_and_its_gradient_are_timms(label_batch, gamma_neg, gamma_pos, clip):
    logits, labels = label_batch
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    # By default timm's gradient passes through the weights too, and its sum over classes is averaged over the batch.
    reference = AsymmetricLossMultiLabel(gamma_neg, gamma_pos, clip, eps=1e-12)(theirs, labels)
    if "reduction" not in signature(AsymmetricLossMultiLabel).parameters:  # an older timm sums over the batch, too
        reference = reference / len(labels)
    loss = make_loss(smoothing=0.0, kind="asl", gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip)(ours, labels)
    torch.testing.assert_close(loss.mean(), reference)
    reference.backward()
    loss.mean().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_the_asymmetric_loss_without_focusing_is_the_sum_of_binary_cross_entropies(label_batch):
    logits, labels = label_batch
    found = make_loss(smoothing=0.0, kind="asl", gamma_neg=0, gamma_pos=0, clip=0)(logits, labels)
    torch.testing.assert_close(found, 6 * make_loss(smoothing=0.0, kind="bce")(logits, labels))


@pytest.mark.parametrize(("gamma_neg", "gamma_pos", "clip"), ASL)
def test_the_asymmetric_loss_is_finite_for_any_logit(gamma_neg, gamma_pos, clip):
    logits = torch.tensor([[-200.0, -90.0, -20.0, -3.0, 0.0, 3.0, 20.0, 90.0, 200.0]]).requires_grad_()
    for label in (0.0, 0.3, 1.0):
        options = {"gamma_neg": gamma_neg, "gamma_pos": gamma_pos, "clip": clip}
        loss = asymmetric_loss(logits, torch.full_like(logits, label), **options)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()


def test_labels_are_smoothed_in_proportion_to_their_number(label_batch):
    logits, labels = label_batch
    y = labels.float()
    smoothed = make_loss(smoothing=0.3, kind="bce")(logits, labels)
    torch.testing.assert_close(
        smoothed, make_loss(smoothing=0.0, kind="bce")(logits, 0.7 * y + 0.3 * y.sum(1, keepdim=True) / 6)
    )
    torch.testing.assert_close(  # of an image without labels nothing is left to spread
        smoothed[0], make_loss(smoothing=0.0, kind="bce")(logits, labels)[0]
    )
    smoothed = make_loss(smoothing=0.3, kind="asl")(logits, labels)
    torch.testing.assert_close(smoothed, make_loss(smoothing=0.0, kind="asl")(logits, 0.7 * y))


@pytest.mark.parametrize("kind", ["bce", "asl"])
def test_the_loss_of_mixed_labels_is_the_mixture_of_the_losses(label_batch, kind):
    logits, labels = label_batch
    loss = make_loss(smoothing=0.1, kind=kind)
    mixed = loss(logits, 0.3 * labels + 0.7 * labels.flip(0))
    torch.testing.assert_close(mixed, 0.3 * loss(logits, labels) + 0.7 * loss(logits, labels.flip(0)))


def test_the_asymmetric_loss_is_built_from_the_config(label_batch):
    logits, labels = label_batch
    options = {"TRAIN.LOSS": "asl", "TRAIN.ASL.GAMMA_NEG": 3.0, "TRAIN.ASL.GAMMA_POS": 2.0, "TRAIN.ASL.CLIP": 0.1}
    found = build_loss(load_config(overrides={**options, "MODEL.LABEL_SMOOTHING": 0.0}))(logits, labels)
    torch.testing.assert_close(found, asymmetric_loss(logits, labels, gamma_neg=3.0, gamma_pos=2.0, clip=0.1))

"""Mixup and CutMix: which pixels come from where, and that the targets say so."""

import numpy as np
import pytest
import torch

from data.mixing import Mixer

CLASSES = 7


def make_batch(size: int, height: int = 12, width: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns images whose every pixel is the number of the image, so that a mix shows its weights."""
    images = torch.arange(size, dtype=torch.float32).view(-1, 1, 1, 1).expand(size, 3, height, width).clone()
    return images, torch.arange(size) % CLASSES


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize(
    "alphas", [{"mixup_alpha": 0.8}, {"cutmix_alpha": 1.0}, {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}]
)
def test_targets_say_how_much_of_each_image_is_there(size: int, mode: str, alphas: dict[str, float]) -> None:
    images, labels = make_batch(size)
    partner = torch.arange(size).flip(0)
    for seed in range(20):
        mixed, targets = Mixer(CLASSES, **alphas, mode=mode)(images, labels, seed)
        assert mixed.shape == images.shape
        assert targets.dtype == torch.float32
        torch.testing.assert_close(targets.sum(1), torch.ones(size))
        for index in range(size):
            own, other = index, int(partner[index])
            if labels[own] == labels[other]:
                continue
            keep = float(targets[index, labels[own]])
            # The mean pixel is the mix of the two numbers, whether pixels were blended or pasted.
            expected = keep * own + (1 - keep) * other
            assert mixed[index].mean().item() == pytest.approx(expected, abs=1e-4)


def test_mixup_blends_every_pixel_alike_and_cutmix_pastes_one_box() -> None:
    images, labels = make_batch(4)
    blended, _ = Mixer(CLASSES, mixup_alpha=0.8)(images, labels, 1)
    assert all(len(image.unique()) == 1 for image in blended)
    pasted, targets = Mixer(CLASSES, cutmix_alpha=1.0)(images, labels, 1)
    assert pasted[0].unique().tolist() == [0.0, 3.0]
    rows, columns = torch.nonzero(pasted[0, 0] == 3.0, as_tuple=True)
    box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
    assert box == len(rows)
    assert float(targets[0, 3]) == pytest.approx(len(rows) / 120)


def test_modes_share_draws_as_they_say() -> None:
    images, labels = make_batch(6)
    keeps = {}
    for mode in ("batch", "pair", "elem"):
        _, targets = Mixer(CLASSES, mixup_alpha=1.0, mode=mode)(images, labels, 3)
        keeps[mode] = targets[torch.arange(6), labels]
    assert len(keeps["batch"].unique()) == 1
    assert len(keeps["pair"].unique()) == 3
    assert torch.equal(keeps["pair"], keeps["pair"].flip(0))
    assert len(keeps["elem"].unique()) == 6


def test_mixing_with_itself_changes_nothing() -> None:
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mixed, targets = Mixer(CLASSES, mixup_alpha=0.8)(images, torch.tensor([0, 1, 2]), 0)
    assert torch.equal(mixed[1], images[1])
    assert targets[1].tolist() == [0, 1, 0, 0, 0, 0, 0]


def test_the_seed_decides_and_no_other_generator() -> None:
    images, labels = make_batch(4)
    mixer = Mixer(CLASSES, mixup_alpha=0.8, cutmix_alpha=1.0, mode="elem")
    before = torch.get_rng_state(), np.random.get_state()[1]
    first, again, other = (mixer(images, labels, seed)[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_probabilities() -> None:
    images, labels = make_batch(2)
    never, targets = Mixer(CLASSES, mixup_alpha=1.0, prob=0.0)(images, labels, 0)
    assert torch.equal(never, images)
    assert targets.tolist() == torch.eye(CLASSES)[:2].tolist()
    images, labels = make_batch(4000, 4, 4)
    mixer = Mixer(CLASSES, mixup_alpha=1.0, cutmix_alpha=1.0, prob=0.5, switch_prob=0.25, mode="elem")
    _, targets = mixer(images, labels, 0)
    keep = targets[torch.arange(4000), labels]
    # An empty or clipped box also leaves all of an image, hence only a bound for the rest.
    assert 0.45 < float((keep == 1).float().mean()) < 0.62


def test_draws_have_the_means_of_the_papers() -> None:
    mixer = Mixer(CLASSES, mixup_alpha=0.8, mode="elem")
    keep, boxes = mixer._draw(20_000, 224, 224, seed=0)
    assert keep.mean() == pytest.approx(0.5, abs=0.01)  # Beta(0.8, 0.8) is symmetric
    assert keep.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.03)
    assert not boxes.any()


def test_minmax_bounds_the_sides_of_boxes() -> None:
    mixer = Mixer(CLASSES, cutmix_minmax=(0.25, 0.75), mode="elem")
    keep, boxes = mixer._draw(5000, 100, 60, seed=0)
    heights, widths = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    assert heights.min() >= 25
    assert heights.max() <= 75
    assert widths.min() >= 15
    assert widths.max() <= 45
    assert boxes.min() >= 0
    assert boxes[:, 1].max() <= 100
    assert boxes[:, 3].max() <= 60
    np.testing.assert_allclose(keep, 1 - heights * widths / 6000)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("size", [6, 7])
def test_a_part_of_an_update_is_mixed_as_in_the_whole(mode: str, size: int) -> None:
    images, labels = make_batch(size)
    mix = Mixer(CLASSES, mixup_alpha=0.8, cutmix_alpha=1.0, mode=mode)
    for seed in range(8):
        mixed, targets = mix(images, labels, seed)
        for rows in ([0, size - 1], [1, 2, size - 3, size - 2]):
            part, part_targets = mix(images[rows], labels[rows], seed, rows, size)
            assert torch.equal(part, mixed[rows])
            assert torch.equal(part_targets, targets[rows])


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_several_labels_an_image_are_mixed_as_the_single_ones(mode: str) -> None:
    images, labels = make_batch(6)
    one_hot = torch.nn.functional.one_hot(labels, CLASSES)
    mixer = Mixer(CLASSES, mixup_alpha=0.8, cutmix_alpha=1.0, mode=mode)
    for seed in range(10):
        mixed, targets = mixer(images, labels, seed)
        same, several = mixer(images, torch.cat([one_hot, one_hot.flip(0)], dim=1).to(torch.uint8), seed)
        torch.testing.assert_close(same, mixed, rtol=0, atol=0)
        assert several.dtype == torch.float32
        # The second half has the labels of the partners, so that what one image keeps is what the other gives.
        torch.testing.assert_close(several[:, :CLASSES], targets, rtol=0, atol=0)
        torch.testing.assert_close(several[:, :CLASSES] + several[:, CLASSES:], (one_hot + one_hot.flip(0)).float())

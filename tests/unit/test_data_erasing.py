"""Random erasing: where rectangles fall, and what fills them."""

import random

import numpy as np
import pytest
import torch
from timm.data.random_erasing import RandomErasing as TimmErasing

from data.erasing import RandomErasing, Rectangle, erase


def rows_of(*rectangles: tuple[int, Rectangle]) -> torch.Tensor:
    return torch.tensor([(place, *rectangle) for place, rectangle in rectangles], dtype=torch.int64).view(-1, 6)


def test_one_rectangle_is_drawn_as_timm_draws_it() -> None:
    ours, theirs = RandomErasing(0.25), TimmErasing(0.25, mode="const", device="cpu")
    for seed in range(200):
        random.seed(seed)
        expected = theirs(torch.ones(1, 3, 40, 60))
        random.seed(seed)
        images = torch.ones(1, 3, 40, 60)
        erase(images, rows_of(*((0, rectangle) for rectangle in ours(40, 60))), "const")
        assert torch.equal(images, expected)


def test_several_rectangles_share_the_area() -> None:
    random.seed(0)
    drawn = [RandomErasing(1.0, 4)(100, 100) for _ in range(400)]
    counts = np.bincount([len(rectangles) for rectangles in drawn], minlength=5)
    assert counts[1:].min() > 70
    assert all(r.height * r.width <= 1.05 * 10_000 / 3 for rectangles in drawn for r in rectangles)


@pytest.mark.parametrize(("mode", "std"), [("pixel", 1.0), ("const", 0.0)])
def test_only_the_rectangle_is_filled(mode: str, std: float) -> None:
    images = torch.full((3, 3, 50, 40), 5.0)
    erase(images, rows_of((1, Rectangle(10, 5, 30, 20, seed=7))), mode)
    inside = images[1, :, 10:40, 5:25].clone()
    images[1, :, 10:40, 5:25] = 5.0
    assert (images == 5).all()
    assert inside.mean().item() == pytest.approx(0, abs=0.1)  # 1,800 values: five standard errors
    assert inside.std().item() == pytest.approx(std, abs=0.1)


def test_a_random_colour_fills_the_whole_rectangle() -> None:
    images = torch.full((1, 3, 50, 40), 5.0)
    erase(images, rows_of((0, Rectangle(0, 0, 50, 40, seed=7))), "rand")
    assert [len(channel.unique()) for channel in images[0]] == [1, 1, 1]
    assert len(images.unique()) == 3


def test_the_seed_decides_whatever_the_place_in_the_batch() -> None:
    rectangle = Rectangle(2, 3, 10, 9, seed=11)
    images, before = torch.zeros(4, 3, 16, 16), torch.get_rng_state()
    erase(images, rows_of((0, rectangle), (3, rectangle), (2, rectangle._replace(seed=12))), "pixel")
    assert torch.equal(images[0], images[3])
    assert not torch.equal(images[0], images[2])
    assert torch.equal(torch.get_rng_state(), before)

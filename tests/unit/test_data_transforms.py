"""The training transform: the official recipe on any channel count, shape and image."""

import pickle
import random

import numpy as np
import pytest
import timm.data.auto_augment as timm_augment
import torch
from PIL import Image
from timm.data import create_transform

from data.transforms import RandomPaddedCrop, make_train_transform, posterize
from swin.errors import ConfigError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = {"auto_augment": None, "color_jitter": 0.0, "hflip": 0.0, "erase_prob": 0.0}


def make_picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    noise = np.random.RandomState(0).randint(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.mark.parametrize("auto_augment", ["rand-m4-mstd0.5-inc1", None])
def test_the_recipe_is_timms_bit_for_bit(auto_augment: str | None) -> None:
    # m4, since timm's own posterize fails on stronger policies.
    ours = make_train_transform(img_size=48, channels=3, mean=MEAN, std=STD, auto_augment=auto_augment)
    theirs = create_transform(
        48,
        is_training=True,
        color_jitter=0.4,
        auto_augment=auto_augment,
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
        re_count=1,
    )
    image = make_picture(80, 60)
    for seed in range(40):
        seed_all(seed)
        expected = theirs(image)
        seed_all(seed)
        assert torch.equal(ours(image), expected)


@pytest.mark.parametrize("side", [32, 40])
def test_the_default_policy_survives_thousands_of_tiny_images(side: int) -> None:
    transform = make_train_transform(img_size=side, channels=3, mean=MEAN, std=STD)
    images = [make_picture(8, 8), make_picture(1, 1), make_picture(1, 118), make_picture(9, 2)]
    seed_all(0)
    for number in range(1600):
        assert transform(images[number % 4]).shape == (3, side, side)


@pytest.mark.parametrize(
    "policy", ["rand-m10-n8-p1-inc1", "rand-m1-n8-p1", "augmix-m10", "original", "v0", "v0r", "3a", "rand-m9-tweights"]
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["bicubic", "lanczos", "random"])
def test_every_policy_works_at_full_strength(policy: str, channels: int, interpolation: str) -> None:
    transform = make_train_transform(
        img_size=36,
        channels=channels,
        mean=MEAN[:channels],
        std=STD[:channels],
        auto_augment=policy,
        interpolation=interpolation,
    )
    image = make_picture(10, 12, "RGB" if channels == 3 else "L")
    seed_all(0)
    for _ in range(60):
        values = transform(image)
        assert values.shape == (channels, 36, 36)
        assert values.dtype == torch.float32
        assert values.isfinite().all()


def test_keeping_no_bits_gives_black_and_timm_is_left_alone() -> None:
    assert posterize(make_picture(4, 4), 0).getextrema() == ((0, 0), (0, 0), (0, 0))
    assert posterize(make_picture(4, 4), 2).tobytes() == timm_augment.posterize(make_picture(4, 4), 2).tobytes()
    make_train_transform(img_size=36, channels=3, mean=MEAN, std=STD)
    assert timm_augment.NAME_TO_OP["PosterizeIncreasing"] is timm_augment.posterize


@pytest.mark.parametrize(("img_size", "expected"), [([24, 40], (24, 40)), ([16, 32], (16, 32)), (24, (24, 24))])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_shapes_and_channels(img_size: int | list[int], expected: tuple[int, int], channels: int) -> None:
    colours = {} if channels < 4 else {"auto_augment": None, "color_jitter": 0}
    transform = make_train_transform(
        img_size=img_size, channels=channels, mean=[0.5] * channels, std=[0.2] * channels, **colours
    )
    image = make_picture(50, 30, {1: "L", 3: "RGB", 4: "RGBA"}[channels])
    assert transform(image).shape == (channels, *expected)


def test_flips_are_as_likely_as_asked() -> None:
    image = make_picture(16, 16)
    straight = make_train_transform(img_size=16, channels=3, mean=MEAN, std=STD, crop_padding=0, **PLAIN)(image)
    flips = PLAIN | {"hflip": 1.0, "vflip": 1.0}
    flipped = make_train_transform(img_size=16, channels=3, mean=MEAN, std=STD, crop_padding=0, **flips)(image)
    assert torch.equal(flipped, straight.flip(1, 2))


def test_small_images_are_shifted_by_up_to_the_padding() -> None:
    image = Image.new("L", (8, 8))
    image.putpixel((4, 4), 255)
    crop = RandomPaddedCrop((8, 8), 2, Image.Resampling.BICUBIC)
    seed_all(0)
    places = {tuple(np.argwhere(np.array(crop(image)))[0].tolist()) for _ in range(400)}
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}
    corner = np.array(RandomPaddedCrop((8, 8), 2, Image.Resampling.BICUBIC)(Image.new("L", (8, 8), 255)))
    assert set(np.unique(corner)) <= {0, 255}


def test_scale_bounds_the_crop() -> None:
    # Columns of a ramp: the spread of a crop's values is the share of the width that it covers.
    ramp = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (200, 1)))
    transform = make_train_transform(
        img_size=64, channels=1, mean=(0,), std=(1,), scale=(0.25, 0.25), ratio=(1.0, 1.0), **PLAIN
    )
    seed_all(0)
    for _ in range(20):
        values = transform(ramp)
        assert (values.max() - values.min()).item() * 255 == pytest.approx(100, abs=4)


def test_no_colour_jitter_beside_a_policy_and_none_at_zero() -> None:
    names = [
        [
            type(step).__name__
            for step in make_train_transform(img_size=64, channels=3, mean=MEAN, std=STD, **options).transforms
        ]
        for options in ({}, {"auto_augment": None}, PLAIN)
    ]
    assert "RandAugment" in names[0]
    assert "ColorJitter" not in names[0]
    assert "ColorJitter" in names[1]
    assert names[2] == ["EnlargeTiny", "RandomResizedCropAndInterpolation", "ToNormalisedTensor"]


def test_unknown_policies_and_colours_of_four_channels_are_config_errors() -> None:
    with pytest.raises(ConfigError, match=r"AUG\.AUTO_AUGMENT is 'rnd-m9', .*Expected for example rand-m9"):
        make_train_transform(img_size=64, channels=3, mean=MEAN, std=STD, auto_augment="rnd-m9")
    with pytest.raises(ConfigError, match="IN_CHANS is 4"):
        make_train_transform(img_size=64, channels=4, mean=[0.5] * 4, std=[0.2] * 4)


def test_transforms_can_be_sent_to_workers() -> None:
    transform = make_train_transform(img_size=64, channels=1, mean=(0.5,), std=(0.5,))
    image = make_picture(70, 70, "L")
    seed_all(3)
    expected = transform(image)
    seed_all(3)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(image), expected)

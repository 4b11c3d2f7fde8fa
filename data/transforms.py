"""The training transform: the official recipe, built by timm, adapted to other channel counts and to Pillow 13."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import timm.data.auto_augment as timm_augment
import torch
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import Compose

from swin.config import Config
from swin.errors import ConfigError
from swin.preprocess import INTERPOLATIONS, MODES, SMALL_IMAGE_PX, ToNormalisedTensor


class RandomPaddedCrop:
    """Resizes to (H, W) and cuts (H, W) at random from a copy padded with black."""

    def __init__(self, size: tuple[int, int], padding: int, resample: Image.Resampling) -> None:
        self.size = size
        self.padding = padding
        self.resample = resample

    def __call__(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        if image.size != (width, height):
            image = image.resize((width, height), self.resample)
        down, right = torch.randint(-self.padding, self.padding + 1, (2,)).tolist()
        return image.crop((right, down, right + width, down + height))  # black where it leaves the image


class EnlargeTiny:
    """Enlarges images whose short side is below `min_side_px`, keeping their shape; leaves others alone."""

    def __init__(self, min_side_px: int) -> None:
        self.min_side_px = min_side_px

    def __call__(self, image: Image.Image) -> Image.Image:
        if min(image.size) >= self.min_side_px:
            return image
        scale = self.min_side_px / min(image.size)
        return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.NEAREST)


class ToMode:
    """Converts an image to a Pillow mode."""

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.convert(self.mode)


def make_train_transform(
    *,
    img_size: int | Sequence[int],
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
    auto_augment: str | None = "rand-m9-mstd0.5-inc1",
    color_jitter: float = 0.4,
    hflip: float = 0.5,
    vflip: float = 0.0,
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    crop_padding: int = 4,
    erase_prob: float = 0.25,
    erase_mode: str = "pixel",
    erase_count: int = 1,
) -> Callable[[Image.Image], torch.Tensor]:
    """Makes the training transform: image of `channels` to normalised float32 tensor (C, H, W).

    In order: random resized crop, flips, then either the AutoAugment policy or colour jitter, normalisation, random
    erasing. Sizes of at most 32 pixels are cropped from a padded copy instead, and `scale` and `ratio` do not apply.

    Args:
        img_size: Side in pixels, or (H, W).
        channels: 1, 3 or 4. The policy and the jitter work in RGB: greys are converted to it and back.
        mean: Channel means, on a scale of 0 to 1; also the policy's fill colour.
        std: Channel standard deviations, likewise.
        interpolation: A key of `swin.preprocess.INTERPOLATIONS`; "random" draws bilinear or bicubic.
        auto_augment: A policy in timm's notation; None for none.
        color_jitter: Strength of brightness, contrast and saturation changes where there is no policy; 0 for none.
        hflip: Probability of a left-right flip.
        vflip: Probability of an upside-down flip.
        scale: Smallest and largest share of the image's area in the crop.
        ratio: Smallest and largest width : height of the crop.
        crop_padding: Pixels of padding around small images.
        erase_prob: Probability of random erasing.
        erase_mode: const, rand or pixel.
        erase_count: Most rectangles erased in an image.

    Raises:
        ConfigError: The policy is not one of timm's, or changes colours of images without colours to change.
    """
    size = (img_size, img_size) if isinstance(img_size, int) else (int(img_size[0]), int(img_size[1]))
    parts = _timm_parts(
        auto_augment,
        input_size=size,
        scale=tuple(scale),
        ratio=tuple(ratio),
        hflip=hflip,
        vflip=vflip,
        color_jitter=color_jitter if color_jitter > 0 else None,
        interpolation=interpolation,
        mean=tuple(mean)[:3] if channels >= 3 else (mean[0],) * 3,
        re_prob=erase_prob,
        re_mode=erase_mode,
        re_count=erase_count,
    )
    geometry, colours, final = (list(part.transforms) for part in parts)
    if max(size) <= SMALL_IMAGE_PX:
        geometry[0] = RandomPaddedCrop(size, crop_padding, INTERPOLATIONS[interpolation])
    else:
        geometry.insert(0, EnlargeTiny(_smallest_crop_side(scale, ratio)))
    for policy in colours:
        _adapt_policy(policy)
    if colours and channels == 4:
        raise ConfigError(
            "AUG.AUTO_AUGMENT and AUG.COLOR_JITTER need images of 1 or 3 channels, and MODEL.SWIN.IN_CHANS is 4. "
            "Set AUG.AUTO_AUGMENT none and AUG.COLOR_JITTER 0."
        )
    if colours and channels == 1:
        colours = [ToMode("RGB"), *colours, ToMode(MODES[channels])]
    erasing = final[2:]  # after timm's own conversion to a tensor and normalisation
    return Compose([*geometry, *colours, ToNormalisedTensor(mean, std), *erasing])


def _smallest_crop_side(scale: Sequence[float], ratio: Sequence[float]) -> int:
    """Returns a side in pixels from which on no random crop of an image rounds to a width or height of zero."""
    narrowest = min(ratio[0], 1 / ratio[1])
    return math.ceil(0.5 / math.sqrt(max(scale[0], 1e-4) * narrowest)) + 1


def _timm_parts(auto_augment: str | None, **arguments: Any) -> tuple[Compose, Compose, Compose]:
    try:
        return create_transform(is_training=True, separate=True, auto_augment=auto_augment, **arguments)
    except (AssertionError, ValueError, KeyError) as error:
        # timm asserts on a policy it does not know; the other arguments have been validated with the config.
        raise ConfigError(
            f"AUG.AUTO_AUGMENT is {auto_augment!r}, which timm does not understand ({error}). Expected for example "
            "rand-m9-mstd0.5-inc1, augmix-m5-w4-d2, original, v0, 3a or none."
        ) from None


def _policy_operations(policy: Any) -> Iterator[timm_augment.AugmentOp]:
    if isinstance(policy, timm_augment.AutoAugment):
        for operations in policy.policy:
            yield from operations
    elif isinstance(policy, (timm_augment.RandAugment, timm_augment.AugMixAugment)):
        yield from policy.ops


def _adapt_policy(policy: Any) -> None:
    """Makes the operations of a built policy safe with today's Pillow; other transforms are left alone."""
    for operation in _policy_operations(policy):
        if operation.aug_fn is timm_augment.posterize:
            operation.aug_fn = posterize
        if operation.kwargs.get("resample") == Image.Resampling.LANCZOS:
            operation.kwargs["resample"] = Image.Resampling.BICUBIC  # Pillow warps with nothing finer


def posterize(image: Image.Image, bits_to_keep: int, **kwargs: Any) -> Image.Image:
    """Keeps the upper bits of each value. Keeping none gives black, which timm asks for and Pillow 13 refuses."""
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return timm_augment.posterize(image, bits_to_keep, **kwargs)


def build_train_transform(cfg: Config) -> Callable[[Image.Image], torch.Tensor]:
    """Builds the training transform that a config describes."""
    return make_train_transform(
        img_size=cfg.DATA.IMG_SIZE,
        channels=cfg.MODEL.SWIN.IN_CHANS,
        mean=cfg.DATA.MEAN,
        std=cfg.DATA.STD,
        interpolation=cfg.DATA.INTERPOLATION,
        auto_augment=None if cfg.AUG.AUTO_AUGMENT == "none" else cfg.AUG.AUTO_AUGMENT,
        color_jitter=cfg.AUG.COLOR_JITTER,
        hflip=cfg.AUG.HFLIP,
        vflip=cfg.AUG.VFLIP,
        scale=cfg.AUG.SCALE,
        ratio=cfg.AUG.RATIO,
        crop_padding=cfg.AUG.CROP_PADDING,
        erase_prob=cfg.AUG.REPROB,
        erase_mode=cfg.AUG.REMODE,
        erase_count=cfg.AUG.RECOUNT,
    )

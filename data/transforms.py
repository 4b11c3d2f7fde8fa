"""The training transform: the official recipe's draws, as timm makes them, on 8-bit pixels and at less work."""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode, TrivialAugmentWide

from data.decode import Crop, cut, decode_crop
from data.erasing import RandomErasing, Rectangle
from data.operations import adapt_policy
from swin.config import Config
from swin.errors import ConfigError
from swin.preprocess import (
    INTERPOLATIONS,
    MODES,
    SMALL_IMAGE_PX,
    EvalResize,
    as_size,
    open_input,
    resize_pixels,
    to_channels,
    to_pixels,
)

Step = Callable[[Image.Image], Image.Image]

# How images are turned and sheared: Pillow warps with nothing finer than bicubic.
_WARPS = {
    "nearest": InterpolationMode.NEAREST,
    "bicubic": InterpolationMode.BICUBIC,
    "lanczos": InterpolationMode.BICUBIC,
}
_CROP_TRIES = 10


class RandomCrop:
    """Draws a crop of random area and shape from Python's generator; after ten misfits, the largest central one.

    Args:
        scale: Smallest and largest share of the image's area.
        ratio: Smallest and largest width : height.
    """

    def __init__(self, scale: Sequence[float], ratio: Sequence[float]) -> None:
        self.scale = tuple(scale)
        self.ratio = tuple(ratio)
        self.log_ratio = (math.log(ratio[0]), math.log(ratio[1]))

    def __call__(self, height: int, width: int) -> Crop:
        for _ in range(_CROP_TRIES):
            area = random.uniform(*self.scale) * height * width
            ratio = math.exp(random.uniform(*self.log_ratio))
            crop_width = max(round(math.sqrt(area * ratio)), 1)  # at least a pixel, of tiny images
            crop_height = max(round(math.sqrt(area / ratio)), 1)
            if crop_width <= width and crop_height <= height:
                top = random.randint(0, height - crop_height)
                return Crop(top, random.randint(0, width - crop_width), crop_height, crop_width)
        crop_width = min(width, round(height * self.ratio[1]) or 1)
        crop_height = min(height, round(width / self.ratio[0]) or 1)
        return Crop((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)


class RandomPaddedCrop:
    """Moves an image by up to `padding` pixels either way; black comes in where it leaves."""

    def __init__(self, padding: int) -> None:
        self.padding = padding

    def __call__(self, pixels_CHW: torch.Tensor) -> torch.Tensor:
        down, right = torch.randint(-self.padding, self.padding + 1, (2,)).tolist()
        height, width = pixels_CHW.shape[1:]
        padded_CHW = F.pad(pixels_CHW, [self.padding] * 4)
        top, left = self.padding + down, self.padding + right
        return padded_CHW[:, top : top + height, left : left + width]


class RandomFlip:
    """Mirrors an image (C, H, W) along a dimension with a probability, drawn from PyTorch's generator."""

    def __init__(self, prob: float, dim: int) -> None:
        self.prob = prob
        self.dim = dim

    def __call__(self, pixels_CHW: torch.Tensor) -> torch.Tensor:
        return pixels_CHW.flip(self.dim) if torch.rand(1).item() < self.prob else pixels_CHW


class ToMode:
    """Converts an image to a Pillow mode."""

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.convert(self.mode)


class TrainTransform:
    """Turns the bytes of a file, or an image, into pixels and the rectangles to erase in them.

    Args:
        size: (H, W) of the result.
        channels: Of the result; other than 1, 3 and 4 come from arrays.
        exif: Whether to turn images as their EXIF orientation says.
        crop: Draws a crop, which is then resized; or moves an image that was resized as a whole.
        interpolation: A key of `swin.preprocess.INTERPOLATIONS`; "random" draws bilinear or bicubic for crops.
        flips: What follows, pixels to pixels.
        colours: And then, image to image.
        erasing: Draws rectangles.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int],
        channels: int,
        exif: bool,
        crop: RandomCrop | RandomPaddedCrop,
        interpolation: str,
        flips: Sequence[RandomFlip],
        colours: Sequence[Step],
        erasing: RandomErasing,
    ) -> None:
        self.size = size
        self.channels = channels
        self.exif = exif
        self.crop = crop
        self.interpolation = interpolation
        self.flips = tuple(flips)
        self.colours = tuple(colours)
        self.erasing = erasing
        self._whole = EvalResize(img_size=size, crop=False, interpolation=interpolation, channels=channels)

    def __call__(self, content: bytes | Image.Image, name: str = "an image") -> tuple[torch.Tensor, list[Rectangle]]:
        """Returns uint8 (C, H, W), a view of memory in the order (H, W, C), and the rectangles.

        Raises:
            DataError: The image cannot be decoded; `name` is what it is called.
        """
        pixels = self._crop(content, name)
        for flip in self.flips:
            pixels = flip(pixels)
        if self.colours:
            image = _to_image(pixels)
            for step in self.colours:
                image = step(image)
            pixels = to_pixels(image)
        return pixels, self.erasing(*self.size)

    def _crop(self, content: bytes | Image.Image, name: str) -> torch.Tensor:
        if isinstance(self.crop, RandomPaddedCrop):
            if isinstance(content, bytes):
                image = open_input(content, channels=self.channels, name=name, exif=self.exif)
                return self.crop(self._whole(image))
            return self.crop(self._whole(content))
        if isinstance(content, bytes):
            pixels = decode_crop(content, self.crop, size=self.size, channels=self.channels, exif=self.exif, name=name)
        else:
            pixels = to_pixels(to_channels(content, self.channels))
            pixels = cut(pixels, self.crop(*pixels.shape[1:]))
        return resize(pixels, self.size, self.interpolation)


def resize(pixels_CHW: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """Resizes to (H, W), where PyTorch can with it, in a quarter of Pillow's time."""
    if interpolation == "random":
        interpolation = random.choice(("bilinear", "bicubic"))
    if interpolation in ("bilinear", "bicubic") or len(pixels_CHW) not in MODES:
        return resize_pixels(pixels_CHW, size, interpolation)
    return to_pixels(_to_image(pixels_CHW).resize((size[1], size[0]), INTERPOLATIONS[interpolation]))


def _to_image(pixels: torch.Tensor) -> Image.Image:
    """The Pillow image of uint8 (C, H, W) with C = 1, 3 or 4."""
    pixels = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
    return Image.fromarray(pixels.contiguous().numpy())


def make_train_transform(
    *,
    img_size: int | Sequence[int],
    channels: int,
    mean: Sequence[float],
    exif: bool = False,
    interpolation: str = "bicubic",
    auto_augment: str | None = "rand-m9-mstd0.5-inc1",
    color_jitter: float = 0.4,
    hflip: float = 0.5,
    vflip: float = 0.0,
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    crop_padding: int = 4,
    erase_prob: float = 0.25,
    erase_count: int = 1,
) -> TrainTransform:
    """Makes the training transform.

    In order: random resized crop, flips, then either the AutoAugment policy or colour jitter. Sizes of at most 32
    pixels are cropped from a padded copy instead, and `scale` and `ratio` do not apply. All draws are those of timm's
    transform with the same arguments, so equal seeds give the same crops, flips, operations and magnitudes.

    Args:
        img_size: Side in pixels, or (H, W).
        channels: Any number. The policy and the jitter work in RGB: greys are converted to it and back.
        mean: Channel means, on a scale of 0 to 1: the policy's fill colour.
        exif: Whether to turn images as their EXIF orientation says.
        interpolation: A key of `swin.preprocess.INTERPOLATIONS`; "random" draws bilinear or bicubic.
        auto_augment: A policy in timm's notation, or "ta_wide" for torchvision's TrivialAugment; None for none.
        color_jitter: Strength of brightness, contrast and saturation changes where there is no policy, and with "3a";
            0 for none.
        hflip: Probability of a left-right flip.
        vflip: Probability of an upside-down flip.
        scale: Smallest and largest share of the image's area in the crop.
        ratio: Smallest and largest width : height of the crop.
        crop_padding: Pixels of padding around small images.
        erase_prob: Probability of random erasing.
        erase_count: Most rectangles erased in an image.

    Raises:
        ConfigError: The policy is not one of timm's, or changes colours of images without colours to change.
    """
    size = as_size(img_size)
    is_trivial = auto_augment == "ta_wide"
    colours = _timm_colours(
        None if is_trivial else auto_augment,
        input_size=size,
        color_jitter=color_jitter if color_jitter > 0 and not is_trivial else None,
        interpolation=interpolation,
        mean=tuple(mean)[:3] if channels >= 3 else (mean[0],) * 3,
    )
    flips = [RandomFlip(prob, dim) for prob, dim in ((hflip, -1), (vflip, -2)) if prob > 0]
    if is_trivial:
        colours = [TrivialAugmentWide(interpolation=_WARPS.get(interpolation, InterpolationMode.BILINEAR))]
    for policy in colours:
        adapt_policy(policy)
    if colours and channels not in (1, 3):
        raise ConfigError(
            "AUG.AUTO_AUGMENT and AUG.COLOR_JITTER need images of 1 or 3 channels, and MODEL.SWIN.IN_CHANS is "
            f"{channels}. Set AUG.AUTO_AUGMENT none and AUG.COLOR_JITTER 0."
        )
    if colours and channels == 1:
        colours = [ToMode("RGB"), *colours, ToMode(MODES[channels])]
    is_small = max(size) <= SMALL_IMAGE_PX
    return TrainTransform(
        size=size,
        channels=channels,
        exif=exif,
        crop=RandomPaddedCrop(crop_padding) if is_small else RandomCrop(scale, ratio),
        interpolation=interpolation,
        flips=flips,
        colours=colours,
        erasing=RandomErasing(erase_prob, erase_count),
    )


def _timm_colours(auto_augment: str | None, **arguments: Any) -> list[Step]:
    """Returns timm's policy or colour jitter; nothing where there is neither."""
    try:
        parts = create_transform(is_training=True, separate=True, auto_augment=auto_augment, **arguments)
        return list(parts[1].transforms)
    except (AssertionError, ValueError, KeyError) as error:
        # timm asserts on a policy it does not know; the other arguments have been validated with the config.
        raise ConfigError(
            f"AUG.AUTO_AUGMENT is {auto_augment!r}, which timm does not understand ({error}). Expected for example "
            "rand-m9-mstd0.5-inc1, augmix-m5-w4-d2, original, v0, 3a, ta_wide or none."
        ) from None


def build_train_transform(cfg: Config) -> TrainTransform:
    """Builds the training transform that a config describes."""
    return make_train_transform(
        img_size=cfg.DATA.IMG_SIZE,
        channels=cfg.MODEL.SWIN.IN_CHANS,
        mean=cfg.DATA.MEAN,
        exif=cfg.DATA.EXIF,
        interpolation=cfg.DATA.INTERPOLATION,
        auto_augment=None if cfg.AUG.AUTO_AUGMENT == "none" else cfg.AUG.AUTO_AUGMENT,
        color_jitter=cfg.AUG.COLOR_JITTER,
        hflip=cfg.AUG.HFLIP,
        vflip=cfg.AUG.VFLIP,
        scale=cfg.AUG.SCALE,
        ratio=cfg.AUG.RATIO,
        crop_padding=cfg.AUG.CROP_PADDING,
        erase_prob=cfg.AUG.REPROB,
        erase_count=cfg.AUG.RECOUNT,
    )

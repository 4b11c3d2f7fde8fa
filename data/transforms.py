"""The training transform: the official recipe's draws, as timm makes them, on 8-bit pixels and at less work."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch.nn import functional as F

from data.decode import Crop, decode_crop
from data.erasing import RandomErasing, RandomMask, Rectangle
from swin.config import Config
from swin.errors import ConfigError
from swin.images import Content, open_input, to_channels, to_image, to_pixels
from swin.preprocess import SMALL_IMAGE_PX, as_size, build_eval_resize, resize_exactly, resize_tensor

# How images are turned and sheared: Pillow warps with nothing finer than bicubic. Otherwise bilinear.
_WARPS = {"bicubic": "bicubic", "lanczos": "bicubic", "nearest": "nearest"}
_CROP_TRIES = 10


@dataclass(frozen=True)
class RandomCrop:
    """Draws a crop of random area and shape from Python's generator; after ten misfits, the largest central one."""

    scale: Sequence[float]  # smallest and largest fraction of the image's area
    ratio: Sequence[float]  # smallest and largest width : height

    def __call__(self, height: int, width: int) -> Crop:
        log_ratio = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(_CROP_TRIES):
            area = random.uniform(*self.scale) * height * width
            ratio = math.exp(random.uniform(*log_ratio))
            crop_width = max(round(math.sqrt(area * ratio)), 1)  # at least a pixel, of tiny images
            crop_height = max(round(math.sqrt(area / ratio)), 1)
            if crop_width <= width and crop_height <= height:
                top = random.randint(0, height - crop_height)
                return Crop(top, random.randint(0, width - crop_width), crop_height, crop_width)
        crop_width = min(width, round(height * self.ratio[1]) or 1)
        crop_height = min(height, round(width / self.ratio[0]) or 1)
        return Crop((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)


@dataclass(frozen=True)
class RandomPaddedCrop:
    """Moves an image (C, H, W) by up to `padding` pixels either way; black comes in where it leaves.

    torchvision's RandomCrop draws nothing where there is no padding, and the flips that follow would be others.
    """

    padding: int

    def __call__(self, pixels_CHW: torch.Tensor) -> torch.Tensor:
        down, right = torch.randint(-self.padding, self.padding + 1, (2,)).tolist()
        padded_CHW = F.pad(pixels_CHW, [self.padding] * 4)
        return Crop(self.padding + down, self.padding + right, *pixels_CHW.shape[1:]).of(padded_CHW)


@dataclass(frozen=True)
class RandomFlip:
    """Flips an image (C, H, W); draws what torchvision's flips draw, whose import takes seconds."""

    axis: int  # -1 for left and right, -2 for up and down
    prob: float

    def __call__(self, pixels_CHW: torch.Tensor) -> torch.Tensor:
        return pixels_CHW.flip(self.axis) if torch.rand(1) < self.prob else pixels_CHW


@dataclass(kw_only=True)
class TrainTransform:
    """Turns what a source reads into augmented pixels and the rectangles to erase in them.

    In order: random resized crop, flips, then either the AutoAugment policy or colour jitter. Sizes of at most 32
    pixels are cropped from a padded copy instead, and `scale` and `ratio` do not apply. All draws are those of timm's
    transform with the same arguments, so equal seeds give the same crops, flips, operations and magnitudes.

    Raises:
        ConfigError: The policy is not one of timm's, or changes colours of images without colours to change.
    """

    img_size: int | Sequence[int]  # side in pixels, or (H, W)
    channels: int  # any number; the policy and the jitter work in RGB, which greys are converted to and back
    mean: Sequence[float]  # of each channel, on a scale of 0 to 1: the policy's fill colour
    exif: bool = False  # whether to turn images as their EXIF orientation says
    interpolation: str = "bicubic"  # a key of `swin.preprocess.INTERPOLATIONS`; "random" draws bilinear or bicubic
    # A policy in timm's notation, or "ta_wide" for torchvision's TrivialAugment; None for none.
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    # Strength of brightness, contrast and saturation changes where there is no policy, and with "3a"; 0 for none.
    color_jitter: float = 0.4
    hflip: float = 0.5  # probability of a left-right flip
    vflip: float = 0.0  # and of an upside-down one
    scale: Sequence[float] = (0.08, 1.0)  # smallest and largest fraction of the image's area in the crop
    ratio: Sequence[float] = (3 / 4, 4 / 3)  # smallest and largest width : height of the crop
    crop_padding: int = 4  # pixels around small images
    erase_prob: float = 0.25  # probability of random erasing
    erase_count: int = 1  # most rectangles erased in an image
    masking: Callable[[int, int], list[Rectangle]] | None = None  # draws other rectangles in their place

    def __post_init__(self) -> None:
        self.size = as_size(self.img_size)
        self.crop = RandomCrop(self.scale, self.ratio)
        self.padded_crop = RandomPaddedCrop(self.crop_padding)
        self.flips = [RandomFlip(axis, prob) for axis, prob in ((-1, self.hflip), (-2, self.vflip)) if prob > 0]
        self.colours = self._make_colours()
        self.erasing = self.masking or RandomErasing(self.erase_prob, self.erase_count)
        if self.colours and self.channels not in (1, 3):
            raise ConfigError(
                "AUG.AUTO_AUGMENT and AUG.COLOR_JITTER need images of 1 or 3 channels, and MODEL.SWIN.IN_CHANS is "
                f"{self.channels}. Set AUG.AUTO_AUGMENT none and AUG.COLOR_JITTER 0."
            )

    def _make_colours(self) -> list[Callable[[Image.Image], Image.Image]]:
        """Make the policy or the colour jitter, which work on RGB; without either nothing slow is imported."""
        if self.auto_augment is None and self.color_jitter <= 0:
            return []
        if self.auto_augment == "ta_wide":
            from torchvision.transforms import InterpolationMode, TrivialAugmentWide

            warp = InterpolationMode(_WARPS.get(self.interpolation, "bilinear"))
            return [TrivialAugmentWide(interpolation=warp)]
        from timm.data import create_transform

        from data.operations import adapt_policy

        try:
            parts = create_transform(
                self.size,
                is_training=True,
                separate=True,
                auto_augment=self.auto_augment,
                color_jitter=self.color_jitter if self.color_jitter > 0 else None,  # type: ignore[arg-type]
                interpolation=self.interpolation,
                mean=tuple(self.mean)[:3] if self.channels >= 3 else (self.mean[0],) * 3,
            )
        except (AssertionError, ValueError, KeyError) as error:
            # timm asserts on a policy it does not know; the other arguments have been validated with the config.
            raise ConfigError(
                f"AUG.AUTO_AUGMENT is {self.auto_augment!r}, which timm does not understand ({error}). Expected for "
                "example rand-m9-mstd0.5-inc1, augmix-m5-w4-d2, original, v0, 3a, ta_wide or none."
            ) from None
        colours = list(parts[1].transforms)
        for policy in colours:
            adapt_policy(policy)
        return colours

    def __call__(self, content: Content, name: str = "an image") -> tuple[torch.Tensor, list[Rectangle]]:
        """Return uint8 (C, H, W), a view of memory in the order (H, W, C), and the rectangles.

        Raises:
            DataError: The image cannot be decoded; `name` is what it is called.
        """
        options: dict[str, Any] = {"channels": self.channels, "exif": self.exif, "name": name}
        if max(self.size) <= SMALL_IMAGE_PX:
            pixels = open_input(content, **options)
            pixels = self.padded_crop(resize_exactly(pixels, self.size, self.interpolation))
        else:
            pixels = decode_crop(content, self.crop, size=self.size, **options)
            pixels = resize(pixels, self.size, self.interpolation)
        for flip in self.flips:
            pixels = flip(pixels)
        if self.colours:
            image = to_channels(to_image(pixels), 3)
            for step in self.colours:
                image = step(image)
            pixels = to_pixels(to_channels(image, self.channels))
        return pixels, self.erasing(*self.size)


def resize(pixels_CHW: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """Resize to (H, W) by PyTorch, where it has the interpolation and pixels may be a level off."""
    if interpolation == "random":
        interpolation = random.choice(("bilinear", "bicubic"))
    resample = resize_tensor if interpolation in ("bilinear", "bicubic") else resize_exactly
    return resample(pixels_CHW, size, interpolation)


@dataclass(frozen=True)
class EvalPixels:
    """The transform of evaluation, which erases nothing."""

    resize: Callable[[torch.Tensor], torch.Tensor]  # uint8 (C, h, w) to (C, H, W)
    channels: int = 3  # C; see `swin.images.open_input`
    exif: bool = False  # whether to turn images as their EXIF orientation says

    def __call__(self, content: Content, name: str) -> tuple[torch.Tensor, tuple[()]]:
        return self.resize(self.decode(content, name)), ()

    def decode(self, content: Content, name: str) -> torch.Tensor:
        """Return uint8 (C, h, w), of the image's own size; `name` is what errors call it."""
        return open_input(content, channels=self.channels, name=name, exif=self.exif)


def build_eval_pixels(cfg: Config, *, keep_border: bool = False) -> EvalPixels:
    """Build the transform of evaluation that a config describes."""
    return EvalPixels(
        build_eval_resize(cfg, keep_border=keep_border), channels=cfg.architecture.IN_CHANS, exif=cfg.DATA.EXIF
    )


def build_resized_transforms(cfg: Config) -> dict[tuple[int, int], TrainTransform]:
    """Build the training transform of each (H, W) in DATA.IMG_SIZE_SCHEDULE."""
    sizes = [as_size(img_size) for _, img_size in cfg.DATA.IMG_SIZE_SCHEDULE]
    return {size: build_train_transform(cfg, size) for size in sizes}


def build_train_transform(cfg: Config, img_size: tuple[int, int] | None = None) -> TrainTransform:
    """Build the training transform that a config describes; of DATA.IMG_SIZE if None."""
    return TrainTransform(
        img_size=img_size or cfg.DATA.IMG_SIZE,
        channels=cfg.architecture.IN_CHANS,
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
        masking=RandomMask(cfg.DATA.MASK_PATCH_SIZE, cfg.DATA.MASK_RATIO) if cfg.TRAIN.LOSS == "simmim" else None,
    )

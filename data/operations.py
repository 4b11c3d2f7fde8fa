"""Faster stand-ins for the image operations of timm's policies, which go on drawing what is applied and how strongly.

Each gives the pixels of the operation that it replaces up to rounding, but for what its docstring says.
"""

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import timm.data.auto_augment as timm_augment
import torch
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image, ImageFilter
from torch.nn import functional as F

from swin.images import to_pixels

# Weight of the mean of a 3 x 3 neighbourhood in Pillow's SMOOTH kernel of (1 1 1, 1 5 1, 1 1 1) / 13.
_BOX_WEIGHT = 9 / 13


def adapt_policy(policy: Any) -> None:
    """Replace operations of a policy built by timm; other transforms are left alone."""
    for operation in _operations(policy):
        operation.aug_fn = _REPLACEMENTS.get(operation.aug_fn, operation.aug_fn)
        if operation.kwargs.get("resample") == Image.Resampling.LANCZOS:
            operation.kwargs["resample"] = Image.Resampling.BICUBIC  # Pillow warps with nothing finer


def _operations(policy: Any) -> Iterator[timm_augment.AugmentOp]:
    if isinstance(policy, timm_augment.AutoAugment):
        for operations in policy.policy:
            yield from operations
    elif isinstance(policy, (timm_augment.RandAugment, timm_augment.AugMixAugment)):
        yield from policy.ops


def posterize(image: Image.Image, bits_to_keep: int, **kwargs: Any) -> Image.Image:
    """Keep the upper bits of each value. Keeping none gives black, which timm asks for and Pillow 13 refuses."""
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return timm_augment.posterize(image, bits_to_keep, **kwargs)


def sharpness(image: Image.Image, factor: float, **_: Any) -> Image.Image:
    """Blend with a smoothed copy, here made of a box filter. The outermost pixels are smoothed too."""
    return Image.blend(image.filter(ImageFilter.BoxBlur(1)), image, 1 - _BOX_WEIGHT * (1 - factor))


def shear_x(image: Image.Image, factor: float, *, fillcolor: tuple[int, ...], resample: Any) -> Image.Image:
    """Move rows sideways, so that only neighbours in the row have to be mixed. Border pixels mix with the fill.

    Args:
        image: RGB.
        factor: Pixel (x, y) is taken from (x + factor y, y).
        fillcolor: For pixels from outside the image.
        resample: A Pillow filter, or several to choose from at random.
    """
    resample = random.choice(resample) if isinstance(resample, (tuple, list)) else resample
    kernel = _KERNELS.get(resample, _cubic)
    pixels_HWC = np.asarray(image)
    height, width, channels = pixels_HWC.shape
    shifts_H = factor * (np.arange(height, dtype=np.float32) + 0.5)
    whole_H = np.floor(shifts_H).astype(np.int64)
    weights_4H = kernel(np.arange(-1, 3, dtype=np.float32)[:, None] - (shifts_H - whole_H))
    margin = int(np.abs(whole_H).max()) + 2
    size = width * channels  # rows are treated as sequences of values
    padded = np.empty((height, size + 2 * margin * channels), dtype=np.uint8)
    padded[:] = np.tile(np.array(fillcolor, dtype=np.uint8), width + 2 * margin)
    padded[:, margin * channels : margin * channels + size] = pixels_HWC.reshape(height, size)
    # Of each row the stretch that it contributes: a pixel before the first, two after the last.
    stretches = sliding_window_view(padded, size + 3 * channels, axis=1)
    rows = torch.from_numpy(stretches[np.arange(height), (whole_H + margin - 1) * channels].astype(np.float32))
    weights_4H1 = torch.from_numpy(weights_4H)[:, :, None]
    values = rows[:, :size] * weights_4H1[0]
    for tap in range(1, 4):
        values.addcmul_(rows[:, tap * channels : tap * channels + size], weights_4H1[tap])
    return Image.fromarray(values.clamp_(0, 255).numpy().astype(np.uint8).reshape(height, width, channels))


def shear_y(image: Image.Image, factor: float, *, fillcolor: tuple[int, ...], resample: Any) -> Image.Image:
    turned = shear_x(image.transpose(Image.Transpose.TRANSPOSE), factor, fillcolor=fillcolor, resample=resample)
    return turned.transpose(Image.Transpose.TRANSPOSE)


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Return the kernel of Pillow's transform, bicubic with the parameter -1."""
    x = np.abs(distance)
    return np.where(x < 1, (x - 2) * x * x + 1, ((5 - x) * x - 8) * x + 4)


def rotate(image: Image.Image, degrees: float, *, fillcolor: tuple[int, ...], resample: Any) -> Image.Image:
    """Rotate about the centre; bicubic has the parameter -0.75 instead of -1, and border pixels mix with the fill."""
    resample = random.choice(resample) if isinstance(resample, (tuple, list)) else resample
    if resample not in _GRID_MODES:
        return image.rotate(degrees, resample, fillcolor=fillcolor)
    height, width = image.height, image.width
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x_W = torch.arange(0.5 - width / 2, width / 2)
    y_H1 = torch.arange(0.5 - height / 2, height / 2)[:, None]
    # Where each pixel comes from, on a scale from -1 to 1.
    grid_HW2 = torch.stack(
        [(cosine * x_W - sine * y_H1) * (2 / width), (sine * x_W + cosine * y_H1) * (2 / height)], dim=-1
    )
    fill_C11 = torch.tensor(fillcolor, dtype=torch.float32).view(-1, 1, 1)
    values_CHW = to_pixels(image).to(torch.float32, memory_format=torch.contiguous_format).sub_(fill_C11)
    values_1CHW = F.grid_sample(values_CHW[None], grid_HW2[None], mode=_GRID_MODES[resample], align_corners=False)
    values_CHW = values_1CHW[0].add_(fill_C11).clamp_(0, 255)
    return Image.fromarray(values_CHW.permute(1, 2, 0).numpy().astype(np.uint8, order="C"))


def translate(image: Image.Image, right: float, down: float, fillcolor: tuple[int, ...]) -> Image.Image:
    """Move by whole pixels, where timm interpolates."""
    matrix = (1, 0, right, 0, 1, down)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=fillcolor)


def translate_x(image: Image.Image, fraction: float, *, fillcolor: tuple[int, ...], **_: Any) -> Image.Image:
    return translate(image, fraction * image.width, 0, fillcolor)


def translate_y(image: Image.Image, fraction: float, *, fillcolor: tuple[int, ...], **_: Any) -> Image.Image:
    return translate(image, 0, fraction * image.height, fillcolor)


_KERNELS: dict[Any, Callable[[np.ndarray], np.ndarray]] = {  # bicubic otherwise
    Image.Resampling.NEAREST: lambda distance: ((distance > -0.5) & (distance <= 0.5)).astype(np.float32),
    Image.Resampling.BILINEAR: lambda distance: np.maximum(1 - np.abs(distance), 0),
}
_GRID_MODES = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}
_REPLACEMENTS: dict[Any, Callable[..., Image.Image]] = {
    timm_augment.posterize: posterize,
    timm_augment.sharpness: sharpness,
    timm_augment.shear_x: shear_x,
    timm_augment.shear_y: shear_y,
    timm_augment.rotate: rotate,
    timm_augment.translate_x_rel: translate_x,
    timm_augment.translate_y_rel: translate_y,
}

"""Decoding for training: no more pixels of a file than the random crop needs.

JPEGs are decoded by simplejpeg where it is installed: the library that Pillow uses too, and the same pixels, without
its copies, in reduced sizes, and without holding Python's lock.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image

from swin.preprocess import open_input, to_pixels

try:
    import simplejpeg
except ImportError:  # no wheel for this platform: Pillow decodes, more slowly
    simplejpeg = None

_COLOURS = ("YCbCr", "RGB", "Gray")


class Crop(NamedTuple):
    """A part of an image, in its pixels."""

    top: int
    left: int
    height: int
    width: int


def decode_crop(
    content: bytes,
    sample: Callable[[int, int], Crop],
    *,
    size: tuple[int, int],
    channels: int = 3,
    exif: bool = False,
    name: str,
) -> torch.Tensor:
    """Decodes the part of an image file that a crop asks for.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where the crop remains no smaller than the input size: the decoder
    then averages blocks of pixels in the frequency domain, at a fraction of the work.

    Args:
        content: The bytes of a file.
        sample: (height, width) of the image to the crop.
        size: (H, W) that the crop will be resized to.
        channels: See `swin.preprocess.open_input`.
        exif: Whether to turn the image as its EXIF orientation says.
        name: What errors call the image.

    Returns:
        The crop: uint8 (channels, h, w), a view of memory in the order (h, w, channels).

    Raises:
        DataError: See `swin.preprocess.open_input`.
    """
    found = None if exif or channels != 3 else _jpeg_size(content)
    if found:
        crop = sample(*found)
        factor = _reduction(crop, size)
        least = {"min_height": -(-found[0] // factor), "min_width": -(-found[1] // factor)} if factor > 1 else {}
        try:
            pixels_HWC = torch.from_numpy(simplejpeg.decode_jpeg(content, "RGB", **least))
            return cut(pixels_HWC.permute(2, 0, 1), _divide(crop, factor))
        except ValueError:
            pass  # what is merely odd decodes with Pillow, and what is broken raises the error that explains it
    image = open_input(content, channels=channels, name=name, exif=exif)
    pixels = image if isinstance(image, torch.Tensor) else to_pixels(image)
    return cut(pixels, crop if found else sample(*pixels.shape[1:]))


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Returns (height, width) of a grey or three-channel JPEG of acceptable size; None for any other file."""
    if simplejpeg is None or content[:2] != b"\xff\xd8":
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    return (height, width) if colours in _COLOURS and height * width <= (Image.MAX_IMAGE_PIXELS or 0) else None


def _reduction(crop: Crop, size: tuple[int, int]) -> int:
    """Returns the largest of 1, 2, 4 and 8 that leaves a crop no smaller than the input size."""
    factor = min(crop.height // size[0], crop.width // size[1])
    return 1 << min(max(factor, 1).bit_length() - 1, 3)


def cut(pixels: torch.Tensor, crop: Crop) -> torch.Tensor:
    """Returns a view of the crop of an image (C, H, W)."""
    return pixels[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]


def _divide(crop: Crop, factor: int) -> Crop:
    """Returns a crop in the pixels of the same image reduced, to within half a pixel."""
    top, left = round(crop.top / factor), round(crop.left / factor)
    bottom, right = round((crop.top + crop.height) / factor), round((crop.left + crop.width) / factor)
    return Crop(top, left, bottom - top, right - left)

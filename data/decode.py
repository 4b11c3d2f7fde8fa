"""Decoding for training: no more pixels of a file than the random crop needs.

JPEGs are decoded by simplejpeg where it is installed: the library that Pillow uses too, and the same pixels, without
its copies, in reduced sizes, and without holding Python's lock.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image

from swin.images import Content, open_input

try:
    import simplejpeg
except ImportError:  # no wheel for this platform: Pillow decodes, more slowly
    simplejpeg = None


class Crop(NamedTuple):
    """A part of an image, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return a view of this part of an image (C, H, W)."""
        return pixels[:, self.top : self.top + self.height, self.left : self.left + self.width]

    def reduced(self, factor: int) -> "Crop":
        """Return this part in the pixels of the same image reduced, to within half a pixel."""
        top, left = round(self.top / factor), round(self.left / factor)
        bottom, right = round((self.top + self.height) / factor), round((self.left + self.width) / factor)
        return Crop(top, left, bottom - top, right - left)


def decode_crop(
    content: Content,
    sample: Callable[[int, int], Crop],
    *,
    size: tuple[int, int],
    channels: int = 3,
    exif: bool = False,
    name: str,
) -> torch.Tensor:
    """Decode the part of an image that a crop asks for.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where the crop remains no smaller than the input size: the decoder
    then averages blocks of pixels in the frequency domain, at a fraction of the work.

    Args:
        content: What a source reads.
        sample: (height, width) of the image to the crop.
        size: (H, W) that the crop will be resized to.
        channels, exif, name: See `swin.images.open_input`.

    Returns:
        The crop: uint8 (channels, h, w), a view of memory in the order (h, w, channels).

    Raises:
        DataError: See `swin.images.open_input`.
    """
    found = None if exif or channels != 3 else _jpeg_size(content)
    if found:
        crop = sample(*found)
        factor = _reduction(crop, size)
        least = {"min_height": -(-found[0] // factor), "min_width": -(-found[1] // factor)} if factor > 1 else {}
        try:
            pixels_HWC = torch.from_numpy(simplejpeg.decode_jpeg(content, "RGB", **least))
            return crop.reduced(factor).of(pixels_HWC.permute(2, 0, 1))
        except ValueError:
            pass  # what is merely odd decodes with Pillow, and what is broken raises the error that explains it
    pixels = open_input(content, channels=channels, name=name, exif=exif)
    return (crop if found else sample(*pixels.shape[1:])).of(pixels)


def _jpeg_size(content: Content) -> tuple[int, int] | None:
    """Return (height, width) of a grey or three-channel JPEG of acceptable size; None for anything else."""
    if simplejpeg is None:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:  # other bytes, or an array of more than one dimension
        return None
    is_known = colours in ("YCbCr", "RGB", "Gray")
    return (height, width) if is_known and height * width <= (Image.MAX_IMAGE_PIXELS or 0) else None


def _reduction(crop: Crop, size: tuple[int, int]) -> int:
    """Return the largest of 1, 2, 4 and 8 that leaves a crop no smaller than the input size."""
    factor = min(crop.height // size[0], crop.width // size[1])
    return 1 << min(max(factor, 1).bit_length() - 1, 3)

"""From an image file, or an array, to pixels: the uint8 tensors (C, H, W) that all else works on.

Training, evaluation and prediction see the same pixels of a file. They are taken as stored unless told otherwise: the
official recipe, whose published accuracies depend on it, applies no EXIF orientation.
"""

import io
import math
import os
import re
import warnings
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from swin.errors import DataError
from swin.files import read_file, read_stream

Content = bytes | np.ndarray  # what an image is stored as: a file's bytes, or uint8 (H, W) or (H, W, C)

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> Pillow mode
# Raster formats only: Pillow would hand an EPS file, whatever its name, to an external interpreter.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def image_extensions(channels: int) -> tuple[str, ...]:
    """Return how the names of files with images of so many channels end."""
    return IMAGE_EXTENSIONS if channels in MODES else (".npy",)


def open_input(
    source: str | os.PathLike[str] | BinaryIO | Content,
    *,
    channels: int = 3,
    name: str | None = None,
    exif: bool = False,
) -> torch.Tensor:
    """Decode an image, fully, to 8 bits and a number of channels.

    Pictures are converted to 1 (grey), 3 (RGB) or 4 (RGBA) channels. Of an animation the first frame is taken,
    transparent pixels are composited over white unless `channels` is 4, 16-bit greys keep their upper 8 bits, palettes
    and CMYK are converted. Other numbers of channels come from .npy files.

    Args:
        source: A path, a binary file, or the content of one.
        channels: How many.
        name: What errors call the image; the path by default.
        exif: Whether to turn a picture as its EXIF orientation says.

    Returns:
        uint8 (channels, H, W), a view of memory in the order (H, W, channels).

    Raises:
        DataError: The image is missing, unreadable, truncated, empty, a Git LFS pointer, or too large, or an array
            that is not uint8 of shape (H, W, channels); names it.
    """
    if isinstance(source, np.ndarray):
        pixels = to_pixels(source)
        return pixels if len(pixels) == channels else to_pixels(to_channels(to_image(pixels), channels))
    if isinstance(source, (str, os.PathLike)):
        name = name or os.fspath(source)
        source = read_file(source, name)
    elif not isinstance(source, bytes):
        name = name or str(getattr(source, "name", "an open file"))
        source = read_stream(source, name)
    try:
        return _read_picture(source, channels, exif) if channels in MODES else _read_array(source, channels)
    except DataError as error:
        raise DataError(f"{name or 'an image in memory'}: {error}") from None


def _read_array(content: bytes, channels: int) -> torch.Tensor:
    """Read a .npy file, but no pickled objects in it."""
    wanted = f"expected a .npy file with uint8 of shape (H, W, {channels}), which MODEL.SWIN.IN_CHANS asks for"
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read_header(stream)
    except ValueError:
        raise DataError(f"is not an array; {wanted}.") from None
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != channels or 0 in shape:
        raise DataError(f"holds {dtype} of shape {shape}; {wanted}.")
    values = content[stream.tell() :]
    if len(values) != math.prod(shape):
        raise DataError(f"is damaged: {len(values)} bytes where shape {shape} needs {math.prod(shape)}. Replace it.")
    return to_pixels(np.frombuffer(values, np.uint8).reshape(shape, order="F" if is_fortran else "C"))


def _read_picture(content: bytes, channels: int, exif: bool) -> torch.Tensor:
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, which is no matter here, and of sizes that could exhaust the memory.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                image.load()
                return to_pixels(to_channels(ImageOps.exif_transpose(image) if exif else image, channels))
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = f"{(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels"
        raise DataError(f"the header promises more than {limit}. Shrink the image or remove it.") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on broken files
        raise DataError(_why_unreadable(content[:64], error)) from None


def _why_unreadable(head: bytes, error: Exception) -> str:
    if not head:
        return "is empty (0 bytes). Replace or remove the file."
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not an image. Run `git lfs pull` where it came from."
    if isinstance(error, UnidentifiedImageError):
        return f"is not an image in a format read here ({', '.join(_FORMATS)}), or its header is broken."
    reason = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    return f"is damaged: {reason}. Replace or remove the file."


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Convert an image of any Pillow mode to 8 bits and 1, 3 or 4 channels; see `open_input`.

    Returns:
        The converted image, or `image` itself where nothing had to change.

    Raises:
        DataError: Pixel values without a known range (floats, 32-bit integers), or another number of channels.
    """
    if channels not in MODES:
        raise DataError(f"images can be read with 1, 3 or 4 channels, not {channels}.")
    mode = MODES[channels]
    if image.mode == mode and (mode == "RGBA" or "transparency" not in image.info):
        return image
    if image.mode.startswith("I"):
        grey_HW = np.asarray(image)
        if grey_HW.min() < 0 or grey_HW.max() > 0xFFFF:
            raise DataError("has 32-bit pixels of unknown range; convert it to 8 or 16 bits.")
        image = Image.fromarray((grey_HW >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise DataError("has floating-point pixels of unknown range; convert it to 8 or 16 bits.")
    elif image.has_transparency_data and mode != "RGBA":
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    return image.convert(mode)


def to_pixels(image: Image.Image | np.ndarray) -> torch.Tensor:
    """Copy a picture, or an array (H, W) or (H, W, C): uint8 (C, H, W), a view of memory in the order (H, W, C)."""
    pixels = torch.from_numpy(np.array(image, order="C"))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def to_image(pixels_CHW: torch.Tensor) -> Image.Image:
    """Return uint8 with C = 1, 3 or 4 as a Pillow image."""
    pixels = pixels_CHW[0] if len(pixels_CHW) == 1 else pixels_CHW.permute(1, 2, 0)
    return Image.fromarray(pixels.contiguous().numpy())


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """Return the bytes of an image file, with Pillow's options of the format."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def as_file(content: Content) -> bytes:
    """Return the bytes of a file; of an array those of a PNG, or where that has not so many channels of a .npy file."""
    if isinstance(content, bytes):
        return content
    pixels = to_pixels(content)
    if len(pixels) in MODES:
        return encode(to_image(pixels), "PNG")
    file = io.BytesIO()
    np.save(file, content)
    return file.getvalue()

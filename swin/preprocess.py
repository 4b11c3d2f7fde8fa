"""From an image file to the tensor a model reads: decoding and the evaluation transform.

Training, evaluation and prediction all see the pixels of `open_image`, so a file looks the same to each of them. They
are taken as stored unless told otherwise: the official recipe, whose published accuracies depend on it, applies no EXIF
orientation.
"""

import io
import math
import os
import re
import warnings
from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

from swin.config import Config
from swin.errors import DataError
from swin.files import open_regular

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> Pillow mode
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "random": Image.Resampling.BILINEAR,  # a choice for training only; evaluation has to be deterministic
}
# The same for tensors, where PyTorch has them.
TENSOR_MODES = {"nearest": "nearest-exact", "bilinear": "bilinear", "bicubic": "bicubic", "random": "bilinear"}
# Raster formats only: Pillow would hand an EPS file, whatever its name, to an external interpreter.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Images up to this side are taken whole (resized straight to the input size) rather than centre-cropped: at 8 or 28
# pixels the subject fills the frame. The official code does not resize such images either.
SMALL_IMAGE_PX = 32
MAX_FILE_BYTES = 1 << 30  # what is larger is no image, and would fill the memory of every worker

ImageSource = str | os.PathLike[str] | bytes | BinaryIO


def image_extensions(channels: int) -> tuple[str, ...]:
    """Returns how the names of files with images of so many channels end."""
    return IMAGE_EXTENSIONS if channels in MODES else (".npy",)


def open_image(source: ImageSource, *, channels: int = 3, name: str | None = None, exif: bool = False) -> Image.Image:
    """Decodes an image, fully, to 1 (L), 3 (RGB) or 4 (RGBA) channels of 8 bits.

    Of an animation the first frame is taken. Transparent pixels are composited over white unless `channels` is 4,
    16-bit greys keep their upper 8 bits, palettes and CMYK are converted.

    Args:
        source: A path, the bytes of a file, or a binary file.
        channels: 1, 3 or 4.
        name: What errors call the image; the path by default.
        exif: Whether to turn the image as its EXIF orientation says.

    Returns:
        An image of mode L, RGB or RGBA, in memory, its file closed if this function opened it.

    Raises:
        DataError: The image is missing, unreadable, truncated, empty, a Git LFS pointer, or too large; names it.
    """
    if isinstance(source, (str, os.PathLike)):
        name = name or os.fspath(source)
        source = read_file(source, name)
    elif not isinstance(source, bytes):
        name = name or str(getattr(source, "name", "an image file"))
        source = source.read()

    return _decode(source, channels, exif, name or "an image in memory")


def read_file(path: str | os.PathLike[str], name: str | None = None) -> bytes:
    """Returns the bytes of a regular file of at most MAX_FILE_BYTES; raises a DataError that names it."""
    name = name or os.fspath(path)
    try:
        with open(open_regular(path), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= MAX_FILE_BYTES:
                return file.read() or b""  # None is what would block, as a few files of the kernel
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from None
    raise DataError(f"{name}: has {size:,} bytes, and an image at most {MAX_FILE_BYTES:,}. Replace or remove the file.")


def open_input(
    content: bytes, *, channels: int = 3, name: str = "an image in memory", exif: bool = False
) -> Image.Image | torch.Tensor:
    """Decodes an image file of any number of channels.

    Args:
        content: The bytes of a picture where it is to have 1, 3 or 4 channels, else of a .npy file.
        channels: How many.
        name: What errors call the image.
        exif: Whether to turn a picture as its EXIF orientation says.

    Returns:
        What `open_image` returns, or for other numbers of channels uint8 (channels, H, W), a view of memory in the
        order (H, W, channels).

    Raises:
        DataError: See `open_image`; or the array is not uint8 of shape (H, W, channels).
    """
    if channels in MODES:
        return open_image(content, channels=channels, name=name, exif=exif)
    try:
        return _read_array(content, channels)
    except ValueError as error:
        raise DataError(f"{name}: {error}") from None


def _read_array(content: bytes, channels: int) -> torch.Tensor:
    """The array of a .npy file; ValueError if it is not an image of `channels` channels. Reads no pickled objects."""
    wanted = f"expected a .npy file with uint8 of shape (H, W, {channels}), which MODEL.SWIN.IN_CHANS asks for"
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read_header(stream)
    except ValueError:
        raise ValueError(f"is not an array; {wanted}.") from None
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != channels or 0 in shape:
        raise ValueError(f"holds {dtype} of shape {shape}; {wanted}.")
    values = content[stream.tell() :]
    if len(values) != math.prod(shape):
        raise ValueError(f"is damaged: {len(values)} bytes where shape {shape} needs {math.prod(shape)}. Replace it.")
    pixels_HWC = np.frombuffer(bytearray(values), np.uint8).reshape(shape, order="F" if is_fortran else "C")
    return torch.from_numpy(np.ascontiguousarray(pixels_HWC)).permute(2, 0, 1)


def _decode(content: bytes, channels: int, exif: bool, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, which is no matter here, and of sizes that could exhaust the memory.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                image.load()
                return to_channels(ImageOps.exif_transpose(image) if exif else image, channels)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = f"{(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels"
        raise DataError(f"{name}: the header promises more than {limit}. Shrink the image or remove it.") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on broken files
        raise DataError(f"{name}: {_why_unreadable(content[:64], error)}") from None


def _why_unreadable(head: bytes, error: Exception) -> str:
    if not head:
        return "is empty (0 bytes). Replace or remove the file."
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not an image. Run `git lfs pull` where it came from."
    if isinstance(error, Image.UnidentifiedImageError):
        return f"is not an image in a format read here ({', '.join(_FORMATS)}), or its header is broken."
    reason = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    return f"is damaged: {reason}. Replace or remove the file."


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Converts an image of any Pillow mode to 8 bits and 1, 3 or 4 channels; see `open_image`.

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


class Normalise:
    """Turns 8-bit values into (value / 255 - mean) / std: uint8 (..., C, H, W) to contiguous float32, on its device.

    The same arithmetic as torchvision's ToTensor and Normalize, bit for bit.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean_C11 = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std_C11 = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.mean_C11.device != pixels.device:  # once: copies of ordinary memory make a GPU wait
            self.mean_C11, self.std_C11 = self.mean_C11.to(pixels.device), self.std_C11.to(pixels.device)
        values = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        return values.div_(255).sub_(self.mean_C11).div_(self.std_C11)


def to_pixels(image: Image.Image) -> torch.Tensor:
    """Returns an image's values: uint8 (C, H, W), a view of memory in the order (H, W, C)."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def resize_pixels(pixels_CHW: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """Resizes 8-bit values to (H, W) as Pillow does, to within a level.

    Args:
        pixels_CHW: uint8.
        size: (H, W).
        interpolation: A key of `TENSOR_MODES`.

    Returns:
        uint8 (C, H, W), a view of memory in the order (H, W, C).
    """
    mode = TENSOR_MODES[interpolation]
    pixels_1CHW = pixels_CHW[None].contiguous(memory_format=torch.channels_last)  # the layout it is fast in
    return F.interpolate(pixels_1CHW, size, mode=mode, antialias=mode != "nearest-exact")[0]


class EvalResize:
    """The deterministic part of evaluation and prediction: image to uint8 (C, H, W).

    Args:
        img_size: Side S in pixels, or (H, W).
        crop: Resize the short side to int(256/224 * S), then cut the centre S x S; for (H, W), resize until
            256/224 of it is covered. False, or a size of at most 32 pixels: resize straight to the size.
        interpolation: A key of `INTERPOLATIONS`; of `TENSOR_MODES` for channels that Pillow has no mode for.
        channels: Pictures are converted to 1, 3 or 4; with others there are only arrays, which have theirs.
    """

    def __init__(self, *, img_size: int | Sequence[int], crop: bool, interpolation: str, channels: int) -> None:
        self.size = as_size(img_size)
        self.crop = crop and max(self.size) > SMALL_IMAGE_PX
        self.interpolation = interpolation
        self.channels = channels

    def __call__(self, image: Image.Image | torch.Tensor) -> torch.Tensor:
        height, width = self.size
        image_size = (image.shape[2], image.shape[1]) if isinstance(image, torch.Tensor) else image.size
        covering = _covering_size(image_size, self.size) if self.crop else (width, height)
        left, top = round((covering[0] - width) / 2), round((covering[1] - height) / 2)
        if isinstance(image, torch.Tensor):
            if image_size != covering:
                image = resize_pixels(image, covering[::-1], self.interpolation)
            return image[:, top : top + height, left : left + width]
        image = to_channels(image, self.channels)
        if image_size != covering:
            image = image.resize(covering, INTERPOLATIONS[self.interpolation])
        return to_pixels(image.crop((left, top, left + width, top + height)) if self.crop else image)


def as_size(img_size: int | Sequence[int]) -> tuple[int, int]:
    """Returns (H, W) of a side or of both."""
    return (img_size, img_size) if isinstance(img_size, int) else (int(img_size[0]), int(img_size[1]))


def _covering_size(image_size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Returns the (width, height) at which an image just covers 256/224 of the target (height, width)."""
    width, height = image_size
    box_height, box_width = (int(256 / 224 * side) for side in target)
    if box_height * width >= box_width * height:
        return int(box_height * width / height), box_height
    return box_width, int(box_width * height / width)


class EvalTransform:
    """`EvalResize`, then `Normalise`: image to float32 (C, H, W)."""

    def __init__(self, resize: EvalResize, normalise: Normalise) -> None:
        self.resize = resize
        self.normalise = normalise

    def __call__(self, image: Image.Image | torch.Tensor) -> torch.Tensor:
        return self.normalise(self.resize(image))


def make_eval_transform(
    *,
    img_size: int | Sequence[int],
    crop: bool,
    interpolation: str,
    mean: Sequence[float],
    std: Sequence[float],
    channels: int,
) -> Callable[[Image.Image | torch.Tensor], torch.Tensor]:
    """Makes the transform of prediction, with the arguments of `EvalResize` and `Normalise`.

    Args:
        mean: Channel means, on a scale of 0 to 1.
        std: Channel standard deviations, likewise.
    """
    resize = EvalResize(img_size=img_size, crop=crop, interpolation=interpolation, channels=channels)
    return EvalTransform(resize, Normalise(mean, std))


def build_eval_resize(cfg: Config) -> EvalResize:
    """Builds what evaluation does to a config's images before they are normalised."""
    return EvalResize(
        img_size=cfg.DATA.IMG_SIZE,
        crop=cfg.TEST.CROP,
        interpolation=cfg.DATA.INTERPOLATION,
        channels=cfg.MODEL.SWIN.IN_CHANS,
    )


def build_normalise(cfg: Config) -> Normalise:
    """Builds the normalisation that a config describes."""
    return Normalise(cfg.DATA.MEAN, cfg.DATA.STD)


def build_eval_transform(cfg: Config) -> Callable[[Image.Image | torch.Tensor], torch.Tensor]:
    """Builds the transform of prediction that a config describes."""
    return EvalTransform(build_eval_resize(cfg), build_normalise(cfg))

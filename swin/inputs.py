"""The kinds of images that a model can be given, and the files that a folder or a pattern stands for."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from swin.errors import DataError
from swin.images import MODES, image_extensions, open_input, to_channels, to_pixels

ImagePath = str | os.PathLike[str]
ImageInput = ImagePath | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray | Tensor

_KINDS = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray, Tensor)


def is_one_input(source: object) -> bool:
    """Say whether this is one input, as `read_input` takes it, and not several of them."""
    return isinstance(source, _KINDS) or hasattr(source, "read")


def read_input(source: ImageInput, *, channels: int, exif: bool = False) -> Tensor:
    """Turn an image of any kind into pixels, uint8 (channels, H, W).

    Args:
        source: A path; the bytes of an image file; a binary file, which is read to its end; a PIL image; a uint8 array
            (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, or (H, W, C) for other channels; a uint8 tensor of such a
            shape or with the channels first.
        channels: How many the model takes.
        exif: Whether files are turned as their EXIF orientation says.

    Raises:
        DataError: The image cannot be decoded, or it is nothing of the above.
    """
    if isinstance(source, Tensor):
        return open_input(_to_array(source, channels), channels=channels)
    if isinstance(source, np.ndarray):
        _check_array(source.shape, source.dtype, channels)
        return open_input(source, channels=channels)
    if isinstance(source, Image.Image):
        try:
            source.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"The PIL image cannot be decoded: {error}. Give another image.") from None
        return to_pixels(to_channels(source, channels))
    if isinstance(source, bytearray | memoryview):
        source = bytes(source)
    if not is_one_input(source):
        raise DataError(
            f"{type(source).__name__} is no image: give a path, bytes, an open binary file, a PIL image, an array or a "
            "tensor, or a list of these."
        )
    return open_input(source, channels=channels, exif=exif)


def _is_image_shape(shape: tuple[int, ...], channels: int) -> bool:
    depths = ((), (1,), (3,), (4,)) if channels in MODES else ((channels,),)
    return len(shape) >= 2 and shape[2:] in depths and 0 not in shape


def _check_array(shape: tuple[int, ...], dtype: object, channels: int) -> None:
    if dtype != np.uint8 or not _is_image_shape(shape, channels):
        wanted = "(H, W), (H, W, 3) RGB or (H, W, 4) RGBA" if channels in MODES else f"(H, W, {channels})"
        raise DataError(
            f"An array of shape {shape} and type {dtype} is not an image: expected uint8 of shape {wanted}."
        )


def _to_array(pixels: Tensor, channels: int) -> np.ndarray:
    """Return a tensor, with its channels first or last, as an array (H, W) or (H, W, C)."""
    shape = tuple(pixels.shape)
    are_last = _is_image_shape(shape, channels)
    are_first = pixels.ndim == 3 and _is_image_shape((*shape[1:], shape[0]), channels)
    if pixels.dtype != torch.uint8 or not (are_last or are_first):
        raise DataError(
            f"A tensor of shape {shape} and type {pixels.dtype} is not an image: expected uint8 of shape (C, H, W), "
            f"(H, W, C) or (H, W), where C is {'1, 3 or 4' if channels in MODES else channels}."
        )
    if are_last and are_first:
        raise DataError(
            f"A tensor of shape {shape} may have its channels first or last: give an array (H, W, C), as "
            "tensor.permute(1, 2, 0).numpy()."
        )
    return (pixels.permute(1, 2, 0) if are_first else pixels).cpu().numpy()


def list_images(folder: ImagePath, channels: int = 3) -> list[Path]:
    """Return the images for a model of so many channels in a folder and its subfolders, sorted by path.

    Hidden files and folders are left out. Raises a DataError if there are none.
    """
    root = Path(folder)
    paths = (path for path in root.rglob("*") if _is_image(path, channels))
    seen = (path for path in paths if not any(part.startswith(".") for part in path.relative_to(root).parts))
    return _sorted(seen, f"{root} holds no images", channels)


def find_files(name: ImagePath, channels: int = 3) -> list[Path] | None:
    """Return the image files that a folder or a pattern stands for, sorted by path; None for any other name.

    A pattern has `*`, `?` or `[...]` in it, or `**` for any number of folders. A file of that very name comes first.

    Raises:
        DataError: There are no images.
    """
    text = os.fspath(name)
    if os.path.isdir(text):
        return list_images(text, channels)
    if not glob.has_magic(text) or os.path.lexists(text):
        return None
    found = map(Path, glob.iglob(text, recursive=True))
    return _sorted((path for path in found if _is_image(path, channels)), f"{text} matches no images", channels)


def _is_image(path: Path, channels: int) -> bool:
    return path.suffix.lower() in image_extensions(channels) and path.is_file()


def _sorted(paths: Iterable[Path], problem: str, channels: int) -> list[Path]:
    if not (images := sorted(paths)):
        raise DataError(f"{problem}: expected files that end in {', '.join(image_extensions(channels))}.")
    return images

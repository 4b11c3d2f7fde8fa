"""Images for the tools that look into a model: read in batches, and as they are shown."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from data.sources import FolderImages, Source
from swin.errors import DataError
from swin.images import open_input, to_image
from swin.inputs import list_images
from swin.predictor import Predictor


def open_images(path: Path, channels: int) -> FolderImages:
    """Open an image, or those of a folder and its subfolders for a model of so many channels; their labels are -1.

    Raises:
        DataError: There is nothing of that name, or no images in it.
    """
    if not path.exists():
        raise DataError(f"--input {path} does not exist: give an image file or a folder of images.")
    files, root = (list_images(path, channels), path) if path.is_dir() else ([path], path.parent)
    return FolderImages(root, (str(file.relative_to(root)) for file in files), np.full(len(files), -1))


def read_batches(
    source: Source, predictor: Predictor, batch_size: int, errors: list[DataError]
) -> Iterator[dict[int, Tensor]]:
    """Yield the images of a source by index, uint8 (C, h, w), with a bar on a terminal.

    Those that cannot be read are left out and their errors added to `errors`.
    """
    batch: dict[int, Tensor] = {}
    for index in tqdm(range(len(source.labels)), unit="images", disable=None):
        try:
            batch[index] = read_image(source, index, predictor)
        except DataError as error:
            errors.append(error)
        if len(batch) == batch_size:
            yield batch
            batch = {}
    if batch:
        yield batch


def read_image(source: Source, index: int, predictor: Predictor) -> Tensor:
    """Read an image of a source as `Predictor.read` does a file."""
    name = source.name(index)
    return open_input(source.read(index), channels=predictor.channels, name=name, exif=predictor.exif)


def to_rgb(pixels_CHW: Tensor) -> Image.Image:
    """Return uint8 of any number of channels as a picture: grey, or of the first three."""
    return to_image(pixels_CHW[: 3 if len(pixels_CHW) >= 3 else 1].to(torch.uint8)).convert("RGB")


def check_read(errors: list[DataError], count: int) -> None:
    """Raise a DataError that names the images which could not be read, if there are any among `count`."""
    if errors:
        raise DataError(f"{len(errors)} of {count} images could not be read: {'; '.join(map(str, errors[:20]))}")

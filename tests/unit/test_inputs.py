"""Kinds of images that a model can be given."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from swin.errors import DataError
from swin.inputs import find_files, read_input


@pytest.fixture
def photo(tmp_path):
    """A file of noise, 12 pixels wide and 9 high, and its pixels (H, W, C)."""
    array = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(array).save(tmp_path / "photo.png")
    return tmp_path / "photo.png", array


def test_every_kind_of_an_image_gives_its_pixels(photo):
    path, array = photo
    expected = torch.from_numpy(array).permute(2, 0, 1)
    content = path.read_bytes()
    alpha = np.dstack([array, np.full(array.shape[:2], 255, np.uint8)])
    with path.open("rb") as buffered, path.open("rb", buffering=0) as raw:
        sources = [
            path,
            str(path),
            content,
            bytearray(content),
            memoryview(content),
            io.BytesIO(content),
            buffered,
            raw,
        ]
        sources += [Image.open(path), array, alpha, expected, torch.from_numpy(array), expected.contiguous()]
        sources += [torch.from_numpy(alpha), torch.from_numpy(alpha).permute(2, 0, 1)]
        for source in sources:
            assert torch.equal(read_input(source, channels=3), expected), type(source)


def test_grey_tensors():
    grey = torch.arange(35, dtype=torch.uint8).view(5, 7)
    for source in (grey, grey[None], grey[..., None]):
        assert torch.equal(read_input(source, channels=1), grey[None])
        assert torch.equal(read_input(source, channels=3), grey.expand(3, 5, 7))


def test_tensors_of_many_channels():
    pixels = torch.arange(70, dtype=torch.uint8).view(2, 5, 7)
    for source in (pixels, pixels.permute(1, 2, 0)):
        assert torch.equal(read_input(source, channels=2), pixels)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (torch.zeros(3, 5, 7), r"shape \(3, 5, 7\) and type torch.float32"),
        (torch.zeros(2, 3, 5, 7, dtype=torch.uint8), r"expected uint8 of shape \(C, H, W\)"),
        (torch.zeros(3, 0, 7, dtype=torch.uint8), r"\(3, 0, 7\)"),
        (torch.zeros(3, 200, 3, dtype=torch.uint8), "channels first or last"),
        (torch.zeros((), dtype=torch.uint8), "is not an image"),
        (np.zeros((3, 5, 7), np.uint8), r"\(H, W, 3\) RGB"),
        (b"", "is empty"),
        (b"text", "in memory: is not an image"),
        (io.BytesIO(b"text"), "an open file: is not an image"),
        (io.StringIO("text"), "Open it with mode 'rb'"),
        (5, "int is no image: give a path, bytes"),
    ],
)
def test_what_is_no_image_is_named(source, words):
    with pytest.raises(DataError, match=words):
        read_input(source, channels=3)


def test_files_that_cannot_be_read_are_named(photo):
    path, _ = photo
    with path.open("rb") as closed:
        pass
    with pytest.raises(DataError, match=r"photo\.png: cannot be read as a binary file: .*closed"):
        read_input(closed, channels=3)


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(photo):
    path, _ = photo
    odd = path.rename(path.with_name("photo[1].png"))
    assert find_files(odd) is None
    assert find_files(path.with_name("photo[[]*")) == [odd]
    assert find_files(path) is None
    assert find_files("a" * 300) is None

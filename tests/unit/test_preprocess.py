"""Decoding any file, and the evaluation transform against torchvision's."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from swin.errors import DataError
from swin.images import open_input, to_channels, to_image, to_pixels
from swin.preprocess import EvalResize, make_eval_transform

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_picture(width: int = 20, height: int = 12, mode: str = "RGB") -> Image.Image:
    noise = np.random.RandomState(0).randint(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def open_image(source: object, **options: object) -> Image.Image:
    return to_image(open_input(source, **options))


def make_huge_png() -> bytes:
    """A PNG of a hundred bytes whose header promises 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize(("channels", "expected"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_every_mode_opens_with_every_channel_count(mode: str, channels: int, expected: str) -> None:
    image = Image.new("I;16", (20, 12), 40_000) if mode == "I;16" else make_picture(mode=mode)
    opened = open_image(encode(image, "TIFF" if mode in ("CMYK", "LA") else "PNG"), channels=channels)
    assert (opened.mode, opened.size) == (expected, (20, 12))


def test_a_plain_image_keeps_its_pixels(tmp_path: Path) -> None:
    picture = make_picture()
    picture.save(tmp_path / "a.png")
    with open(tmp_path / "a.png", "rb") as file:
        for source in (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes(), file):
            assert open_image(source).tobytes() == picture.tobytes()


def test_transparency_is_composited_over_white() -> None:
    image = Image.new("RGBA", (2, 1), (200, 0, 0, 0))
    image.putpixel((1, 0), (200, 0, 0, 255))
    assert list(open_image(encode(image, "PNG")).tobytes()) == [255, 255, 255, 200, 0, 0]
    assert open_image(encode(image, "PNG"), channels=4).getpixel((0, 0)) == (200, 0, 0, 0)
    palette = Image.new("P", (1, 1), 3)
    palette.putpalette([9] * 12)
    assert open_image(encode(palette, "PNG", transparency=3)).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.array([[0, 255, 256, 32_768, 65_535]], dtype=np.uint16))
    assert list(open_image(encode(grey, "PNG"), channels=1).tobytes()) == [0, 0, 1, 128, 255]


def test_cmyk_is_converted() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert open_image(encode(red, "JPEG", quality=100)).getpixel((4, 4)) == pytest.approx((255, 0, 0), abs=3)


def test_animations_give_their_first_frame_and_wrong_extensions_do_not_matter(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    (tmp_path / "a.jpg").write_bytes(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert open_image(tmp_path / "a.jpg").getpixel((0, 0)) == (255, 0, 0)


JPEG = encode(make_picture(64, 64), "JPEG")
PNG = encode(make_picture(64, 64), "PNG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n", "Git LFS pointer.*git lfs pull"),
        (b"<html>not found</html>", "is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is not an image"),
        (JPEG[:-200], "is damaged: .*truncated"),
        (PNG[:-200], "is damaged"),
        (PNG[:60] + b"\xff" * 40 + PNG[100:], "is damaged"),
        (make_huge_png(), "million pixels"),
        (encode(Image.new("F", (2, 2), 0.5), "TIFF"), "floating-point"),
        (encode(Image.new("I", (2, 2), 1 << 20), "TIFF"), "32-bit"),
    ],
)
def test_unusable_images_are_named_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    for source, name in ((path, str(path)), (content, "train.zip/bad.jpg")):
        with pytest.raises(DataError, match=reason) as raised:  # and no warning, which would be an error here
            open_image(source, name=name)
        assert str(raised.value).startswith(f"{name}: ")
        assert "\n" not in str(raised.value)


def test_a_size_that_pillow_only_warns_of_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # an error of Pillow's own from twice as many on
    with pytest.raises(DataError, match="promises more than"):
        open_image(encode(make_picture(20, 12), "PNG"))


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jpg: cannot be read: No such file"):
        open_image(tmp_path / "none.jpg")
    with pytest.raises(DataError, match="Is a directory"):
        open_image(tmp_path)


def test_names_that_are_not_utf8_can_be_printed() -> None:
    with pytest.raises(DataError) as raised:
        open_image(b"", name="a\udcff.jpg")
    str(raised.value).encode("utf-8")


ODD_IMAGES = Path(os.environ.get("SWIN_TEST_DATA", "")) / "odd_images"


@pytest.mark.skipif(not ODD_IMAGES.exists(), reason="set SWIN_TEST_DATA to the folder that has odd_images")
def test_a_collection_of_odd_images() -> None:
    for path in (ODD_IMAGES / "decodable").iterdir():
        assert open_image(path).mode == "RGB"
    for path in (ODD_IMAGES / "undecodable").iterdir():
        with pytest.raises(DataError, match=path.name):
            open_image(path)


@pytest.mark.parametrize("size", [(300, 200), (200, 301), (224, 224), (50, 30), (3, 500)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crops_equal_torchvisions_bit_for_bit(size: tuple[int, int], interpolation: str) -> None:
    image = make_picture(*size)
    ours = make_eval_transform(img_size=224, crop=True, interpolation=interpolation, mean=MEAN, std=STD)
    theirs = transforms.Compose(
        [
            transforms.Resize(256, InterpolationMode(interpolation)),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    assert torch.equal(ours(to_pixels(image)), theirs(image))


@pytest.mark.parametrize("img_size", [64, (48, 80)])
def test_without_a_crop_the_whole_image_is_resized(img_size: int | tuple[int, int]) -> None:
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    image = make_picture(90, 70)
    transform = make_eval_transform(img_size=img_size, crop=False, interpolation="bicubic", mean=MEAN, std=STD)
    expected = transforms.ToTensor()(image.resize((width, height), Image.Resampling.BICUBIC))
    assert torch.equal(transform(to_pixels(image)), transforms.Normalize(MEAN, STD)(expected))


def test_a_crop_that_is_not_square_keeps_the_shape_of_things() -> None:
    transform = make_eval_transform(
        img_size=[112, 224], crop=True, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1)
    )
    # A ramp of grey levels over 512 columns, resized to 256 columns and cut by 16 on either side.
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 512).astype(np.uint8), (256, 1))).convert("RGB")
    values = transform(to_pixels(ramp))
    assert values.shape == (3, 112, 224)
    assert values[0, 50, 0].item() == pytest.approx(16 / 256, abs=0.01)
    assert values[0, 50, -1].item() == pytest.approx(240 / 256, abs=0.01)


@pytest.mark.parametrize("side", [8, 28, 32])
def test_small_sizes_take_the_whole_image(side: int) -> None:
    image = make_picture(side, side, "L")
    transform = make_eval_transform(img_size=side, crop=True, interpolation="bicubic", mean=(0,), std=(1,))
    assert torch.equal(transform(to_pixels(image)), transforms.ToTensor()(image))


def test_other_modes_are_converted_and_other_channel_counts_refused() -> None:
    transform = make_eval_transform(img_size=40, crop=False, interpolation="bicubic", mean=MEAN, std=STD)
    assert transform(open_input(np.asarray(make_picture(mode="L")))).shape == (3, 40, 40)
    with pytest.raises(DataError, match="1, 3 or 4 channels, not 2"):
        to_channels(make_picture(), 2)


def test_random_interpolation_is_named_by_what_evaluation_does():
    """Exported files and published folders carry the name for programs that do not know `random`."""
    assert EvalResize(img_size=64, crop=True, interpolation="random").interpolation == "bilinear"

"""The evaluation transform: from the pixels of `swin.images` to the tensor a model reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch.nn import functional as F

from swin.config import Config
from swin.images import MODES, to_image, to_pixels

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "random": Image.Resampling.BILINEAR,  # a choice for training only; evaluation has to be deterministic
}
# The same for tensors, where PyTorch has them.
TENSOR_MODES = {"nearest": "nearest-exact", "bilinear": "bilinear", "bicubic": "bicubic", "random": "bilinear"}
# Images up to this side are taken whole (resized straight to the input size) rather than centre-cropped: at 8 or 28
# pixels the subject fills the frame. The official code does not resize such images either.
SMALL_IMAGE_PX = 32
_CROP_PCT = 224 / 256  # timm's name for the ratio


class Normalise:
    """Turns 8-bit values into (value / 255 - mean) / std: uint8 (..., C, H, W) to contiguous float32, on its device.

    The same arithmetic as torchvision's ToTensor and Normalize, bit for bit.

    Args:
        mean: Channel means, on a scale of 0 to 1.
        std: Channel standard deviations, likewise.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean_C11 = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std_C11 = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.mean_C11.device != pixels.device:  # once: copies of ordinary memory make a GPU wait
            self.mean_C11, self.std_C11 = self.mean_C11.to(pixels.device), self.std_C11.to(pixels.device)
        values = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        return values.div_(255).sub_(self.mean_C11).div_(self.std_C11)

    def undo(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the model takes on a scale of 0 to 1, as it was before mean and deviation were taken out."""
        return images * self.std_C11.to(images.device) + self.mean_C11.to(images.device)


def resize_tensor(pixels_CHW: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """Resize 8-bit values to (H, W) as Pillow does, to within a level, in a quarter of its time.

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


def resize_exactly(pixels_CHW: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """Resize by Pillow, on whose pixels published accuracies depend; other than pictures by `resize_tensor`."""
    if pixels_CHW.shape[1:] == size:
        return pixels_CHW
    if len(pixels_CHW) not in MODES:
        return resize_tensor(pixels_CHW, size, interpolation)
    return to_pixels(to_image(pixels_CHW).resize((size[1], size[0]), INTERPOLATIONS[interpolation]))


class EvalResize:
    """The deterministic part of evaluation and prediction: uint8 (C, h, w) to uint8 (C, H, W).

    Args:
        img_size: Side S in pixels, or (H, W).
        crop: Resize the short side to int(S / crop_pct), then cut the centre S x S; for (H, W), resize until as much
            is covered. False: resize straight to the size.
        interpolation: A key of `INTERPOLATIONS`; of `TENSOR_MODES` for channels that Pillow has no mode for.
        keep_border: Where the centre is cut, leave the border of int(S / crop_pct) x int(S / crop_pct) around it, for
            crops of it.
        crop_pct: What remains of the short side, as a fraction in (0, 1], for any size. None for the official 224/256,
            and for images of at most 32 pixels as a whole.
    """

    def __init__(
        self,
        *,
        img_size: int | Sequence[int],
        crop: bool,
        interpolation: str,
        keep_border: bool = False,
        crop_pct: float | None = None,
    ) -> None:
        self.size = as_size(img_size)
        self.crop = crop and (crop_pct is not None or max(self.size) > SMALL_IMAGE_PX)
        self.crop_pct = _CROP_PCT if crop_pct is None else crop_pct
        self.interpolation = "bilinear" if interpolation == "random" else interpolation  # evaluation draws nothing
        self.keep_border = keep_border

    def __call__(self, pixels_CHW: torch.Tensor) -> torch.Tensor:
        height, width = self.size
        bordered = int(height / self.crop_pct), int(width / self.crop_pct)
        covering = _covering_size(pixels_CHW, bordered) if self.crop else self.size
        if self.keep_border and self.crop:
            height, width = bordered
        top, left = round((covering[0] - height) / 2), round((covering[1] - width) / 2)
        resized = resize_exactly(pixels_CHW, covering, self.interpolation)
        return resized[:, top : top + height, left : left + width]


def as_size(img_size: int | Sequence[int]) -> tuple[int, int]:
    """Return (H, W) of a side or of both."""
    return (img_size, img_size) if isinstance(img_size, int) else (int(img_size[0]), int(img_size[1]))


def _covering_size(pixels_CHW: torch.Tensor, box: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) at which an image just covers a box of (height, width)."""
    height, width = pixels_CHW.shape[1:]
    box_height, box_width = box
    if box_height * width >= box_width * height:
        return box_height, int(box_height * width / height)
    return int(box_width * height / width), box_width


@dataclass(frozen=True)
class EvalTransform:
    """Both steps of prediction: uint8 (C, h, w) as `swin.images.open_input` returns it to float32 (C, H, W)."""

    resize: EvalResize
    normalise: Normalise

    def __call__(self, pixels_CHW: torch.Tensor) -> torch.Tensor:
        return self.normalise(self.resize(pixels_CHW))


def make_eval_transform(
    *,
    img_size: int | Sequence[int],
    crop: bool,
    interpolation: str,
    mean: Sequence[float],
    std: Sequence[float],
    crop_pct: float | None = None,
) -> EvalTransform:
    """Make the transform of prediction, with the arguments of `EvalResize` and `Normalise`."""
    resize = EvalResize(img_size=img_size, crop=crop, interpolation=interpolation, crop_pct=crop_pct)
    return EvalTransform(resize, Normalise(mean, std))


def build_eval_resize(cfg: Config, *, keep_border: bool = False) -> EvalResize:
    """Build what evaluation does to a config's images before they are normalised."""
    how = {"crop": cfg.TEST.CROP, "crop_pct": cfg.TEST.CROP_PCT, "interpolation": cfg.DATA.INTERPOLATION}
    return EvalResize(img_size=cfg.DATA.IMG_SIZE, keep_border=keep_border, **how)


def build_eval_transform(cfg: Config) -> EvalTransform:
    """Build the transform of prediction that a config describes."""
    return EvalTransform(build_eval_resize(cfg), Normalise(cfg.DATA.MEAN, cfg.DATA.STD))


def describe_eval_transform(how: Mapping[str, Any]) -> str:
    """Say for people what `make_eval_transform` does to an image by these arguments."""
    height, width = how["img_size"]
    if how["crop"]:
        sides = " x ".join(str(int(side / how["crop_pct"])) for side in (height, width))
        words = f"resized until it just covers {sides} pixels, of which the centre of {height} x {width} is cut out"
    else:
        words = f"squashed to {height} x {width} pixels, whatever its proportions, nothing is cut off"
    return f"an image is {words}; {how['interpolation']}"

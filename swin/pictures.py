"""Pictures of what a model is fed."""

import textwrap
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch.nn.functional import one_hot

from swin.images import to_image

_COLUMNS, _CELL_PX, _TEXT_PX = 4, 224, 28
_LINE_LENGTH = 36  # characters below an image


def draw_batch(images_BCHW: torch.Tensor, targets: torch.Tensor, classes: Sequence[str]) -> Image.Image:
    """Draw images in rows, each above the names and fractions of its targets.

    Args:
        images_BCHW: On a scale of 0 to 1.
        targets: Fractions of the classes (B, K), or labels (B,).
        classes: Their names; none where images have no labels.
    """
    if not classes:
        targets = torch.zeros(len(images_BCHW), 0)
    targets_BK = targets if targets.ndim == 2 else one_hot(targets, len(classes)).float()
    count, height = len(images_BCHW), _CELL_PX + _TEXT_PX
    rows = -(-count // _COLUMNS)
    sheet = Image.new("RGB", (min(count, _COLUMNS) * _CELL_PX, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image_CHW, target_K) in enumerate(zip(images_BCHW, targets_BK, strict=True)):
        left, top = index % _COLUMNS * _CELL_PX, index // _COLUMNS * height
        shown_CHW = image_CHW[: 3 if len(image_CHW) >= 3 else 1]
        picture = to_image((shown_CHW.clamp(0, 1) * 255).round().to(torch.uint8)).convert("RGB")
        picture.thumbnail((_CELL_PX, _CELL_PX))
        scale = _CELL_PX // max(picture.size)
        size = picture.width * scale, picture.height * scale
        sheet.paste(picture.resize(size, Image.Resampling.NEAREST), (left, top))
        for line, text in enumerate(_describe(target_K, classes)):
            draw.text((left + 2, top + _CELL_PX + 1 + 13 * line), text, fill="black")
    return sheet


def _describe(target_K: torch.Tensor, classes: Sequence[str]) -> list[str]:
    """Return up to two lines on the targets above 0, largest first: one or two have a line each, more share both.

    Long names are cut, and what there is no room for is left out, with dots in its place.
    """
    fractions, labels = target_K.sort(descending=True, stable=True)
    found = [
        (each, classes[label]) for each, label in zip(fractions.tolist(), labels.tolist(), strict=True) if each > 0
    ]
    texts = [f"{fraction:.0%} {name}".encode("ascii", "replace").decode() for fraction, name in found]
    if len(texts) <= 2:
        return [text[:_LINE_LENGTH] for text in texts]
    joined = ", ".join(text[: _LINE_LENGTH // 2] for text in texts)
    return textwrap.wrap(joined, _LINE_LENGTH, max_lines=2, placeholder=" ...")

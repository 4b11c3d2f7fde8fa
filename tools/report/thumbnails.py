"""Small pictures of single images for a page."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from swin.errors import DataError, SwinError
from swin.evaluation.multilabel import LabelPredictions
from swin.evaluation.predictions import Predictions
from swin.images import to_image
from tools.report.style import data_uri

_SIDE_PX = 112
_NUM_MISTAKES, _NUM_WITH_CAM, _NUM_UNSURE = 24, 12, 12

Images = Callable[[int], Tensor]
Cam = Callable[[Sequence[Tensor], Sequence[int]], Sequence[Image.Image]]


@dataclass
class Hit:
    """One image of a gallery."""

    about: dict[str, Any]  # what is said of it
    picture: str = ""  # a data URI
    cam: str = ""  # the same with what the prediction looked at
    problem: str = ""  # why there is no picture


def choose_mistakes(predictions: Predictions) -> list[int]:
    """Return the rows of the wrong predictions with the highest losses, the worst first."""
    wrong = np.flatnonzero(predictions.ranks > 0)
    return wrong[np.argsort(-predictions.losses[wrong], kind="stable")][:_NUM_MISTAKES].tolist()


def choose_unsure(predictions: Predictions) -> list[int]:
    """Return the rows of the right predictions with the lowest scores, the least sure first."""
    right = np.flatnonzero(predictions.ranks == 0)
    return right[np.argsort(predictions.scores[right], kind="stable")][:_NUM_UNSURE].tolist()


def make_gallery(
    predictions: Predictions, rows: Sequence[int], images: Images | None, cam: Cam | None = None
) -> tuple[list[Hit], str]:
    """Describe rows, with pictures where they can be read; the first ones with CAM, for the class that was predicted.

    Returns:
        The images, and why there are no CAM pictures, if that failed.
    """
    hits = [Hit(_describe(predictions, row)) for row in rows]
    pixels = _add_pictures(hits, rows, images)
    shown = [place for place in pixels if place < _NUM_WITH_CAM]
    if cam is None or not shown:
        return hits, ""
    try:
        overlays = cam([pixels[place] for place in shown], [int(predictions.preds[rows[place]]) for place in shown])
    except SwinError as error:
        return hits, str(error)
    for place, overlay in zip(shown, overlays, strict=True):
        hits[place].cam = _embed(overlay.convert("RGB"))
    return hits, ""


def make_label_gallery(table: LabelPredictions, images: Images | None) -> list[Hit]:
    """Describe the images of the highest losses, the worst first, by their labels and those that are predicted."""
    rows = np.argsort(-table.losses, kind="stable")[:_NUM_MISTAKES].tolist()
    hits = []
    for row in rows:
        is_label, is_pred = table.labels[row].astype(bool), table.preds[row]
        about = {"file": table.names[row], "loss": float(table.losses[row])}
        parts = {"right": is_label & is_pred, "missed": is_label & ~is_pred, "wrong": is_pred & ~is_label}
        hits.append(Hit({**about, **{key: table.names_of(flags) for key, flags in parts.items()}}))
    _add_pictures(hits, rows, images)
    return hits


def _add_pictures(hits: Sequence[Hit], rows: Sequence[int], images: Images | None) -> dict[int, Tensor]:
    """Give hits their pictures, or say why there are none; returns the pixels of each by its place."""
    pixels: dict[int, Tensor] = {}
    for place, row in enumerate(rows if images else ()):
        try:
            pixels[place] = images(row)  # type: ignore[misc]
            hits[place].picture = _embed(_to_picture(pixels[place]))
        except DataError as error:
            hits[place].problem = str(error)
    return pixels


def _describe(predictions: Predictions, row: int) -> dict[str, Any]:
    label, pred = int(predictions.labels[row]), int(predictions.preds[row])
    return {
        "file": predictions.names[row],
        "class": predictions.classes[label],
        "pred_class": predictions.classes[pred],
        "score": float(predictions.scores[row]),
        "true_score": float(np.exp(-predictions.losses[row])),
        "loss": float(predictions.losses[row]),
    }


def _to_picture(pixels_CHW: Tensor) -> Image.Image:
    """Make a picture of an image with any number of channels: of three or more the first three."""
    return to_image(pixels_CHW[: 3 if len(pixels_CHW) >= 3 else 1]).convert("RGB")


def _embed(picture: Image.Image) -> str:
    """Return a data URI of a picture in the size of a thumbnail; small ones get larger, pixel by pixel."""
    scale = _SIDE_PX // max(picture.size)
    if scale > 1:
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    else:
        picture = picture.copy()
        picture.thumbnail((_SIDE_PX, _SIDE_PX))
    stream = io.BytesIO()
    if scale > 1:
        picture.save(stream, "png")
        return data_uri(stream.getvalue())
    picture.save(stream, "jpeg", quality=85)
    return data_uri(stream.getvalue(), "jpeg")

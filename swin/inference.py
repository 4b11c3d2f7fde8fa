"""Class names and scores for images, from a checkpoint or a model at hand."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from swin.config import config_from_dict
from swin.create import build_model, create_model, eval_transform_args
from swin.distributed import select_device
from swin.errors import CheckpointError, ConfigError, DataError
from swin.models import SwinTransformer, list_models
from swin.preprocess import (
    MODES,
    build_eval_transform,
    image_extensions,
    make_eval_transform,
    open_input,
    read_file,
)
from swin.weights import Weights, load_weights, model_arguments, read_weights
from swin.weights.labels import imagenet_classes

ImageInput = str | os.PathLike[str] | Image.Image | np.ndarray

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BATCH_SIZE = 32


@dataclass(frozen=True)
class Predictor:
    """A model in evaluation mode with what turns images into its input and outputs into names.

    Attributes:
        model: Gives logits (B, K) for images (B, C, H, W).
        transform: Image, or uint8 (C, H, W), to normalised tensor (C, H, W).
        channels: C, which files are decoded to.
        classes: K names in the order of the labels; None where they are not known.
        device: Where the model is.
        exif: Whether files are turned as their EXIF orientation says.
    """

    model: nn.Module
    transform: Callable[[Image.Image | Tensor], Tensor]
    channels: int
    classes: Sequence[str] | None
    device: torch.device
    exif: bool = False

    def read(self, source: ImageInput) -> Image.Image | Tensor:
        """Turn one input of `inference_model` into what `scores` takes; see `read_image`."""
        return read_image(source, self.channels, exif=self.exif)

    @torch.no_grad()
    def scores(self, images: Sequence[Image.Image | Tensor]) -> Tensor:
        """Return the probabilities (B, K), float32 on the CPU, of a batch of B >= 1 images.

        Raises:
            CheckpointError: If the model gives NaN or infinite outputs, or its classes are not as many as its names.
        """
        batch_BCHW = torch.stack([self.transform(image) for image in images])
        logits_BK = self.model(batch_BCHW.to(self.device)).float().cpu()
        if not torch.isfinite(logits_BK).all():
            raise CheckpointError(
                "The model's outputs are not finite: its weights are damaged. Use another checkpoint."
            )
        if self.classes is not None and len(self.classes) != logits_BK.shape[1]:
            raise CheckpointError(
                f"The model has {logits_BK.shape[1]} outputs but {len(self.classes)} class names: make them agree."
            )
        return logits_BK.softmax(dim=1)

    def describe(self, scores_K: Tensor, top_k: int | None = None) -> dict[str, Any]:
        """Turn the probabilities (K,) of one image into the result of `inference_model`."""
        values = scores_K.tolist()
        order = scores_K.argsort(descending=True, stable=True)[: top_k or 1].tolist()
        best = [{"label": label, "class": self._name(label), "score": values[label]} for label in order]
        result: dict[str, Any] = {
            "pred_scores": values,
            "pred_label": best[0]["label"],
            "pred_score": best[0]["score"],
            "pred_class": best[0]["class"],
        }
        return result if top_k is None else {**result, "top_k": best}

    def _name(self, label: int) -> str:
        return str(label) if self.classes is None else self.classes[label]


def inference_model(
    model_or_checkpoint: nn.Module | str | os.PathLike[str],
    image_or_images: ImageInput | Sequence[ImageInput],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    top_k: int | None = None,
    device: str = "auto",
) -> dict[str, Any] | list[dict[str, Any]]:
    """Classify images.

    A model given as an object is used as it is and afterwards has its training mode and device back. Its attribute
    `classes` gives the names, `eval_transform_args` (a dict) the arguments of `swin.preprocess.make_eval_transform`; by
    default images are normalised as for ImageNet, at the model's `img_size` or 224 pixels. A Swin model without names
    and with as many outputs as ImageNet has classes, 1,000 or 21,841, is taken to name those.

    Args:
        model_or_checkpoint: A model, a file as for `load_predictor`, or a name from `list_models()` together with
            `checkpoint`.
        image_or_images: A file, a PIL image or a uint8 array (H, W) grey or (H, W, 3) RGB or (H, W, 4) RGBA, or
            (H, W, C) for a model of C other channels; a list of these; or a folder, whose images are taken in the
            order of `list_images`.
        checkpoint: Weight file of any format for a model given by name. Its head says how many classes there are.
        top_k: Adds the key `top_k`: this many classes, or all if there are fewer, as dicts of `label`, `class` and
            `score`, best first.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; `auto` leaves a model given as an object where it is.

    Returns:
        A dict for one image, a list of dicts for a list or a folder. Keys: `pred_scores` (K probabilities),
        `pred_label` (index of the greatest), `pred_score` (its probability) and `pred_class` (its name; the index as
        text where names are not known).

    Raises:
        DataError: If an image cannot be used.
        CheckpointError: If the checkpoint cannot be used.
        ConfigError: If the arguments do not go together.
    """
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k is {top_k}; ask for at least 1 class.")
    results = []
    with _predictor(model_or_checkpoint, checkpoint, device) as predictor:
        sources: Sequence[ImageInput]
        is_single = False
        if isinstance(image_or_images, str | os.PathLike) and Path(image_or_images).is_dir():
            sources = list_images(image_or_images, predictor.channels)
        elif isinstance(image_or_images, str | os.PathLike | Image.Image | np.ndarray):
            sources, is_single = [image_or_images], True
        else:
            sources = list(image_or_images)
        for start in range(0, len(sources), _BATCH_SIZE):
            images = [predictor.read(source) for source in sources[start : start + _BATCH_SIZE]]
            results += [predictor.describe(scores_K, top_k) for scores_K in predictor.scores(images)]
    return results[0] if is_single else results


def load_predictor(checkpoint: str | os.PathLike[str], *, device: str = "auto") -> Predictor:
    """Build the model of a weight file, with averaged weights where it has some.

    A checkpoint of this project says how its model is built and how images become its input. For other files the
    model is read off the shapes of the weights, and images are prepared as for the published models.

    Args:
        checkpoint: File of a training run, or weights of any program that `swin.load_weights` knows.
        device: As for `inference_model`.

    Raises:
        CheckpointError: If the file cannot be read, or holds no classifier.
    """
    chosen = select_device(device)
    weights = read_weights(Path(checkpoint))
    num_classes = _count_classes(weights)
    cfg = config_from_dict(weights.config) if weights.config else None
    model = build_model(cfg, num_classes) if cfg else SwinTransformer(**model_arguments(weights.tensors))
    load_weights(model, weights, strict=True)
    model.to(chosen).eval()
    if cfg:
        transform = build_eval_transform(cfg)
        return Predictor(model, transform, cfg.MODEL.SWIN.IN_CHANS, model.classes, chosen, cfg.DATA.EXIF)
    model.eval_transform_args = eval_transform_args(model)
    return _swin_predictor(model, chosen)


def _count_classes(weights: Weights) -> int:
    """Rows of a weight file's head; CheckpointError if it has none."""
    if "head.bias" not in weights.tensors:
        raise CheckpointError(f"{weights.name} holds a backbone without a head, which names no classes: fine-tune it.")
    return len(weights.tensors["head.bias"])


def _swin_predictor(model: SwinTransformer, place: torch.device) -> Predictor:
    return Predictor(model, *_input_of(model), model.classes or _imagenet_names(model.num_classes), place)


def _imagenet_names(num_classes: int) -> list[str] | None:
    """English names of ImageNet's classes; None if it does not have that many."""
    from timm.data import ImageNetInfo  # slow to import

    synsets = imagenet_classes(num_classes)
    if synsets is None:
        return None
    info = ImageNetInfo("imagenet-1k" if num_classes == 1000 else "imagenet-21k-goog")
    return [info.label_name_to_description(synset) for synset in synsets]


def list_images(folder: str | os.PathLike[str], channels: int = 3) -> list[Path]:
    """Return the image files in a folder and its subfolders, sorted by path; hidden ones are left out.

    Args:
        folder: Where to look.
        channels: Of the model that they are for; see `swin.preprocess.open_input`.

    Raises:
        DataError: If there are none.
    """
    root = Path(folder)
    extensions = image_extensions(channels)
    paths = (path for path in root.rglob("*") if path.suffix.lower() in extensions and path.is_file())
    images = sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(root).parts))
    if not images:
        raise DataError(f"{root} holds no images: expected files that end in {', '.join(extensions)}.")
    return images


def read_image(source: ImageInput, channels: int = 3, *, exif: bool = False) -> Image.Image | Tensor:
    """Turn one input of `inference_model` into an image with its pixels in memory.

    Args:
        source: A file, a PIL image or an array.
        channels: What files are decoded to; pictures and arrays keep theirs until the transform.
        exif: Whether files are turned as their EXIF orientation says.

    Returns:
        A PIL image; for channels other than 1, 3 and 4 uint8 (channels, H, W).

    Raises:
        DataError: If the file cannot be decoded, or the array is not an image.
    """
    if isinstance(source, Image.Image):
        try:
            source.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"The PIL image cannot be decoded: {error}. Give another image.") from None
        return source
    if not isinstance(source, np.ndarray):
        name = os.fspath(source)
        return open_input(read_file(name), channels=channels, name=name, exif=exif)
    wanted = "(H, W), (H, W, 3) RGB or (H, W, 4) RGBA" if channels in MODES else f"(H, W, {channels})"
    counts = (1, 3, 4) if channels in MODES else (channels,)
    is_grey = source.ndim == 2 and channels in MODES
    is_image = is_grey or (source.ndim == 3 and source.shape[2] in counts)
    if source.dtype != np.uint8 or not is_image or source.size == 0:
        raise DataError(
            f"An array of shape {source.shape} and type {source.dtype} is not an image: "
            f"expected uint8 of shape {wanted}."
        )
    if channels not in MODES:
        return torch.from_numpy(source.copy()).permute(2, 0, 1)
    return Image.fromarray(source[:, :, 0] if source.shape[2:] == (1,) else source)


@contextmanager
def _predictor(
    model: nn.Module | str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None, device: str
) -> Iterator[Predictor]:
    """Give a predictor for any model argument of `inference_model`, and leave a model object as it was."""
    if isinstance(model, nn.Module):
        if checkpoint is not None:
            raise ConfigError(
                "checkpoint= goes with a model's name; load weights into a model object with load_weights."
            )
        with _borrowed(model, device) as place:
            if isinstance(model, SwinTransformer):
                yield _swin_predictor(model, place)
            else:
                yield Predictor(model, *_input_of(model), getattr(model, "classes", None), place)
    elif checkpoint is not None:
        weights = read_weights(Path(checkpoint))
        created = create_model(str(model), num_classes=_count_classes(weights))
        load_weights(created, weights, strict=True)
        place = select_device(device)
        yield _swin_predictor(created.to(place).eval(), place)
    elif str(model) in list_models() and not Path(model).exists():
        raise ConfigError(f"{str(model)!r} is a model's name: give its weights as well, checkpoint='FILE'.")
    else:
        yield load_predictor(model, device=device)


@contextmanager
def _borrowed(model: nn.Module, device: str) -> Iterator[torch.device]:
    """Put a model into evaluation mode on a device, and every module's mode and the device back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    home = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    place = home if device == "auto" else select_device(device)
    try:
        model.to(place).eval()
        yield place
    finally:
        model.to(home)
        for module, mode in modes:
            module.training = mode


def _input_of(model: nn.Module) -> tuple[Callable[[Image.Image | Tensor], Tensor], int]:
    """Transform and channel count for a model object."""
    defaults: dict[str, Any] = {
        "img_size": getattr(model, "img_size", 224),
        "crop": True,
        "interpolation": "bicubic",
        "mean": _IMAGENET_MEAN,
        "std": _IMAGENET_STD,
        "channels": 3,
    }
    arguments = {**defaults, **(getattr(model, "eval_transform_args", None) or {})}
    return make_eval_transform(**arguments), arguments["channels"]

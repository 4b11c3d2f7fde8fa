"""Class names and scores for images, from a checkpoint or a model at hand."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from swin.config import Config, config_from_dict
from swin.create import build_model, create_model, eval_transform_args
from swin.distributed import select_device
from swin.errors import CheckpointError, ConfigError, DataError
from swin.images import MODES, image_extensions, open_input, to_channels, to_pixels
from swin.models import SwinTransformer, list_models
from swin.preprocess import build_eval_transform, make_eval_transform
from swin.weights import load_weights, model_arguments, read_weights
from swin.weights.labels import imagenet_classes, imagenet_names

ImagePath = str | os.PathLike[str]
ImageInput = ImagePath | Image.Image | np.ndarray

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "channels": 3}
_BATCH_SIZE = 32


@dataclass(frozen=True)
class Predictor:
    """A model in evaluation mode with what turns images into its input and outputs into names.

    Attributes:
        model: Gives logits (B, K) for images (B, C, H, W).
        transform: uint8 (C, h, w) to normalised tensor (C, H, W).
        channels: C, which files are decoded to.
        classes: K names in the order of the labels; None where they are not known.
        device: Where the model is.
        exif: Whether files are turned as their EXIF orientation says.
        threshold: Of any number of labels an image, the probability from which on a class is predicted; None for one
            label.
    """

    model: nn.Module
    transform: Callable[[Tensor], Tensor]
    channels: int
    classes: Sequence[str] | None
    device: torch.device
    exif: bool = False
    threshold: float | None = None

    def read(self, source: ImageInput) -> Tensor:
        """Turn one input of `inference_model` into what `scores` takes: uint8 (channels, H, W).

        Raises:
            DataError: If the file cannot be decoded, or the array is not an image.
        """
        if isinstance(source, Image.Image):
            try:
                source.load()
            except (OSError, SyntaxError, ValueError) as error:
                raise DataError(f"The PIL image cannot be decoded: {error}. Give another image.") from None
            return to_pixels(to_channels(source, self.channels))
        if not isinstance(source, np.ndarray):
            return open_input(source, channels=self.channels, exif=self.exif)
        is_picture = self.channels in MODES
        wanted = "(H, W), (H, W, 3) RGB or (H, W, 4) RGBA" if is_picture else f"(H, W, {self.channels})"
        depths = ((), (1,), (3,), (4,)) if is_picture else ((self.channels,),)
        if source.dtype != np.uint8 or source.ndim < 2 or source.shape[2:] not in depths or source.size == 0:
            raise DataError(
                f"An array of shape {source.shape} and type {source.dtype} is not an image: "
                f"expected uint8 of shape {wanted}."
            )
        return open_input(source, channels=self.channels)

    @torch.no_grad()
    def scores(self, images: Sequence[Tensor]) -> Tensor:
        """Return the probabilities (B, K), float32 on the CPU, of a batch of B >= 1 images; with a threshold, sigmoids.

        Raises:
            CheckpointError: If the model gives NaN or infinite outputs, or its classes are not as many as its names.
        """
        batch_BCHW = torch.stack([self.transform(image) for image in images])
        logits_BK: Tensor = self.model(batch_BCHW.to(self.device)).float().cpu()
        if not torch.isfinite(logits_BK).all():
            raise CheckpointError("The model's outputs are not finite: its weights are damaged. Use another file.")
        if self.classes is not None and len(self.classes) != logits_BK.shape[1]:
            raise CheckpointError(
                f"The model has {logits_BK.shape[1]} outputs but {len(self.classes)} class names: make them agree."
            )
        return logits_BK.softmax(dim=1) if self.threshold is None else logits_BK.sigmoid()

    def describe(self, scores_K: Tensor, top_k: int | None = None) -> dict[str, Any]:
        """Turn the probabilities (K,) of one image into the result of `inference_model`."""
        values = scores_K.tolist()
        order = scores_K.argsort(descending=True, stable=True)[: top_k or 1].tolist()
        names = self.classes or range(len(values))
        best = [{"label": label, "class": str(names[label]), "score": values[label]} for label in order]
        result = {"pred_scores": values, **{f"pred_{key}": best[0][key] for key in ("label", "score", "class")}}
        if self.threshold is not None:
            ranked = scores_K.argsort(descending=True, stable=True)
            labels = ranked[scores_K[ranked] >= self.threshold].tolist()
            result |= {"pred_labels": labels, "pred_classes": [str(names[label]) for label in labels]}
        return result if top_k is None else {**result, "top_k": best}


def inference_model(
    model_or_checkpoint: nn.Module | ImagePath,
    image_or_images: ImageInput | Sequence[ImageInput],
    *,
    checkpoint: ImagePath | None = None,
    top_k: int | None = None,
    device: str = "auto",
) -> dict[str, Any] | list[dict[str, Any]]:
    """Classify images.

    A model given as an object is used as it is and afterwards has its training mode and device back. Its attribute
    `classes` gives the names, `eval_transform_args` (a dict) the arguments of `swin.preprocess.make_eval_transform`; by
    default images are normalised as for ImageNet, at the model's `img_size` or 224 pixels. A Swin model without names
    and with as many outputs as ImageNet has classes, 1,000 or 21,841, is taken to name those. An attribute `threshold`
    makes it a model of any number of labels an image, which it is the probability of: see Returns.

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
        text where names are not known). With a threshold, also `pred_labels` and `pred_classes`: all from it on, which
        may be none, best first.

    Raises:
        DataError: If an image cannot be used.
        CheckpointError: If the checkpoint cannot be used.
        ConfigError: If the arguments do not go together.
    """
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k is {top_k}; ask for at least 1 class.")
    with _open_predictor(model_or_checkpoint, checkpoint, device) as predictor:
        if isinstance(image_or_images, str | os.PathLike) and Path(image_or_images).is_dir():
            image_or_images = list_images(image_or_images, predictor.channels)
        if isinstance(image_or_images, str | os.PathLike | Image.Image | np.ndarray):
            return _classify(predictor, [image_or_images], top_k)[0]
        return _classify(predictor, list(image_or_images), top_k)


def _classify(predictor: Predictor, sources: Sequence[ImageInput], top_k: int | None) -> list[dict[str, Any]]:
    results = []
    for start in range(0, len(sources), _BATCH_SIZE):
        images = [predictor.read(source) for source in sources[start : start + _BATCH_SIZE]]
        results += [predictor.describe(scores_K, top_k) for scores_K in predictor.scores(images)]
    return results


@contextmanager
def _open_predictor(model: nn.Module | ImagePath, checkpoint: ImagePath | None, device: str) -> Iterator[Predictor]:
    """Give a predictor for any model argument of `inference_model`, and leave a model object as it was."""
    if isinstance(model, nn.Module):
        if checkpoint is not None:
            raise ConfigError("checkpoint= goes with a model's name; load weights into an object with load_weights.")
        modes = [(module, module.training) for module in model.modules()]
        home = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        used = home if device == "auto" else select_device(device)
        try:
            yield make_predictor(model.to(used).eval(), used)
        finally:
            model.to(home)
            for module, mode in modes:
                module.training = mode
    elif checkpoint is not None:
        yield load_predictor(checkpoint, device=device, variant=str(model))
    elif str(model) in list_models() and not Path(model).exists():
        raise ConfigError(f"{str(model)!r} is a model's name: give its weights as well, checkpoint='FILE'.")
    else:
        yield load_predictor(model, device=device)


def make_predictor(model: nn.Module, device: torch.device) -> Predictor:
    """Wrap a model as `inference_model` uses it: see there for its attributes."""
    defaults = {"img_size": getattr(model, "img_size", 224), "crop": True, "interpolation": "bicubic", **_IMAGENET}
    arguments: dict[str, Any] = {**defaults, **(getattr(model, "eval_transform_args", None) or {})}
    classes = getattr(model, "classes", None)
    if isinstance(model, SwinTransformer) and not classes and (synsets := imagenet_classes(model.num_classes)):
        classes = [imagenet_names()[synset] for synset in synsets]
    channels = arguments.pop("channels")
    threshold = getattr(model, "threshold", None)
    return Predictor(model, make_eval_transform(**arguments), channels, classes, device, threshold=threshold)


def load_predictor(
    checkpoint: ImagePath, *, device: str = "auto", variant: str | None = None, cfg: Config | None = None
) -> Predictor:
    """Build the model of a weight file, with averaged weights where it has some.

    A checkpoint of this project says how its model is built and how images become its input. For other files the
    model is read off the shapes of the weights, and images are prepared as for the published models.

    Args:
        checkpoint: File of a training run, or weights of any program that `swin.load_weights` knows.
        device: As for `inference_model`.
        variant: Name of the model, as for `create_model`, if it is not to be read off the file.
        cfg: What is taken in place of the config that the file carries, if any.

    Raises:
        CheckpointError: If the file cannot be read, or holds no classifier.
    """
    chosen = select_device(device)
    weights = read_weights(Path(checkpoint))
    if "head.bias" not in weights.tensors:
        raise CheckpointError(f"{weights.name} holds a backbone without a head, which names no classes: fine-tune it.")
    num_classes = len(weights.tensors["head.bias"])
    if cfg is None and weights.config and variant is None:
        cfg = config_from_dict(weights.config)
    if cfg:
        model = build_model(cfg, num_classes)
    elif variant is not None:
        model = create_model(variant, num_classes=num_classes)
    else:
        model = SwinTransformer(**model_arguments(weights.tensors))
        model.eval_transform_args = eval_transform_args(model)
    if weights.preprocessing:
        model.eval_transform_args = weights.preprocessing
    load_weights(model, weights, strict=True)
    model.to(chosen).eval()
    if cfg:
        transform, channels = build_eval_transform(cfg), cfg.MODEL.SWIN.IN_CHANS
        return Predictor(model, transform, channels, model.classes, chosen, cfg.DATA.EXIF, weights.threshold)
    return replace(make_predictor(model, chosen), threshold=weights.threshold)


def list_images(folder: ImagePath, channels: int = 3) -> list[Path]:
    """Return the images for a model of so many channels in a folder and its subfolders, sorted by path.

    Hidden files and folders are left out. Raises a DataError if there are none.
    """
    root = Path(folder)
    extensions = image_extensions(channels)
    paths = (path for path in root.rglob("*") if path.suffix.lower() in extensions and path.is_file())
    images = sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(root).parts))
    if not images:
        raise DataError(f"{root} holds no images: expected files that end in {', '.join(extensions)}.")
    return images

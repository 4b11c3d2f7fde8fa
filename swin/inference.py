"""Class names and scores for images, from a checkpoint or a model at hand."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swin.config import Config, config_from_dict
from swin.create import build_model, create_model, eval_transform_args
from swin.distributed import select_device
from swin.engines import engine_of
from swin.errors import ConfigError
from swin.inputs import ImageInput, ImagePath, find_files, is_one_input
from swin.models import CLASSES, Backbone, list_models
from swin.predictor import EXPORTED_FOR, Predictor
from swin.preprocess import build_eval_transform, make_eval_transform
from swin.weights import Weights, load_weights, model_arguments, read_weights
from swin.weights.formats import without_reconstruction
from swin.weights.labels import imagenet_classes, imagenet_names

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "channels": 3}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def inference_model(
    model_or_checkpoint: Predictor | nn.Module | ImagePath,
    image_or_images: ImageInput | Iterable[ImageInput],
    *,
    checkpoint: ImagePath | None = None,
    top_k: int | None = None,
    device: str = "auto",
    dtype: str | None = None,
    engine: str | None = None,
    flip: bool = False,
    on_error: str = "raise",
) -> dict[str, Any] | list[dict[str, Any]]:
    """Classify images.

    Args:
        model_or_checkpoint: What `load_predictor` returns, which opens a file once for many calls; a file as for that;
            a model, see `make_predictor`; or a name from `list_models()` together with `checkpoint`.
        image_or_images: One input as for `swin.inputs.read_input`: a path, bytes, an open file, a PIL image, an array
            or a tensor; a list of these; or a folder or a pattern such as `photos/*.jpg`, whose images are taken in
            the order of their paths.
        checkpoint: Weight file of any format for a model given by name. Its head says how many classes there are.
        top_k: Adds the key `top_k`: this many classes, or all if there are fewer, as dicts of `label`, `class` and
            `score`, best first.
        device: As for `load_predictor`; `auto` leaves a model given as an object where it is.
        dtype, engine: As for `load_predictor`, of a file.
        flip: Whether to take the mean of the probabilities of each image and its mirror image, in twice the time.
        on_error: `raise` the error of an image that cannot be used, or `report` it: its dict has the key `error` only.

    Returns:
        A dict for one image, a list of dicts for several. Keys: `pred_scores` (K probabilities), `pred_label` (index
        of the greatest), `pred_score` (its probability) and `pred_class` (its name; the index as text where names are
        not known). With a threshold, also `pred_labels` and `pred_classes`: all from it on, maybe none, best first.

    Raises:
        DataError: If an image cannot be used, or there are none.
        CheckpointError: If the checkpoint cannot be used.
        ConfigError: If the arguments do not go together.
    """
    _check_arguments(top_k, on_error)
    with _open_predictor(model_or_checkpoint, checkpoint, device, dtype=dtype, engine=engine) as predictor:
        used = predictor.with_flips() if flip else predictor
        is_one, sources = _find_sources(image_or_images, predictor.channels)
        results = list(used.predict(sources, top_k=top_k, on_error=on_error))
        return results[0] if is_one else results


def _check_arguments(top_k: int | None, on_error: str) -> None:
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k is {top_k}; ask for at least 1 class.")
    if on_error not in ("raise", "report"):
        raise ConfigError(f"on_error is {on_error!r}; give 'raise' or 'report'.")


def _find_sources(given: Any, channels: int) -> tuple[bool, Iterable[ImageInput]]:
    """Return whether what `inference_model` was given is one image, and the inputs that it stands for."""
    if isinstance(given, str | PathLike) and (files := find_files(given, channels)) is not None:
        return False, files
    is_one = is_one_input(given) or not isinstance(given, Iterable)
    return is_one, [given] if is_one else given


@contextmanager
def _open_predictor(
    model: Predictor | nn.Module | ImagePath,
    checkpoint: ImagePath | None,
    device: str,
    *,
    dtype: str | None,
    engine: str | None,
) -> Iterator[Predictor]:
    """Give a predictor for any model argument of `inference_model`, and leave a model object as it was."""
    if isinstance(model, Predictor | nn.Module) and (checkpoint is not None or dtype or engine):
        raise ConfigError(
            "checkpoint=, dtype= and engine= go with a model's name or file; load weights into an object with "
            "load_weights, and cast it with its method `to`."
        )
    if isinstance(model, Predictor):
        if device != "auto":
            raise ConfigError("A predictor is on a device already: give that to load_predictor.")
        yield model
    elif isinstance(model, nn.Module):
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
        yield load_predictor(checkpoint, device=device, variant=str(model), dtype=dtype, engine=engine)
    elif str(model) in list_models() and not Path(model).exists():
        raise ConfigError(f"{str(model)!r} is a model's name: give its weights as well, checkpoint='FILE'.")
    else:
        yield load_predictor(model, device=device, dtype=dtype, engine=engine)


def make_predictor(model: nn.Module, device: torch.device) -> Predictor:
    """Wrap a model on a device, in evaluation mode and of any number format.

    `inference_model` does this to a model that it is given as an object, which afterwards has its training mode and
    device back. The attribute `classes` gives the names, `eval_transform_args` (a dict) the arguments of
    `swin.preprocess.make_eval_transform`; by default images are normalised as for ImageNet, at the model's `img_size`
    or 224 pixels. A Swin model without names and with as many outputs as ImageNet has classes, 1,000 or 21,841, is
    taken to name those. An attribute `threshold` is the probability from which on a class is one of an image's labels,
    which may be any number.
    """
    defaults = {"img_size": getattr(model, "img_size", 224), "crop": True, "interpolation": "bicubic", **_IMAGENET}
    arguments: dict[str, Any] = {**defaults, **(getattr(model, "eval_transform_args", None) or {})}
    classes = getattr(model, "classes", None)
    if isinstance(model, Backbone) and not classes and (synsets := imagenet_classes(model.num_classes)):
        classes = [imagenet_names()[synset] for synset in synsets]
    channels = arguments.pop("channels")
    threshold = getattr(model, "threshold", None)
    dtype = next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), torch.float32)
    transform = make_eval_transform(**arguments)
    return Predictor(model, transform, channels, classes, device, threshold=threshold, dtype=dtype)


def load_predictor(
    checkpoint: ImagePath,
    *,
    device: str = "auto",
    variant: str | None = None,
    cfg: Config | None = None,
    dtype: str | None = None,
    engine: str | None = None,
) -> Predictor:
    """Build the model of a weight file, with averaged weights where it has some, or open an exported file.

    A checkpoint of this project says how its model is built and how images become its input. For other files the
    model is read off the shapes of the weights, and images are prepared as for the published models.

    Args:
        checkpoint: File or folder of a training run, or weights of any program that `swin.load_weights` knows; or an
            ONNX or OpenVINO file of `python -m tools.export`, which says itself what it needs.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; exported files and engines run on the CPU.
        variant: Name of the model, as for `create_model`, if it is not to be read off the file.
        cfg: What is taken in place of the config that the file carries, if any.
        dtype: `fp32`, the default, or `bf16`, which the weights are cast to once: faster where the processor has it and
            several times slower elsewhere, with probabilities that differ in the third digit.
        engine: `onnxruntime` or `openvino`, which the model is exported to first; see `Predictor.in_engine`.

    Raises:
        CheckpointError: If the file cannot be read, or holds no classifier.
        ConfigError: If the engine is not installed, or an argument does not go with the file.
    """
    if (its_own := engine_of(Path(checkpoint))) is not None:
        _check_exported(checkpoint, its_own, device, variant=variant, cfg=cfg, dtype=dtype, engine=engine)
        return Predictor.of_file(Path(checkpoint))
    if engine is not None:
        if device not in ("auto", "cpu"):
            raise ConfigError(f"engine {engine} runs on the CPU, not on {device}.")
        return load_predictor(checkpoint, device="cpu", variant=variant, cfg=cfg).in_engine(engine, dtype)
    chosen = select_device(device)
    if dtype not in (None, *_DTYPES):
        raise ConfigError(f"dtype is {dtype!r}; give {' or '.join(map(repr, _DTYPES))}.")
    return _load_torch(read_weights(Path(checkpoint)), chosen, variant, cfg, _DTYPES[dtype or "fp32"])


def load_torch_predictor(
    checkpoint: ImagePath, *, device: str = "auto", cfg: Config | None = None, needs_head: bool = True
) -> Predictor:
    """As `load_predictor`, for what needs the model's layers and weights: a file of an engine is refused.

    Without `needs_head` a backbone will do, as that of a pre-training without labels; its predictor has features alone.

    Raises:
        ConfigError: It is an exported file, of which only the outputs are to be had.
    """
    if engine_of(Path(checkpoint)):
        raise ConfigError(f"{checkpoint} is an exported file, without layers to look into: give its checkpoint.")
    weights, chosen = read_weights(Path(checkpoint)), select_device(device)
    return _load_torch(weights, chosen, None, cfg, torch.float32, needs_head=needs_head)


def _load_torch(
    weights: Weights,
    device: torch.device,
    variant: str | None,
    cfg: Config | None,
    dtype: torch.dtype,
    *,
    needs_head: bool = True,
) -> Predictor:
    """Build the model of a file's content, as `load_predictor` says."""
    num_classes = weights.count_classes() if needs_head or "head.weight" in weights.tensors else 0
    if not num_classes:
        weights = replace(weights, tensors=without_reconstruction(weights.tensors))
    if cfg is None and weights.config and variant is None:
        cfg = config_from_dict(weights.config)
    if cfg:
        model = build_model(cfg, num_classes)
    elif variant is not None:
        model = create_model(variant, num_classes=num_classes)
    else:
        family, arguments = model_arguments(weights.tensors, weights.windows)
        model = CLASSES[family](**arguments)
        model.eval_transform_args = eval_transform_args(model)
    if weights.preprocessing:
        model.eval_transform_args = weights.preprocessing
    load_weights(model, weights, strict=True)
    model.to(device, dtype).eval()
    if cfg:
        transform, channels, exif = build_eval_transform(cfg), cfg.architecture.IN_CHANS, cfg.DATA.EXIF
        return Predictor(model, transform, channels, model.classes, device, exif, weights.threshold, dtype)
    return replace(make_predictor(model, device), threshold=weights.threshold)


def _check_exported(checkpoint: ImagePath, its_own: str, device: str, **others: Any) -> None:
    """Raise a ConfigError for arguments that say of an exported file what has been decided with it."""
    engine = others.pop("engine")
    if its_own not in EXPORTED_FOR:  # torch takes pickles and expressions out of it, and evaluates them
        raise ConfigError(
            f"{checkpoint} is not opened: a .pt2 file can run any code. Give its checkpoint, or an ONNX or OpenVINO "
            "file; if you trust who wrote it, docs/export.md shows how torch opens it."
        )
    if engine not in (None, its_own):
        raise ConfigError(f"{checkpoint} runs in {its_own}, not in {engine}: export its checkpoint with --to for that.")
    if device not in ("auto", "cpu"):
        raise ConfigError(f"{checkpoint} runs on the CPU, not on {device}: its checkpoint runs on other devices.")
    if given := [name for name, value in others.items() if value is not None]:
        raise ConfigError(f"{checkpoint} is an exported file, for which {given[0]} is fixed: leave it out.")

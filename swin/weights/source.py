"""Weights of any program found in a file: unwrapped, named natively, with what the file and their shapes say."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swin.errors import CheckpointError
from swin.weights.adapters import merge_adapters
from swin.weights.buffers import DERIVED_BUFFERS, read_windows
from swin.weights.files import find_weight_file, read_weight_file
from swin.weights.folder import ModelFolder, read_folder
from swin.weights.formats import FORMATS, detect_format, to_native
from swin.weights.layouts import find_family
from swin.weights.shapes import claimed_windows, configured_windows, model_arguments

_WRAPPERS = ("model", "state_dict")
_AVERAGES = ("ema", "state_dict_ema", "model_ema")
# What DistributedDataParallel, torch.compile and larger models put before the names, one after the other in any order.
_PREFIX = re.compile(r"^((module|_orig_mod|backbone|model|swin|swinv2|encoder)\.)+")
_COUNTERS = ("n_averaged",)  # beside the averages of torch.optim.swa_utils


@dataclass(frozen=True)
class Weights:
    """Weights of a model of the Swin family.

    Attributes:
        name: the file, for messages.
        tensors: by native name, without derived buffers.
        original: the file's tensors by its own names, prefixes removed and low-rank adapters merged.
        format: the program whose names they had, one of `FORMATS`.
        program: what wrote the file, for people; None where its contents do not say.
        classes: class names that the file carries, in the order of the head's rows.
        is_averaged: whether these are the exponential moving average that the file carries beside the last weights.
        config: nested dict of the config that a training run of this project saves.
        threshold: of a run with any number of labels an image, the probability from which on a class is predicted, as
            found on its validation images; None for one label an image.
        windows: of a Swin V2, for each stage the side of its window and of the one in which its weights learned what a
            distance means; None where neither the file nor its config or folder says them.
        preprocessing: arguments of `swin.preprocess.make_eval_transform` and `channels`, where a folder of timm or
            transformers says how images become the model's input.
    """

    name: str
    tensors: dict[str, Tensor]
    original: dict[str, Tensor]
    format: str
    program: str | None = None
    classes: list[str] | None = None
    is_averaged: bool = False
    config: dict[str, Any] | None = None
    threshold: float | None = None
    windows: list[tuple[int, int]] | None = None
    preprocessing: dict[str, Any] | None = None

    def count_classes(self) -> int:
        """Return the rows of the head.

        Raises:
            CheckpointError: there is none.
        """
        if "head.bias" not in self.tensors:
            raise CheckpointError(f"{self.name} holds a backbone without a head, which names no classes: fine-tune it.")
        return len(self.tensors["head.bias"])


def read_weights(
    source: str | Path | Mapping[str, Any], *, source_format: str | None = None, prefer_ema: bool = True
) -> Weights:
    """Read weights of any known program.

    Args:
        source: a `.pth` or `.safetensors` file, or what is in one: a state dict, bare or wrapped; or the folder
            of a run, for its best checkpoint, or of a published model of this program, timm or transformers, which
            says more than the file in it.
        source_format: one of `FORMATS`; None to detect it.
        prefer_ema: take averaged weights where there are some.

    Raises:
        CheckpointError: the file cannot be read, or holds no weights of a Swin Transformer.
    """
    if source_format not in (None, *FORMATS):
        raise CheckpointError(f"there is no weight format {source_format!r}; choose from {', '.join(FORMATS)}.")
    origin, about = source, None
    source = source if isinstance(source, Mapping) else find_weight_file(source)
    if not isinstance(origin, Mapping) and not isinstance(source, Mapping) and source.parent == Path(origin):
        about = read_folder(source.parent)
    name = "the state dict" if isinstance(source, Mapping) else str(source)
    content = _mapping(source if isinstance(source, Mapping) else read_weight_file(source))
    # Of a run of this program that pre-trains, also what it adds to the model, as official files have it.
    plain = _unwrap(content) | _unwrap(_mapping(_mapping(content.get("objective")).get("reconstruction")))
    averaged = next((found for key in _AVERAGES if (found := _unwrap(_mapping(content.get(key))))), {})
    is_averaged = bool(averaged) and (prefer_ema or not plain)
    # Averages may cover the parameters alone.
    tensors = merge_adapters({**plain, **averaged} if is_averaged else plain, content.get("config"), name)
    if not tensors:
        raise CheckpointError(
            f"{name} holds no weights: expected a state dict, bare or under {', '.join(map(repr, _WRAPPERS))}."
        )
    if (found_format := source_format or detect_format(tensors)) is None:
        raise CheckpointError(
            f"{name} holds no weights of a Swin Transformer in a known format ({', '.join(FORMATS)}); its first names "
            f"are {', '.join(list(tensors)[:3])}."
        )
    native = to_native(tensors, found_format, with_buffers=True)
    windows = read_windows(native)
    native = {key: value for key, value in native.items() if not key.endswith(DERIVED_BUFFERS)}
    if broken := [key for key, value in native.items() if not torch.isfinite(value).all()]:
        raise CheckpointError(f"{name} is damaged: {broken[0]} has NaN or infinite values; use another file.")
    config = content.get("config")
    config = config if type(config) is dict else None  # official checkpoints hold a yacs node, whose keys may differ
    classes, threshold = _classes(content, native, name), _threshold(content, name)
    program = _find_program(content, found_format)
    windows = windows or configured_windows(config, find_family(native))
    weights = Weights(name, native, tensors, found_format, program, classes, is_averaged, config, threshold, windows)
    return _described(weights, about) if about else weights


def _described(weights: Weights, about: ModelFolder) -> Weights:
    """Add what the folder says to what the file does."""
    if weights.windows is None and find_family(weights.tensors) == "swinv2":
        known = configured_windows(about.config, "swinv2") or claimed_windows(about.claims, weights.tensors)
        weights = replace(weights, windows=known)
    about.check(*model_arguments(weights.tensors, weights.windows))
    classes = about.classes or weights.classes
    _check_classes(classes, weights.tensors, str(about.path))
    weights = replace(weights, program=about.program, classes=classes, config=about.config)
    return replace(weights, threshold=about.threshold, preprocessing=about.preprocessing)


def _find_program(content: Mapping[Any, Any], format_name: str) -> str | None:
    """Say what wrote a file: weights with official names are written by several programs."""
    if isinstance(config := content.get("config"), Mapping):
        return "this program" if type(config) is dict else "the official repository"
    if "arch" in content and "state_dict" in content:
        return "timm's train.py"
    return None if format_name == "official" else format_name


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _unwrap(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict, which may be wrapped, with prefixes of their names removed; {} if there are none."""
    for key in _WRAPPERS:
        if isinstance(content.get(key), Mapping):
            return _unwrap(content[key])
    tensors: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or key in _COUNTERS:
            continue
        short = strip_prefixes(str(key))
        if short in tensors:
            raise CheckpointError(
                f"the file holds {short} twice, the second time as {key}: two models. Save one of them by itself."
            )
        tensors[short] = value
    return tensors


def strip_prefixes(name: str) -> str:
    """Remove what wrappers of a model put before the names of its tensors."""
    return _PREFIX.sub("", name).replace("_orig_mod.", "")  # the latter of a compiled part of a model


def _classes(content: Mapping[Any, Any], native: Mapping[str, Tensor], name: str) -> list[str] | None:
    """Class names: of this project's checkpoints, or of mmpretrain's."""
    meta = _mapping(content.get("meta"))
    named = (content.get("classes"), meta.get("CLASSES"), _mapping(meta.get("dataset_meta")).get("classes"))
    classes = next((list(map(str, found)) for found in named if isinstance(found, list | tuple) and found), None)
    _check_classes(classes, native, name)
    return classes


def _check_classes(classes: list[str] | None, native: Mapping[str, Tensor], name: str) -> None:
    rows = [len(native[key]) for key in ("head.weight", "head.bias") if key in native and native[key].ndim]
    if classes and set(rows) - {len(classes)}:
        raise CheckpointError(f"{name} is damaged: its head has {rows[0]} rows, but it names {len(classes)} classes.")


def _threshold(content: Mapping[Any, Any], name: str) -> float | None:
    if not content.get("multi_label"):
        return None
    threshold = content.get("threshold")
    if not isinstance(threshold, float | int) or not 0 <= threshold <= 1:
        raise CheckpointError(
            f"{name} is damaged: its threshold of several labels an image is {threshold!r}, expected a number from 0 "
            "to 1. Use another checkpoint."
        )
    return float(threshold)

"""Teachers of any origin: runs and weight files of Swin Transformers, and models of timm and torchvision."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from swin.config import Config, load_config
from swin.distill.teacher import ForwardWithMap, LoadedModel
from swin.errors import CheckpointError, ConfigError
from swin.inference import load_torch_predictor
from swin.models import Backbone
from swin.preprocess import EvalResize, EvalTransform, Normalise, build_eval_transform
from swin.weights.files import find_weight_file, read_weight_file

_STATES = ("state_dict_ema", "model_ema", "state_dict", "model")  # what files call weights, the first that is there


def open_teacher(source: str, config: str = "") -> LoadedModel:
    """Open a teacher on the CPU.

    Args:
        source: What --pretrained takes; or timm:NAME[:FILE] or torchvision:NAME[:FILE], a model of that library with
            its own weights, which are downloaded, or with those of a file.
        config: A YAML file that says how the model is built, where its weight file does not, and how it sees images;
            of other libraries' models only the latter.

    Raises:
        ConfigError: The name is unknown, or the config cannot be used.
        CheckpointError: The weights cannot be had, or do not fit.
    """
    cfg = load_config(config) if config else None
    library, _, rest = source.partition(":")
    name, _, file = rest.partition(":")
    if library == "timm":
        return _open_timm(source, name, file, cfg)
    if library == "torchvision":
        return _open_torchvision(source, name, file, cfg)
    predictor = load_torch_predictor(source, device="cpu", cfg=cfg)
    model, transform = predictor.model, predictor.transform
    assert isinstance(model, Backbone)
    assert isinstance(transform, EvalTransform)
    if predictor.threshold is not None:
        raise ConfigError(f"the teacher {source} gives an image any number of labels; use one with one label an image.")

    def forward_with_map(images: Tensor) -> tuple[Tensor, Tensor]:
        map_BhwD = model.forward_features(images)
        return model.classify(map_BhwD), map_BhwD.permute(0, 3, 1, 2)

    return LoadedModel(source, model, forward_with_map, *_parts(transform), predictor.channels, predictor.classes)


def _parts(transform: EvalTransform) -> tuple[EvalResize, Normalise]:
    return transform.resize, transform.normalise


def _open_timm(source: str, name: str, file: str, cfg: Config | None) -> LoadedModel:
    import timm
    from timm.data import resolve_model_data_config

    if not timm.is_model(name):
        raise _unknown(source, "timm", name, timm.list_models())
    options: dict[str, Any] = {"pretrained": not file}
    weights = _read_state(file) if file else {}
    try:
        about = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # of a wrong tag
        raise _unavailable(source, error) from None
    for option, layer, axis in (
        ("num_classes", about and about.classifier, 0),
        ("in_chans", about and about.first_conv, 1),
    ):
        layer = layer[0] if isinstance(layer, tuple | list) else layer
        if (tensor := weights.get(f"{layer}.weight")) is not None and tensor.ndim > axis:
            options[option] = tensor.shape[axis]
    sized = {"img_size": cfg.DATA.IMG_SIZE} if cfg else {}
    try:
        model = _create_timms(name, options, sized)
    except Exception as error:  # of a network, a server, a cache, a wrong tag or an image size
        raise _unavailable(source, error) from None
    _load(model, weights, source)
    data = resolve_model_data_config(model)
    channels = options.get("in_chans", data["input_size"][0])
    mean, std = (_fit_channels(data[key], channels) for key in ("mean", "std"))
    how = {"crop": data["crop_pct"] < 1, "interpolation": _interpolation(data["interpolation"])}
    resize, normalise = EvalResize(img_size=data["input_size"][1:], **how), Normalise(mean, std)
    if cfg:
        resize, normalise = _parts(build_eval_transform(cfg))

    def forward_with_map(images: Tensor) -> tuple[Tensor, Tensor]:
        features, maps = model.forward_intermediates(images, indices=1, norm=True)
        return model.forward_head(features), maps[-1]

    return LoadedModel(source, model, forward_with_map, resize, normalise, channels, None)


def _create_timms(name: str, options: Mapping[str, Any], sized: Mapping[str, Any]) -> Any:
    import timm

    try:
        return timm.create_model(name, **options, **sized)
    except TypeError:  # a model that takes images of any size
        return timm.create_model(name, **options)


def _open_torchvision(source: str, name: str, file: str, cfg: Config | None) -> LoadedModel:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise _unknown(source, "torchvision", name, models.list_models(module=models))
    weights = _read_state(file) if file else {}
    heads = [key for key in weights if key.startswith(("fc.", "head", "classifier.")) and key.endswith(".weight")]
    heads = [key for key in heads if weights[key].ndim > 1]
    options: dict[str, Any] = {"num_classes": len(weights[heads[-1]])} if heads else {}
    try:
        model = models.get_model(name, weights=None if file else "DEFAULT", **options)
    except Exception as error:
        raise _unavailable(source, error) from None
    _load(model, weights, source)
    preset = models.get_model_weights(name).DEFAULT.transforms()
    resize = EvalResize(img_size=preset.crop_size[0], crop=True, interpolation=preset.interpolation.value)
    normalise = Normalise(preset.mean, preset.std)
    if cfg:
        resize, normalise = _parts(build_eval_transform(cfg))
    return LoadedModel(source, model, _map_before_pooling(model), resize, normalise, 3, None)


def _map_before_pooling(model: nn.Module) -> ForwardWithMap:
    """Return the map that a model of torchvision averages, which most of them do in a module `avgpool`."""

    def forward_with_map(images: Tensor) -> tuple[Tensor, Tensor]:
        kept: list[Tensor] = []
        hook = model.get_submodule("avgpool").register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        try:
            return model(images), kept[0]
        finally:
            hook.remove()

    return forward_with_map


def _read_state(file: str) -> dict[str, Tensor]:
    """Read a file's state dict, averaged weights where it has some, without what wrappers put before the names."""
    from timm.models import clean_state_dict

    path = find_weight_file(file)
    content = read_weight_file(path)
    content = content if isinstance(content, Mapping) else {}
    state = next((content[key] for key in _STATES if isinstance(content.get(key), Mapping)), content)
    tensors = {name: value for name, value in clean_state_dict(dict(state)).items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no weights: expected a state dict, bare or under {', '.join(_STATES)}.")
    if broken := [name for name, value in tensors.items() if not torch.isfinite(value).all()]:
        raise CheckpointError(f"{path} is damaged: {broken[0]} has NaN or infinite values; use another file.")
    return tensors


def _load(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    try:
        if weights:
            model.load_state_dict(weights)
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:]]
        raise CheckpointError(f"the weights of {source} are not those of this model: {' '.join(reasons[:2])}") from None


def _fit_channels(values: Iterable[float], channels: int) -> list[float]:
    """Return a value for each channel: of other channels than red, green and blue, the mean over all three."""
    values = list(values)
    return values if len(values) == channels else [sum(values) / len(values)] * channels


def _interpolation(name: str) -> str:
    return name if name in ("nearest", "bilinear", "bicubic", "lanczos") else "bicubic"


def _unknown(source: str, library: str, name: str, known: Iterable[str]) -> ConfigError:
    near = difflib.get_close_matches(name, list(known), n=3)
    hint = (
        f"; did you mean {' or '.join(near)}?" if near else f"; expected {library}:NAME[:FILE], as {library}:resnet18."
    )
    return ConfigError(f"TRAIN.DISTILL.TEACHER is {source}, and {library} has no model {name!r}{hint}")


def _unavailable(source: str, error: Exception) -> CheckpointError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    library, _, rest = source.partition(":")
    advice = f" Without a network, give its weights as a file: {library}:NAME:FILE." if ":" not in rest else ""
    return CheckpointError(f"the teacher {source} cannot be had ({reason}).{advice}")

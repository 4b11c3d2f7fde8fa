"""Making models: by name, or from a config."""

import inspect
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from swin.config import Config
from swin.config.keys.model import GROUP_OF_TYPE
from swin.errors import CheckpointError, ConfigError
from swin.models import CLASSES, Backbone, SwinTransformerV2
from swin.variants import find_variant
from swin.weights import Weights, find_pretrained_windows, load_weights, model_arguments, read_weights

_WINDOWS = "MODEL.SWINV2.PRETRAINED_WINDOW_SIZES"


def create_model(name: str, *, pretrained: str | Path | None = None, **changes: Any) -> Backbone:
    """A model by name.

    Its attribute `eval_transform_args` says how `swin.inference_model` turns images into its input.

    Args:
        name: one of `list_models()`, or the same model's name in timm.
        pretrained: weight file or folder to start from, see `read_weights`; None for a fresh initialisation.
        changes: arguments of the family's class, as `SwinTransformer`, to set or to put in place of the variant's, such
            as num_classes, img_size, in_chans or drop_path_rate.

    Raises:
        ConfigError: unknown name or argument, or numbers that do not fit together.
        CheckpointError: the weight file cannot be used.
    """
    variant = find_variant(name)
    family = CLASSES[variant.family]
    known = inspect.signature(family).parameters
    for argument in changes:
        if argument not in known:
            near = get_close_matches(argument, known, n=1, cutoff=0.0)
            raise ConfigError(f"create_model has no argument '{argument}'; did you mean '{near[0]}'?")
    arguments = {key: value for key, value in vars(variant).items() if key in known}
    model = family(**{**arguments, **variant.more, **changes})
    model.eval_transform_args = eval_transform_args(model)
    if pretrained is not None:
        weights = read_weights(pretrained)
        load_weights(model, weights)
        if (how := weights.preprocessing) and how["channels"] == model.eval_transform_args["channels"]:
            model.eval_transform_args = {**how, "img_size": model.img_size}
    return model


def eval_transform_args(model: Backbone) -> dict[str, Any]:
    """Arguments of `swin.preprocess.make_eval_transform` for images of a published model.

    Models for 384 px and more see the whole image. Channels that are not red, green and blue get ImageNet's mean and
    deviation over all three.
    """
    channels = model.patch_embed.proj.in_channels
    grey = {} if channels == 3 else {"mean": (0.449,) * channels, "std": (0.226,) * channels}
    return {"crop": max(model.img_size) < 384, "channels": channels, **grey}


def config_tree(weights: Weights) -> dict[str, Any]:
    """The nested config of weights: the one that they carry, or what their shapes and their folder say.

    Raises:
        CheckpointError: they are not those of one model of the family.
    """
    if weights.config is not None:
        return weights.config
    family, arguments = model_arguments(weights.tensors, weights.windows)
    how = {"img_size": arguments["img_size"], **eval_transform_args(CLASSES[family](**arguments))}
    how |= weights.preprocessing or {}
    shape = {key.upper(): _plain(arguments[key]) for key in arguments if key not in ("num_classes", "img_size")}
    data = {key.upper(): _plain(how[key]) for key in ("img_size", "interpolation", "mean", "std") if key in how}
    test = {key.upper(): how[key] for key in ("crop", "crop_pct") if key in how}
    model = {"NAME": Path(weights.name).stem, "TYPE": family, GROUP_OF_TYPE[family]: shape}
    return {"MODEL": model, "DATA": data, "TEST": test}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def build_model(cfg: Config, num_classes: int) -> Backbone:
    """The model that a config describes, with `num_classes` outputs."""
    arguments = {key.lower(): value for key, value in cfg.architecture.items()}  # named as the arguments are
    if not any(arguments.get("pretrained_window_sizes", [])):
        arguments.pop("pretrained_window_sizes", None)  # the default has a value for each of four stages
    if cfg.MODEL.TYPE != "swin_mlp":
        arguments["attention"] = cfg.MODEL.ATTENTION
    return CLASSES[cfg.MODEL.TYPE](
        **arguments,
        img_size=cfg.DATA.IMG_SIZE,
        num_classes=num_classes,
        drop_rate=cfg.MODEL.DROP_RATE,
        drop_path_rate=cfg.MODEL.DROP_PATH_RATE,
        use_checkpoint=cfg.TRAIN.USE_CHECKPOINT,
    )


def complete_config(cfg: Config) -> Config:
    """Put into a config the windows in which the weights of MODEL.PRETRAINED learned, where the model's are others.

    They are then in what a run saves, so that what reads its checkpoints needs that file no more.

    Raises:
        CheckpointError: the file cannot be read; the run that resumes needs it, too.
    """
    is_asked = cfg.MODEL.TYPE == "swinv2" and cfg.MODEL.PRETRAINED and not cfg.MODEL.RESUME
    if not is_asked or any(cfg.architecture.PRETRAINED_WINDOW_SIZES):
        return cfg
    with torch.device("meta"):
        model = build_model(cfg, 1)
    assert isinstance(model, SwinTransformerV2)
    try:
        weights = read_weights(cfg.MODEL.PRETRAINED)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} It says in which windows a Swin V2 has learned; without it give them: --opts {_WINDOWS} ..."
        ) from None
    if (sizes := find_pretrained_windows(model, weights)) is None:
        return cfg
    return cfg.with_value(_WINDOWS, sizes, cfg.MODEL.PRETRAINED)

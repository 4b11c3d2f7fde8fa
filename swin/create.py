"""Making models: by name, or from a config."""

import inspect
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from swin.config import Config
from swin.errors import ConfigError
from swin.models import SwinTransformer
from swin.variants import find_variant
from swin.weights import Weights, load_weights, model_arguments, read_weights


def create_model(name: str, *, pretrained: str | Path | None = None, **changes: Any) -> SwinTransformer:
    """A model by name.

    Its attribute `eval_transform_args` says how `swin.inference_model` turns images into its input.

    Args:
        name: one of `list_models()`, or the same model's name in timm.
        pretrained: weight file or folder to start from, see `read_weights`; None for a fresh initialisation.
        changes: arguments of `SwinTransformer` to set or to put in place of the variant's, such as num_classes,
            img_size, in_chans or drop_path_rate.

    Raises:
        ConfigError: unknown name or argument, or numbers that do not fit together.
        CheckpointError: the weight file cannot be used.
    """
    variant, known = vars(find_variant(name)), inspect.signature(SwinTransformer).parameters
    for argument in changes:
        if argument not in known:
            near = get_close_matches(argument, known, n=1, cutoff=0.0)
            raise ConfigError(f"create_model has no argument '{argument}'; did you mean '{near[0]}'?")
    model = SwinTransformer(**{key: value for key, value in {**variant, **changes}.items() if key in known})
    model.eval_transform_args = eval_transform_args(model)
    if pretrained is not None:
        weights = read_weights(pretrained)
        load_weights(model, weights)
        if (how := weights.preprocessing) and how["channels"] == model.eval_transform_args["channels"]:
            model.eval_transform_args = {**how, "img_size": model.img_size}
    return model


def eval_transform_args(model: SwinTransformer) -> dict[str, Any]:
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
        CheckpointError: they are not those of one Swin Transformer V1.
    """
    if weights.config is not None:
        return weights.config
    arguments = model_arguments(weights.tensors)
    how = {"img_size": arguments["img_size"], **eval_transform_args(SwinTransformer(**arguments))}
    how |= weights.preprocessing or {}
    swin = {key.upper(): _plain(arguments[key]) for key in arguments if key not in ("num_classes", "img_size")}
    data = {key.upper(): _plain(how[key]) for key in ("img_size", "interpolation", "mean", "std") if key in how}
    test = {key.upper(): how[key] for key in ("crop", "crop_pct") if key in how}
    return {"MODEL": {"NAME": Path(weights.name).stem, "SWIN": swin}, "DATA": data, "TEST": test}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def build_model(cfg: Config, num_classes: int) -> SwinTransformer:
    """The model that a config describes, with `num_classes` outputs."""
    return SwinTransformer(
        **{key.lower(): value for key, value in cfg.MODEL.SWIN.items()},  # named as the arguments are
        img_size=cfg.DATA.IMG_SIZE,
        num_classes=num_classes,
        drop_rate=cfg.MODEL.DROP_RATE,
        drop_path_rate=cfg.MODEL.DROP_PATH_RATE,
        use_checkpoint=cfg.TRAIN.USE_CHECKPOINT,
        attention=cfg.MODEL.ATTENTION,
    )

"""A model as a folder: what this program, timm and transformers publish beside weights, checked against these.

Nothing in a folder is run, and only regular files of bounded size are read. Links are followed: in the cache of the
Hugging Face hub all files are links.
"""

import hashlib
import json
import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from swin.config import config_from_dict, config_to_dict
from swin.config.plain_yaml import PlainLoader
from swin.errors import CheckpointError, ConfigError, printable
from swin.files import open_regular
from swin.images import MODES
from swin.preprocess import INTERPOLATIONS, TENSOR_MODES
from swin.variants import find_variant

OURS = "this program"
SUMS = "SHA256SUMS"
CONFIG, CLASSES, PREPROCESSING = "config.yaml", "classes.json", "preprocessing.json"  # beside the weights in our own
_REMEDY = "Copy the whole folder again, or give the weight file in it for the weights alone."
_MAX_BYTES = 1 << 24  # names of 22,000 classes take 2 MB
_MAX_YAML_NODES = 100_000
_MAX_SIDE_PX = 1 << 14
_DEFAULT_THRESHOLD = 0.5  # what users of transformers take for any number of labels an image
# Numbers of PIL.Image.Resampling, as transformers writes them.
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
# What transformers and timm call arguments of SwinTransformer, where they do not call them the same.
_THEIR_NAMES = {"num_channels": "in_chans", "use_absolute_embeddings": "ape", "image_size": "img_size"}
_COMPARED = (
    "patch_size",
    "in_chans",
    "embed_dim",
    "depths",
    "num_heads",
    "window_size",
    "mlp_ratio",
    "qkv_bias",
    "ape",
)
# What a model of transformers may have in another way, and ours has in this one.
_FIXED = {"hidden_act": "gelu", "layer_norm_eps": 1e-5}


@dataclass(frozen=True)
class ModelFolder:
    """What a folder says of the weights in it.

    Attributes:
        path: the folder.
        program: what published it, for people.
        family: of its model, as MODEL.TYPE; None where it does not say.
        claims: arguments of the family's class, also `img_size` and `num_classes`, as far as it gives them.
        classes: names in the order of the head's rows; None where it gives none.
        config: nested dict of the run's config, of folders of this program.
        threshold: as of `Weights`.
        preprocessing: arguments of `swin.preprocess.make_eval_transform` and `channels`; None where it does not say.
    """

    path: Path
    program: str
    family: str | None
    claims: dict[str, Any] = field(default_factory=dict)
    classes: list[str] | None = None
    config: dict[str, Any] | None = None
    threshold: float | None = None
    preprocessing: dict[str, Any] | None = None

    def check(self, family: str, arguments: Mapping[str, Any]) -> None:
        """Compare what the folder says with what shapes of the weights say, see `model_arguments`.

        Raises:
            CheckpointError: they differ.
        """
        if self.family not in (None, family):
            raise _refused(self.path, f"says that its model is a {self.family}, but its weights are of a {family}")
        known = [name for name in _COMPARED if name in arguments]
        compared = [*known, "num_classes", *(["img_size"] if arguments["ape"] else [])]
        for name in compared:
            said, found = _plain(self.claims.get(name)), _plain(arguments[name])
            is_same = said in (None, found) or (name in ("patch_size", "img_size") and said == [found, found])
            if name == "mlp_ratio" and type(said) in (int, float) and math.isfinite(said):
                is_same = int(arguments["embed_dim"] * said) == round(arguments["embed_dim"] * found)
            if not is_same:
                raise _refused(self.path, f"says {name} {_shown(said)}, but its weights have {found}")
        taken = arguments["in_chans"]
        if (channels := (self.preprocessing or {}).get("channels", taken)) != taken:
            raise _refused(self.path, f"prepares images of {channels} channels for weights that take {taken}")


def read_folder(folder: Path) -> ModelFolder | None:
    """Read what is published beside a folder's weights; None where nothing is.

    Raises:
        CheckpointError: a file is missing, damaged or not as its SHA-256 says, or says what no Swin Transformer has.
    """
    if (folder / SUMS).exists():
        _check_sums(folder)
    try:
        if (folder / PREPROCESSING).exists():
            return _read_ours(folder)
        config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
        if "model_type" in config:
            return _read_transformers(folder, config)
        return _read_timm(folder, config) if "architecture" in config else None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _refused(folder, f"describes its model in a way that is not known ({_words(error)})") from None


def read_json(path: Path, kind: type = dict) -> Any:
    """Read a JSON file of a folder whose content is of a kind.

    Raises:
        CheckpointError: it is missing, larger than any that is meant, no JSON, or of another kind.
    """
    try:
        content = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"is no JSON ({_words(error)})") from None
    if not isinstance(content, kind):
        raise _refused(path, f"holds a JSON {type(content).__name__}, expected a {kind.__name__}")
    return content


def _read_ours(folder: Path) -> ModelFolder:
    if not (folder / SUMS).exists():
        raise _refused(folder, f"has no {SUMS}, so that it is not whole")
    try:
        tree = PlainLoader(_read(folder / CONFIG), _MAX_YAML_NODES).get_single_data()
        cfg = config_from_dict(tree)
    except (yaml.YAMLError, RecursionError, ConfigError) as error:
        raise _refused(folder / CONFIG, f"is no config ({_words(error)})") from None
    claims = {key.lower(): value for key, value in cfg.architecture.items()}
    how = read_json(folder / PREPROCESSING)
    is_several = {"softmax": False, "sigmoid": True}[how["activation"]]
    classes = _names(read_json(folder / CLASSES, list)) if (folder / CLASSES).exists() else None
    threshold = _threshold(how["threshold"]) if is_several else None
    return ModelFolder(folder, OURS, cfg.MODEL.TYPE, claims, classes, config_to_dict(cfg), threshold)


def _read_transformers(folder: Path, config: Mapping[str, Any]) -> ModelFolder:
    if (family := config["model_type"]) not in ("swin", "swinv2"):
        what = f"is of a {_shown(family)} of transformers"
        raise _refused(folder, f"{what}, and this version reads those of model_type swin or swinv2")
    for name, value in _FIXED.items():
        if config.get(name, value) != value:
            raise _refused(folder, f"has {name} {_shown(config[name])}, and models of this program have {value}")
    claims = {_THEIR_NAMES.get(name, name): value for name, value in config.items()}
    by_row = {int(row): name for row, name in (config.get("id2label") or {}).items()}
    classes = _names([by_row[row] for row in range(len(by_row))]) if by_row else None
    if classes and all(name == f"LABEL_{row}" for row, name in enumerate(classes)):
        classes = None
    is_several = config.get("problem_type") == "multi_label_classification"
    threshold = _threshold(config.get("threshold", _DEFAULT_THRESHOLD)) if is_several else None
    file = folder / "preprocessor_config.json"
    preprocessing = _squashed(file, read_json(file), config) if file.exists() else None
    return ModelFolder(folder, "transformers", family, claims, classes, None, threshold, preprocessing)


def _squashed(file: Path, how: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `make_eval_transform` for transformers' ViTImageProcessor, which always sees the whole image.

    Source: transformers, models/vit/image_processing_vit.py.
    """
    size = how.get("size", 224)
    size = (size, size) if isinstance(size, int) else (size.get("height"), size.get("width"))
    is_known = how.get("do_resize", True) and how.get("do_rescale", True) and not how.get("do_center_crop")
    scale = how.get("rescale_factor", 1 / 255)
    if not is_known or None in size or abs(scale * 255 - 1) > 1e-6:
        raise _refused(file, "is of another preprocessing than resizing to a size, scaling to 1 and normalising")
    channels = config.get("num_channels", 3)
    mean, std = [0.0] * channels, [1.0] * channels
    if how.get("do_normalize", True):  # transformers' default is not that of ImageNet
        mean, std = (how.get(f"image_{name}", [0.5] * channels) for name in ("mean", "std"))
    interpolation = RESAMPLING[how.get("resample", 2)]
    return _checked(img_size=size, crop=False, interpolation=interpolation, mean=mean, std=std, channels=channels)


def _read_timm(folder: Path, config: Mapping[str, Any]) -> ModelFolder:
    how = config.get("pretrained_cfg", config)  # older versions have all in one
    family = str(config["architecture"]).partition("_")[0]
    if family not in ("swin", "swinv2") or "_cr_" in config["architecture"] or "_s3_" in config["architecture"]:
        what = f"is of a {_shown(config['architecture'])} of timm"
        raise _refused(folder, f"{what}, and this version reads those whose names begin with swin_ or swinv2_")
    claims = {**_timm_shape(config["architecture"]), **config.get("model_args", {})}
    claims["num_classes"] = config.get("num_classes", how.get("num_classes"))
    labels = config.get("label_names", how.get("label_names", how.get("labels")))
    channels, *size = how.get("input_size", (3, 224, 224))
    claims.setdefault("img_size", size)
    mode, crop_pct = how.get("crop_mode", "center"), how.get("crop_pct", 0.875)
    if mode != "center" and not (mode == "squash" and crop_pct == 1.0):
        raise _refused(folder, f"crops with timm's {_shown(mode)} and crop_pct {_shown(crop_pct)}, not known here")
    crop = {"crop": True, "crop_pct": crop_pct} if mode == "center" else {"crop": False}
    values = {name: how.get(name, default) for name, default in _TIMM_DEFAULTS.items()}
    preprocessing = _checked(img_size=tuple(size), channels=channels, **crop, **values)
    threshold = _threshold(config["threshold"]) if "threshold" in config else None
    classes = _names(list(labels)) if labels else None
    return ModelFolder(folder, "timm", family, claims, classes, None, threshold, preprocessing)


def _timm_shape(architecture: str) -> dict[str, Any]:
    """Arguments that a name of timm stands for where the folder does not give them; {} for a name that is not known."""
    try:
        variant = find_variant(architecture)
    except ConfigError:
        return {}
    return variant.shape


# Source: timm, models/_pretrained.py.
_TIMM_DEFAULTS = {"interpolation": "bicubic", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def _checked(*, img_size: tuple[Any, ...], channels: Any, mean: Any, std: Any, **how: Any) -> dict[str, Any]:
    """Return the arguments; a ValueError says which of them are none."""
    sides = [*img_size, channels]
    if len(sides) != 3 or not all(type(side) is int and 1 <= side <= _MAX_SIDE_PX for side in sides):
        raise ValueError(f"images of {_shown(sides)} (height, width, channels)")
    mean, std = ([float(value) for value in values] for values in (mean, std))
    is_finite = all(map(math.isfinite, (*mean, *std)))
    if not len(mean) == len(std) == channels or not is_finite or min(std) <= 0:
        raise ValueError(f"mean or std are not {channels} numbers")
    if how["interpolation"] not in (INTERPOLATIONS if channels in MODES else TENSOR_MODES):
        raise ValueError(f"interpolation {_shown(how['interpolation'])}")
    if not 0 < how.get("crop_pct", 1.0) <= 1:
        raise ValueError("crop_pct is not above 0 and up to 1")
    return {"img_size": img_size, "channels": channels, "mean": mean, "std": std, **how}


def _names(names: list[Any]) -> list[str]:
    if not names or not all(type(name) is str for name in names):
        raise ValueError("names of classes that are no texts")
    return names


def _threshold(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ValueError("a threshold that is not from 0 to 1")
    return float(value)


def _shown(value: Any) -> str:
    return printable(reprlib.repr(value))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_sums(folder: Path) -> None:
    """Compare files with their SHA-256, as `sha256sum -c` does; the card may have been edited since.

    Raises:
        CheckpointError: a file is missing or another one, or a line names none of this folder.
    """
    for line in _read(folder / SUMS).splitlines():
        match = re.fullmatch(r"([0-9a-f]{64}) [ *]([\w.-]+)", line)
        if match is None or match[2] in (".", ".."):
            raise _refused(folder / SUMS, f"has the line {_shown(line)}, which names no file beside it")
        try:
            with open(open_regular(folder / match[2]), "rb") as file:
                is_same = match[2] == "README.md" or hashlib.file_digest(file, "sha256").hexdigest() == match[1]
        except OSError as error:
            raise _refused(folder, f"lacks {match[2]}, which its {SUMS} names ({error.strerror})") from None
        if not is_same:
            raise _refused(folder / match[2], f"is another file than the one that {SUMS} was made of")


def _read(path: Path) -> str:
    try:
        with open(open_regular(path), "rb") as file:
            content = file.read(_MAX_BYTES + 1)
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise _refused(path, "is no UTF-8 text") from None
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror or error}") from None
    if len(content) > _MAX_BYTES:
        raise _refused(path, f"has more than {_MAX_BYTES:,} bytes")
    return text


def _refused(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{printable(str(path))} {what}. {_REMEDY}")


def _words(error: Exception) -> str:
    return printable(next(iter(str(error).splitlines()), ""))[:200] or type(error).__name__

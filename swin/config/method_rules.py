"""Rules between keys of a method of training: pre-training, several labels an image, distillation. See `rules.py`."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from swin.config.memory import model_group
from swin.config.messages import show_value


def sides_of(size: int | Sequence[int]) -> Sequence[int]:
    """Return [height, width] of a size in pixels."""
    return [size, size] if isinstance(size, int) else size


def errors_of_pretraining(v: Mapping[str, Any]) -> Iterator[str]:
    """Yield what does not go with TRAIN.LOSS simmim."""
    if v["TRAIN.LOSS"] != "simmim":
        return
    group, cell = model_group(v), "{DATA.MASK_PATCH_SIZE}"
    patch, stride = v[f"{group}.PATCH_SIZE"], v[f"{group}.PATCH_SIZE"] * 2 ** (len(v[f"{group}.DEPTHS"]) - 1)
    sizes = [v["DATA.IMG_SIZE"], *(size for _, size in v["DATA.IMG_SIZE_SCHEDULE"])]
    if v["DATA.MASK_PATCH_SIZE"] % patch:
        yield f"{cell}: expected a multiple of {{{group}.PATCH_SIZE}}: masked cells are whole patches"
    unit = math.lcm(v["DATA.MASK_PATCH_SIZE"], stride)
    if any(side % unit for size in sizes for side in sides_of(size)):
        yield (
            f"{{DATA.IMG_SIZE}}, like all sizes of DATA.IMG_SIZE_SCHEDULE: pre-training takes whole cells ({cell}) and "
            f"whole tokens of the last stage, {stride} px: give a multiple of {unit}"
        )
    if v["MODEL.SIMMIM.NORM_TARGET.PATCH_SIZE"] % 2 == 0:
        yield "{MODEL.SIMMIM.NORM_TARGET.PATCH_SIZE}: expected an odd number, so that a pixel is in the middle"
    if v["EVAL_MODE"]:
        yield "{EVAL_MODE}: {TRAIN.LOSS} gives no classes to evaluate: fine-tune its weights first, with --pretrained"
    off: dict[str, Any] = {"AUG.MIXUP": 0, "AUG.CUTMIX": 0, "AUG.REPROB": 0, "DATA.VAL_SPLIT": 0, "DATA.FOLDS": 0}
    off |= {"AUG.CUTMIX_MINMAX": None, "DATA.MULTI_LABEL": False, "TRAIN.DISTILL.TEACHER": ""}
    off |= {"DATA.SAMPLER": "shuffle", "TRAIN.CLASS_WEIGHTS": "none", "TRAIN.PATIENCE": 0, "MODEL.LORA.RANK": 0}
    for key, value in off.items():
        if v[key] != value:
            yield f"{{{key}}}: {{TRAIN.LOSS}} pre-trains without labels and evaluations; set it to {show_value(value)}"


def errors_of_several_labels(v: Mapping[str, Any]) -> Iterator[str]:
    """Yield what does not go with DATA.MULTI_LABEL."""
    if not v["DATA.MULTI_LABEL"]:
        return
    if v["TRAIN.LOSS"] == "ce":
        yield (
            "{TRAIN.LOSS} takes each image to have one label, but {DATA.MULTI_LABEL}: set TRAIN.LOSS to bce (binary "
            "cross-entropy of each class) or asl (asymmetric loss, for many classes of which an image has few)"
        )
    if v["TRAIN.CLASS_WEIGHTS"] == "balanced":
        yield (
            "{TRAIN.CLASS_WEIGHTS} weighs an image by its class, and has none to go by with {DATA.MULTI_LABEL}: set it "
            "to none; TRAIN.LOSS asl makes up for classes that few images have"
        )
    if v["DATA.SAMPLER"] == "balanced":
        yield (
            "{DATA.SAMPLER} draws an image for its class, which also draws its other labels with {DATA.MULTI_LABEL}: "
            "set it to shuffle; TRAIN.LOSS asl makes up for classes that few images have"
        )


def errors_of_a_teacher(v: Mapping[str, Any]) -> Iterator[str]:
    """Yield what does not go with TRAIN.DISTILL.TEACHER."""
    teacher, cache = "{TRAIN.DISTILL.TEACHER}", "{TRAIN.DISTILL.CACHE}"
    if not v["TRAIN.DISTILL.TEACHER"]:
        return
    if v["DATA.MULTI_LABEL"]:
        yield f"{teacher} is for images with one label each, but {{DATA.MULTI_LABEL}}: leave the teacher out"
    elif v["TRAIN.LOSS"] != "ce":
        yield f"{teacher} compares softmax probabilities, which {{TRAIN.LOSS}} does not train: set TRAIN.LOSS to ce"
    if not v["TRAIN.DISTILL.ALPHA"] and not v["TRAIN.DISTILL.FEATURES"]:
        yield f"{teacher} teaches nothing with {{TRAIN.DISTILL.ALPHA}} and {{TRAIN.DISTILL.FEATURES}}: raise one"
    if not v["TRAIN.DISTILL.CACHE"]:
        return
    if v["TRAIN.DISTILL.FEATURES"]:
        yield f"{cache} keeps logits alone, and {{TRAIN.DISTILL.FEATURES}} asks for feature maps: set that to 0"
    for key in ("AUG.MIXUP", "AUG.CUTMIX", "AUG.CUTMIX_MINMAX"):
        if v[key]:
            off = "null" if key == "AUG.CUTMIX_MINMAX" else "0"
            yield f"{cache} keeps what is said to whole images, and {{{key}}} mixes them: set {key} to {off}"
    if v["DATA.ON_ERROR"] == "skip":
        yield f"{cache} needs all images, and {{DATA.ON_ERROR}} leaves unreadable ones out: set it to raise"

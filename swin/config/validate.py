"""Checks a whole configuration: each key by itself, then the rules between keys. All errors are found in one pass."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from swin.config.defaults import DEPRECATED, WITHOUT_EFFECT
from swin.config.legal import illegal_values, show_value
from swin.config.memory import SIZES, least_bytes
from swin.config.tree import FLAT_DEFAULTS

# A terabyte: more than any device has, and than a batch of 128 images of 3,072 px takes in the largest published model.
_MAX_BYTES = 10**12


class Values:
    """A flat configuration, and how to show a value in a message."""

    def __init__(self, values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
        self._values = values
        self.sources = sources

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def show(self, key: str) -> str:
        """`TRAIN.EPOCHS = 300 (default)`, or the file and line, or the option, that it came from."""
        return f"{key} = {show_value(self[key])} ({self.sources.get(key, 'default')})"


Rule = Callable[[Values], Iterator[str]]
_ERRORS: list[tuple[tuple[str, ...], Rule]] = []
_WARNINGS: list[tuple[tuple[str, ...], Rule]] = []


def _rule(rules: list[tuple[tuple[str, ...], Rule]], *keys: str) -> Callable[[Rule], Rule]:
    """Registers a rule over `keys`; it runs only when each of them is legal by itself."""

    def register(rule: Rule) -> Rule:
        rules.append((keys, rule))
        return rule

    return register


def validate(
    values: Mapping[str, Any], sources: Mapping[str, str], skip: Iterable[str] = ()
) -> tuple[list[str], list[str]]:
    """Checks a whole configuration.

    Args:
        values: value of every key, by dotted name, each of its key's type.
        sources: where the keys that were given come from; the others are shown as defaults.
        skip: keys already reported; rules that involve them are not applied.

    Returns:
        Errors and warnings, one line each.
    """
    view = Values(values, sources)
    bad = set(skip)
    errors: list[str] = []
    for key, expected in illegal_values(values):
        if key not in bad:
            errors.append(f"{view.show(key)}: expected {expected}")
            bad.add(key)
    errors += [line for keys, rule in _ERRORS if not bad.intersection(keys) for line in rule(view)]
    warnings = [line for keys, rule in _WARNINGS if not bad.intersection(keys) for line in rule(view)]
    return errors, warnings


@_rule(_ERRORS, "MODEL.SWIN.DEPTHS", "MODEL.SWIN.NUM_HEADS", "MODEL.SWIN.EMBED_DIM")
def _heads_divide_widths(v: Values) -> Iterator[str]:
    depths, heads, width = (v["MODEL.SWIN." + name] for name in ("DEPTHS", "NUM_HEADS", "EMBED_DIM"))
    if len(depths) != len(heads):
        yield (
            f"{v.show('MODEL.SWIN.DEPTHS')} has {len(depths)} stages but {v.show('MODEL.SWIN.NUM_HEADS')} has "
            f"{len(heads)}: give both the same number of values"
        )
    for stage, n in enumerate(heads):
        if width * 2**stage % n:
            yield (
                f"{v.show('MODEL.SWIN.NUM_HEADS')}: the {n} heads of stage {stage + 1} do not divide its width "
                f"{width * 2**stage} ({v.show('MODEL.SWIN.EMBED_DIM')}, doubled at each stage); change one of them"
            )


@_rule(_ERRORS, "MODEL.SWIN.EMBED_DIM", "MODEL.SWIN.MLP_RATIO")
def _mlp_has_a_width(v: Values) -> Iterator[str]:
    if v["MODEL.SWIN.EMBED_DIM"] * v["MODEL.SWIN.MLP_RATIO"] < 1:
        yield (
            f"{v.show('MODEL.SWIN.MLP_RATIO')} of {v.show('MODEL.SWIN.EMBED_DIM')} channels is less than one: "
            "raise MLP_RATIO"
        )


@_rule(_ERRORS, "DATA.MEAN", "DATA.STD", "MODEL.SWIN.IN_CHANS")
def _statistics_for_each_channel(v: Values) -> Iterator[str]:
    channels = v["MODEL.SWIN.IN_CHANS"]
    for key in ("DATA.MEAN", "DATA.STD"):
        if len(v[key]) != channels:
            yield (
                f"{v.show(key)} has {len(v[key])} values but {v.show('MODEL.SWIN.IN_CHANS')}: "
                f"give {key} {channels} value{'s' * (channels > 1)}, one for each channel"
            )


@_rule(_ERRORS, "MODEL.SWIN.IN_CHANS", "DATA.DATASET", "DATA.INTERPOLATION")
def _pictures_have_few_channels(v: Values) -> Iterator[str]:
    if v["MODEL.SWIN.IN_CHANS"] in (1, 3, 4):
        return
    channels = v.show("MODEL.SWIN.IN_CHANS")
    if v["DATA.DATASET"] == "digits":
        yield f"{channels}: the images of {v.show('DATA.DATASET')} can be read with 1, 3 or 4 channels"
    if v["DATA.INTERPOLATION"] == "lanczos":
        yield (
            f"{v.show('DATA.INTERPOLATION')} works on pictures, and {channels} is read from arrays: set it to bicubic"
        )


@_rule(_ERRORS, "DATA.IMG_SIZE", "MODEL.SWIN.PATCH_SIZE")
def _image_holds_a_patch(v: Values) -> Iterator[str]:
    if min(_sides(v)) < v["MODEL.SWIN.PATCH_SIZE"]:
        yield (
            f"{v.show('DATA.IMG_SIZE')} is smaller than one patch ({v.show('MODEL.SWIN.PATCH_SIZE')}): "
            "use larger images or smaller patches"
        )


@_rule(_ERRORS, *SIZES)
def _fits_in_memory(v: Values) -> Iterator[str]:
    num_bytes, what, names = max(least_bytes({key: v[key] for key in SIZES}))
    if num_bytes > _MAX_BYTES:
        keys = ", ".join(v.show(key) for key in SIZES if key.rpartition(".")[2] in names.split())
        yield f"{keys}: expected sizes that a device can hold, not {num_bytes / 1e9:,.0f} GB for {what}; lower them"


@_rule(_ERRORS, "DATA.DATASET", "DATA.ZIP_MODE", "DATA.VAL_SPLIT")
def _one_source_of_validation_data(v: Values) -> Iterator[str]:
    if v["DATA.DATASET"] == "digits" and v["DATA.ZIP_MODE"]:
        yield f"{v.show('DATA.ZIP_MODE')}: the data of {v.show('DATA.DATASET')} are embedded, not packed; set False"
    if v["DATA.VAL_SPLIT"] > 0 and (v["DATA.DATASET"] == "digits" or v["DATA.ZIP_MODE"]):
        other = "DATA.DATASET" if v["DATA.DATASET"] == "digits" else "DATA.ZIP_MODE"
        yield f"{v.show('DATA.VAL_SPLIT')}: with {v.show(other)} the validation part is given; set VAL_SPLIT to 0"


@_rule(_ERRORS, "TRAIN.EPOCHS", "TRAIN.WARMUP_EPOCHS", "TRAIN.START_EPOCH")
def _epochs_in_order(v: Values) -> Iterator[str]:
    if v["TRAIN.WARMUP_EPOCHS"] >= v["TRAIN.EPOCHS"]:
        yield (
            f"{v.show('TRAIN.WARMUP_EPOCHS')} must be less than {v.show('TRAIN.EPOCHS')}, or the learning rate never "
            "reaches its peak: lower WARMUP_EPOCHS (0 for none) or raise EPOCHS"
        )
    if v["TRAIN.START_EPOCH"] >= v["TRAIN.EPOCHS"]:
        yield f"{v.show('TRAIN.START_EPOCH')} must be less than {v.show('TRAIN.EPOCHS')}: nothing would be trained"


@_rule(_ERRORS, "TRAIN.LR_SCHEDULER.NAME", "TRAIN.LR_SCHEDULER.MULTISTEPS", "TRAIN.WARMUP_EPOCHS")
def _milestones(v: Values) -> Iterator[str]:
    key = "TRAIN.LR_SCHEDULER.MULTISTEPS"
    steps = v[key]
    if any(later <= earlier for earlier, later in pairwise(steps)):
        yield f"{v.show(key)}: expected increasing epochs, each later than the one before"
    if v["TRAIN.LR_SCHEDULER.NAME"] == "multistep":
        if not steps:
            yield f"{v.show(key)}: the multistep schedule needs at least one epoch at which to lower the learning rate"
        elif min(steps) < v["TRAIN.WARMUP_EPOCHS"]:
            yield f"{v.show(key)}: expected epochs after the warm-up ({v.show('TRAIN.WARMUP_EPOCHS')})"


@_rule(_ERRORS, "AUG.CUTMIX_MINMAX", "AUG.SCALE", "AUG.RATIO")
def _low_before_high(v: Values) -> Iterator[str]:
    for key in ("AUG.CUTMIX_MINMAX", "AUG.SCALE", "AUG.RATIO"):
        low, high = v[key] or (0.0, 1.0)
        if low > high or (key == "AUG.CUTMIX_MINMAX" and low == high):
            yield f"{v.show(key)}: expected [low, high] with the lower value first"


@_rule(_WARNINGS, "DATA.IMG_SIZE", "MODEL.SWIN.PATCH_SIZE", "MODEL.SWIN.WINDOW_SIZE", "MODEL.SWIN.DEPTHS")
def _windows_fill_the_image(v: Values) -> Iterator[str]:
    patch, window, stages = v["MODEL.SWIN.PATCH_SIZE"], v["MODEL.SWIN.WINDOW_SIZE"], len(v["MODEL.SWIN.DEPTHS"])
    # The last stage's grid is a multiple of the window, and each grid before it twice as large.
    unit = patch * window * 2 ** (stages - 1)
    sides = _sides(v)
    if any(side % unit for side in sides):
        names = ("height ", "width ") if len(sides) == 2 else ("",)
        fitting = (_around(side, unit) for side in sides)
        yield (
            f"{v.show('DATA.IMG_SIZE')} works, but wastes time on padding: with patches of {patch} px, windows of "
            f"{window} x {window} tokens and {stages} stages, the nearest that fits is "
            + ", ".join(f"{name}{fits}" for name, fits in zip(names, fitting, strict=True))
        )


@_rule(_WARNINGS, "TRAIN.BASE_LR", "TRAIN.WARMUP_LR", "TRAIN.MIN_LR", "TRAIN.LR_SCHEDULER.NAME", "TRAIN.WARMUP_EPOCHS")
def _peak_is_highest(v: Values) -> Iterator[str]:
    if v["TRAIN.LR_SCHEDULER.NAME"] in ("cosine", "linear") and v["TRAIN.MIN_LR"] > v["TRAIN.BASE_LR"]:
        yield f"{v.show('TRAIN.MIN_LR')} is above {v.show('TRAIN.BASE_LR')}: the learning rate will rise, not fall"
    if v["TRAIN.WARMUP_EPOCHS"] and v["TRAIN.WARMUP_LR"] > v["TRAIN.BASE_LR"]:
        yield f"{v.show('TRAIN.WARMUP_LR')} is above {v.show('TRAIN.BASE_LR')}: the warm-up will lower the rate"


@_rule(_WARNINGS, "TRAIN.LR_SCHEDULER.NAME", "TRAIN.LR_SCHEDULER.MULTISTEPS", "TRAIN.EPOCHS")
def _milestones_are_reached(v: Values) -> Iterator[str]:
    key = "TRAIN.LR_SCHEDULER.MULTISTEPS"
    if v["TRAIN.LR_SCHEDULER.NAME"] == "multistep" and max(v[key], default=0) >= v["TRAIN.EPOCHS"]:
        yield f"{v.show(key)}: training ends before the last of them ({v.show('TRAIN.EPOCHS')})"


@_rule(_WARNINGS, "DATA.DATASET")
def _unused_folder(v: Values) -> Iterator[str]:
    if v["DATA.DATASET"] == "digits" and v["DATA.DATA_PATH"]:
        yield f"{v.show('DATA.DATA_PATH')} is not used by {v.show('DATA.DATASET')}: set DATASET to folder to use it"


@_rule(_WARNINGS)
def _keys_without_effect(v: Values) -> Iterator[str]:
    for key in v.sources:
        if key in DEPRECATED:
            yield f"{v.show(key)} is deprecated and has no effect: {DEPRECATED[key]}"
        # A dumped config gives every key, so only those that were changed are worth a word.
        elif any(f"{key}.".startswith(f"{name}.") for name in WITHOUT_EFFECT) and v[key] != FLAT_DEFAULTS[key]:
            yield f"{v.show(key)} has no effect: it belongs to a model or method that this version does not train"


def _sides(v: Values) -> list[int]:
    size = v["DATA.IMG_SIZE"]
    return list(size) if isinstance(size, (list, tuple)) else [size]


def _around(side: int, unit: int) -> str:
    below = side // unit * unit
    if below == side:
        return str(side)
    return f"{below} or {below + unit}" if below else str(unit)

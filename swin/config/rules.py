"""Rules between keys, which yield an error or a warning in a line each.

A message names in braces the keys that it depends on, see `swin.config.validate`.
"""

import math
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from swin.config.keys import KEYS
from swin.config.memory import least_bytes, model_group, size_keys
from swin.config.messages import show_value
from swin.config.method_rules import errors_of_a_teacher, errors_of_pretraining, errors_of_several_labels, sides_of

# A terabyte: more than any device has, and than a batch of 128 images of 3,072 px takes in the largest published model.
_MAX_BYTES = 10**12


def _errors_of_the_model(v: Mapping[str, Any]) -> Iterator[str]:
    group = model_group(v)
    depths, heads, width = (v[f"{group}.{name}"] for name in ("DEPTHS", "NUM_HEADS", "EMBED_DIM"))
    if len(depths) != len(heads):
        yield (
            f"{{{group}.DEPTHS}} has {len(depths)} stages but {{{group}.NUM_HEADS}} has {len(heads)}: give both "
            "the same number of values"
        )
    for stage, n in enumerate(heads):
        if width * 2**stage % n:
            yield (
                f"{{{group}.NUM_HEADS}}: the {n} heads of stage {stage + 1} do not divide its width "
                f"{width * 2**stage} ({{{group}.EMBED_DIM}}, doubled at each stage); change one of them"
            )
    if width * v[f"{group}.MLP_RATIO"] < 1:
        yield f"{{{group}.MLP_RATIO}} of {{{group}.EMBED_DIM}} channels is less than one: raise MLP_RATIO"
    pretrained = v.get(f"{group}.PRETRAINED_WINDOW_SIZES", [])
    if any(pretrained) and len(pretrained) != len(depths):
        yield (
            f"{{{group}.PRETRAINED_WINDOW_SIZES}} has {len(pretrained)} stages but {{{group}.DEPTHS}} has "
            f"{len(depths)}: give one value a stage"
        )
    if min(_sides(v)) < v[f"{group}.PATCH_SIZE"]:
        patch = f"{{{group}.PATCH_SIZE}}"
        yield f"{{DATA.IMG_SIZE}} is smaller than one patch ({patch}): use larger images or smaller patches"
    num_bytes, what, names = max(least_bytes(v))
    if num_bytes > _MAX_BYTES:
        keys = ", ".join(f"{{{key}}}" for key in size_keys(v) if key.rpartition(".")[2] in names.split())
        yield f"{keys}: expected sizes that a device can hold, not {num_bytes / 1e9:,.0f} GB for {what}; lower them"


def _errors_of_the_data(v: Mapping[str, Any]) -> Iterator[str]:
    in_chans = f"{model_group(v)}.IN_CHANS"
    channels, is_digits, is_zip = v[in_chans], v["DATA.DATASET"] == "digits", v["DATA.ZIP_MODE"]
    for key in ("DATA.MEAN", "DATA.STD"):
        if len(v[key]) != channels:
            yield (
                f"{{{key}}} has {len(v[key])} values but {{{in_chans}}}: "
                f"give {key} {channels} value{'s' * (channels > 1)}, one for each channel"
            )
    if channels not in (1, 3, 4) and is_digits:
        yield f"{{{in_chans}}}: the images of {{DATA.DATASET}} can be read with 1, 3 or 4 channels"
    if channels not in (1, 3, 4) and v["DATA.INTERPOLATION"] == "lanczos":
        yield f"{{DATA.INTERPOLATION}} works on pictures, and {{{in_chans}}} is read from arrays: set it to bicubic"
    if is_digits and is_zip:
        yield "{DATA.ZIP_MODE}: the data of {DATA.DATASET} are embedded, not packed; set False"
    yield from _errors_of_the_splits(v)
    for key in ("AUG.CUTMIX_MINMAX", "AUG.SCALE", "AUG.RATIO"):
        low, high = v[key] or (0.0, 1.0)
        if low > high or (key == "AUG.CUTMIX_MINMAX" and low == high):
            yield f"{{{key}}}: expected [low, high] with the lower value first"


def _errors_of_the_sizes(v: Mapping[str, Any]) -> Iterator[str]:
    """Refuse a schedule of sizes whose phases are no part of a run, or that a model or a device cannot take."""
    key, phases, of_patch = "{DATA.IMG_SIZE_SCHEDULE}", v["DATA.IMG_SIZE_SCHEDULE"], f"{model_group(v)}.PATCH_SIZE"
    if not all(0 < share <= 1 for share, _ in phases) or sum(share for share, _ in phases) > 1 + 1e-9:
        yield (
            f"{key}: expected pairs [share, size], as [[0.5, 112], [0.25, 160]], whose shares of the run are above 0 "
            "and add up to 1 at most; the rest is at DATA.IMG_SIZE"
        )
    full, sizes = math.prod(sides_of(v["DATA.IMG_SIZE"])), [size for _, size in phases]
    for size in sizes:
        if isinstance(size, list) and len(size) != 2:
            yield f"{key}: expected a size in pixels or [height, width], not {show_value(size)}"
        elif min(sides_of(size)) < v[of_patch]:
            yield f"{key}: {show_value(size)} is smaller than one patch ({{{of_patch}}}): use larger images"
        elif math.prod(sides_of(size)) > full:
            yield f"{key}: {show_value(size)} has more pixels than {{DATA.IMG_SIZE}}, at which the run ends: raise that"
        else:
            growth = full / math.prod(sides_of(size))
            changed = {"DATA.IMG_SIZE": size, "DATA.BATCH_SIZE": v["DATA.BATCH_SIZE"] * growth}
            num_bytes, what, _ = max(least_bytes({**v, **changed}))
            if num_bytes > _MAX_BYTES:
                yield (
                    f"{key}: at {show_value(size)} {{DATA.BATCH_SIZE}} grows {growth:,.0f} times and takes "
                    f"{num_bytes / 1e9:,.0f} GB for {what}; use larger images or smaller batches"
                )


def _errors_of_the_splits(v: Mapping[str, Any]) -> Iterator[str]:
    folds, fold = v["DATA.FOLDS"], v["DATA.FOLD"]
    if v["DATA.VAL_SPLIT"] > 0 and v["DATA.DATASET"] == "digits":
        yield "{DATA.VAL_SPLIT}: with {DATA.DATASET} the validation part is given; set VAL_SPLIT to 0"
    if v["DATA.VAL_SPLIT"] > 0 and folds:
        yield "{DATA.VAL_SPLIT} and {DATA.FOLDS} both say what is held out: set one of them to 0"
    if folds == 1:
        yield "{DATA.FOLDS}: one fold leaves nothing to train on; set 2 or more, or 0 for none"
    if fold is not None and not folds:
        yield "{DATA.FOLD} is one of {DATA.FOLDS}: set FOLDS, or leave FOLD out"
    elif fold is not None and fold >= folds:
        yield f"{{DATA.FOLD}}: with {{DATA.FOLDS}} expected a number from 0 to {folds - 1}"
    names = list(v["DATA.SPLITS"].values())
    if len(set(names)) < len(names):
        yield "{DATA.SPLITS}: a part can be for one thing only; name another, or leave one out"
    try:
        num_groups = re.compile(v["DATA.GROUP_BY"]).groups
    except (re.error, RecursionError, OverflowError) as error:
        yield f"{{DATA.GROUP_BY}} is no regular expression ({error}); write one with one group, or the name of a column"
    else:
        if num_groups > 1:
            yield "{DATA.GROUP_BY}: expected one group in parentheses; write (?:...) around what is not the group"


def _errors_of_the_training(v: Mapping[str, Any]) -> Iterator[str]:
    warmup = v["TRAIN.WARMUP_EPOCHS"]
    is_share = isinstance(warmup, float)
    if is_share and warmup >= 1:
        yield (
            f"{{TRAIN.WARMUP_EPOCHS}}: expected {KEYS['TRAIN.WARMUP_EPOCHS'].expected}"
            f"{f'; write {warmup:.0f} for epochs' if warmup.is_integer() else ''}"
        )
    elif warmup >= v["TRAIN.EPOCHS"]:
        yield (
            "{TRAIN.WARMUP_EPOCHS} must be less than {TRAIN.EPOCHS}, or the learning rate never reaches its peak: "
            "a share of the run fits any number of epochs, as --opts TRAIN.WARMUP_EPOCHS 0.1 (0 for none)"
        )
    if v["TRAIN.START_EPOCH"] >= v["TRAIN.EPOCHS"] and not v["TRAIN.MINUTES"]:
        yield "{TRAIN.START_EPOCH} must be less than {TRAIN.EPOCHS}: nothing would be trained"
    if v["TRAIN.PATIENCE"] and v["TRAIN.MONITOR"] == "last":
        yield "{TRAIN.PATIENCE} waits for a better evaluation, and with {TRAIN.MONITOR} none is: set another or 0"
    key, is_multistep = "{TRAIN.LR_SCHEDULER.MULTISTEPS}", v["TRAIN.LR_SCHEDULER.NAME"] == "multistep"
    steps = v["TRAIN.LR_SCHEDULER.MULTISTEPS"]
    if any(later <= earlier for earlier, later in pairwise(steps)):
        yield f"{key}: expected increasing epochs, each later than the one before"
    if is_multistep and not steps:
        yield f"{key}: the multistep schedule needs at least one epoch at which to lower the learning rate"
    if is_multistep and min(steps, default=math.inf) < warmup * (v["TRAIN.EPOCHS"] if is_share else 1):
        yield f"{key}: expected epochs after the warm-up ({{TRAIN.WARMUP_EPOCHS}})"


def _errors_of_the_optimizer(v: Mapping[str, Any]) -> Iterator[str]:
    name = v["TRAIN.OPTIMIZER.NAME"]
    if name in ("adamw", "sgd", "muon") and v["TRAIN.OPTIMIZER.ARGS"]:
        yield "{TRAIN.OPTIMIZER.ARGS} are for schedulefree and timm:NAME; leave them out with {TRAIN.OPTIMIZER.NAME}"
    if name != "schedulefree":
        return
    if v["TRAIN.LR_SCHEDULER.NAME"] != "constant":
        yield (
            "{TRAIN.LR_SCHEDULER.NAME}: the average of {TRAIN.OPTIMIZER.NAME} takes the place of a schedule; set it to "
            "constant (the warm-up stays)"
        )
    if v["TRAIN.EMA.ENABLE"]:
        yield "{TRAIN.EMA.ENABLE}: {TRAIN.OPTIMIZER.NAME} keeps an average of its own; set it to False"
    if v["TRAIN.OPTIMIZER.BETAS"][0] == 0:
        yield "{TRAIN.OPTIMIZER.BETAS}: expected a first value above 0 with {TRAIN.OPTIMIZER.NAME}, as 0.9"


def _is_padded(v: Mapping[str, Any], side: int) -> bool:
    """Whether images of a side in pixels are cut, or make a grid in some stage that has to be padded."""
    group = model_group(v)
    window, last = v[f"{group}.WINDOW_SIZE"], len(v[f"{group}.DEPTHS"]) - 1
    grid, rest = divmod(side, v[f"{group}.PATCH_SIZE"])
    for stage in range(last + 1):
        # The windows of Swin V2 are as large as the grid where that is smaller.
        if rest or grid % (min(window, grid) if v["MODEL.TYPE"] == "swinv2" else window):
            return True
        rest = grid % 2 if stage < last else 0
        grid //= 2
    return False


def find_warnings(v: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is odd about a configuration without being wrong; `v` has the value of every key."""
    group = model_group(v)
    patch, window, stages = v[f"{group}.PATCH_SIZE"], v[f"{group}.WINDOW_SIZE"], len(v[f"{group}.DEPTHS"])
    # The last stage's grid is a multiple of the window, and each grid before it twice as large.
    unit = patch * window * 2 ** (stages - 1)
    sides = _sides(v)
    if any(_is_padded(v, side) for side in sides):
        names = ("height ", "width ") if len(sides) == 2 else ("",)
        fitting = ", ".join(f"{name}{_around(side, unit)}" for name, side in zip(names, sides, strict=True))
        yield (
            f"{{DATA.IMG_SIZE}} works, but wastes time on padding: with patches of {patch} px, windows of "
            f"{window} x {window} tokens and {stages} stages, the nearest that fits is {fitting}"
        )
    schedule = v["TRAIN.LR_SCHEDULER.NAME"]
    if schedule in ("cosine", "linear", "wsd") and v["TRAIN.MIN_LR"] > v["TRAIN.BASE_LR"]:
        yield "{TRAIN.MIN_LR} is above {TRAIN.BASE_LR}: the learning rate will rise, not fall"
    if v["TRAIN.WARMUP_EPOCHS"] and v["TRAIN.WARMUP_LR"] > v["TRAIN.BASE_LR"]:
        yield "{TRAIN.WARMUP_LR} is above {TRAIN.BASE_LR}: the warm-up will lower the rate"
    if schedule == "multistep" and max(v["TRAIN.LR_SCHEDULER.MULTISTEPS"], default=0) >= v["TRAIN.EPOCHS"]:
        yield "{TRAIN.LR_SCHEDULER.MULTISTEPS}: training ends before the last of them ({TRAIN.EPOCHS})"
    if v["TRAIN.DISTILL.CONFIG"] and not v["TRAIN.DISTILL.TEACHER"]:
        yield "{TRAIN.DISTILL.CONFIG} is of a teacher, and there is none: set TRAIN.DISTILL.TEACHER"
    if v["TRAIN.OPTIMIZER.NAME"].startswith("timm:"):
        for name in ("EPS", "BETAS", "MOMENTUM"):
            if v[key := f"TRAIN.OPTIMIZER.{name}"] != KEYS[key].default:
                argument = f"{{{name.lower()}: VALUE}}"
                yield f"{{{key}}} is not used by {{TRAIN.OPTIMIZER.NAME}}: TRAIN.OPTIMIZER.ARGS {argument} is"
    if v["DATA.DATASET"] == "digits" and v["DATA.DATA_PATH"]:
        yield "{DATA.DATA_PATH} is not used by {DATA.DATASET}: set DATASET to folder to use it"


def _sides(v: Mapping[str, Any]) -> list[int]:
    size = v["DATA.IMG_SIZE"]
    return [size] if isinstance(size, int) else size


def _around(side: int, unit: int) -> str:
    below = side // unit * unit
    if below == side:
        return str(side)
    return f"{below} or {below + unit}" if below else str(unit)


ERRORS = (
    _errors_of_the_model,
    _errors_of_the_data,
    _errors_of_the_sizes,
    _errors_of_the_training,
    _errors_of_the_optimizer,
    errors_of_pretraining,
    errors_of_several_labels,
    errors_of_a_teacher,
)

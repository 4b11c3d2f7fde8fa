"""What each key by itself may hold: choices, ranges and lengths; and how messages show values."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

CHOICES: dict[str, tuple[str, ...]] = {
    "DATA.DATASET": ("imagenet", "folder", "digits", "imagenet22K"),
    "DATA.INTERPOLATION": ("bicubic", "bilinear", "nearest", "lanczos", "random"),
    "DATA.CACHE_MODE": ("no", "part", "full"),
    "DATA.ON_ERROR": ("raise", "skip"),
    "DATA.SAMPLER": ("shuffle", "balanced"),
    "MODEL.ATTENTION": ("auto", "eager", "sdpa", "cpu", "triton"),
    "TRAIN.LR_SCHEDULER.NAME": ("cosine", "linear", "constant", "step", "multistep"),
    "TRAIN.OPTIMIZER.NAME": ("adamw", "sgd"),
    "TRAIN.COMPILE": ("off", "default", "max-autotune"),
    "TRAIN.LOSS": ("ce", "bce"),
    "TRAIN.CLASS_WEIGHTS": ("none", "balanced"),
    "AUG.REMODE": ("pixel", "rand", "const"),
    "AUG.MIXUP_MODE": ("batch", "pair", "elem"),
    "AMP_DTYPE": ("auto", "bf16", "fp16"),
}

# Intervals in mathematical notation; for a list they hold for each of its values, and null is always allowed.
RANGES: dict[str, str] = {
    "[1, inf)": """DATA.BATCH_SIZE DATA.IMG_SIZE DATA.MAX_ERRORS DATA.REPEATED_AUG
        MODEL.NUM_CLASSES MODEL.SWIN.PATCH_SIZE MODEL.SWIN.IN_CHANS
        MODEL.SWIN.EMBED_DIM MODEL.SWIN.DEPTHS MODEL.SWIN.NUM_HEADS MODEL.SWIN.WINDOW_SIZE TRAIN.EPOCHS
        TRAIN.ACCUMULATION_STEPS TRAIN.MAX_NONFINITE TRAIN.LR_SCHEDULER.DECAY_EPOCHS TRAIN.LR_SCHEDULER.MULTISTEPS
        AUG.RECOUNT SAVE_FREQ SAVE_KEEP EVAL_FREQ PRINT_FREQ DIST_TIMEOUT""",
    "[0, inf)": """DATA.NUM_WORKERS TRAIN.START_EPOCH TRAIN.WARMUP_EPOCHS TRAIN.WEIGHT_DECAY TRAIN.WARMUP_LR
        TRAIN.MIN_LR TRAIN.CLIP_GRAD TRAIN.LR_REFERENCE_BATCH AUG.COLOR_JITTER AUG.MIXUP AUG.CUTMIX AUG.CROP_PADDING
        SAVE_FREQ_STEPS SAVE_MINUTES TRAIN.ROLLBACK""",
    "(0, inf)": "DATA.STD MODEL.SWIN.MLP_RATIO MODEL.SWIN.QK_SCALE TRAIN.BASE_LR TRAIN.OPTIMIZER.EPS AUG.RATIO",
    "(-inf, inf)": "DATA.MEAN",
    "[0, 1]": "AUG.REPROB AUG.CUTMIX_MINMAX AUG.MIXUP_PROB AUG.MIXUP_SWITCH_PROB AUG.HFLIP AUG.VFLIP",
    "[0, 1)": """DATA.VAL_SPLIT MODEL.DROP_RATE MODEL.DROP_PATH_RATE MODEL.LABEL_SMOOTHING TRAIN.OPTIMIZER.BETAS
        TRAIN.OPTIMIZER.MOMENTUM TRAIN.EMA.DECAY""",
    "(0, 1]": "TRAIN.LAYER_DECAY TRAIN.LR_SCHEDULER.DECAY_RATE TRAIN.LR_SCHEDULER.GAMMA AUG.SCALE",
    "[0, 4294967296)": "SEED",  # what NumPy takes as a seed
}

# Keys that take exactly this many values when they are lists.
LENGTHS = {"DATA.IMG_SIZE": 2, "TRAIN.OPTIMIZER.BETAS": 2, "AUG.CUTMIX_MINMAX": 2, "AUG.SCALE": 2, "AUG.RATIO": 2}

_POLICY = re.compile(r"(none|ta_wide|((rand|augmix|original|originalr|v0|v0r|3a)(-[\w.]+)*))?")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def illegal_values(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The keys whose value is not legal by itself, each with what was expected."""
    yield from _illegal_words(values)
    yield from _illegal_numbers(values)
    yield from _illegal_lengths(values)


def canonical(key: str, value: Any) -> Any:
    """The listed spelling of a choice; the official code ignores case (`NAME: AdamW`), readers of a config need not."""
    matches = [choice for choice in CHOICES.get(key, ()) if isinstance(value, str) and choice.lower() == value.lower()]
    return matches[0] if matches else value


def show_value(value: Any) -> str:
    """A value as a user would write it, shortened to fit a message."""
    text = "null" if value is None else repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def did_you_mean(names: Iterable[str]) -> str:
    """The end of a message that suggests these names; empty when there are none."""
    names = list(names)
    return f"; did you mean {' or '.join(names)}?" if names else ""


def _illegal_words(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, choices in CHOICES.items():
        if values[key] not in choices:
            close = difflib.get_close_matches(values[key].lower(), choices, n=1)
            yield key, f"one of {', '.join(choices)}{did_you_mean(close)}"
    if values["MODEL.TYPE"] != "swin":
        yield "MODEL.TYPE", "swin (Swin Transformer V1), the only model family that is supported now"
    if not _POLICY.fullmatch(values["AUG.AUTO_AUGMENT"]):
        yield (
            "AUG.AUTO_AUGMENT",
            "rand-..., augmix-..., original, originalr, v0, v0r, 3a, ta_wide or none, as in rand-m9-mstd0.5-inc1",
        )
    if not _DEVICE.fullmatch(values["DEVICE"]):
        yield "DEVICE", "auto, cpu, mps, cuda or cuda:N, as in cuda:0"
    for key in ("MODEL.NAME", "TAG"):
        parts = values[key].replace("\\", "/").split("/")
        if "" in parts or ".." in parts:
            yield key, "a name, or several joined by single slashes: it becomes a folder below OUTPUT"


def _illegal_numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for interval, keys in RANGES.items():
        low, high = (float(bound) for bound in interval[1:-1].split(","))
        for key in keys.split():
            numbers = values[key] if isinstance(values[key], (list, tuple)) else [values[key]]
            # Written so that NaN fails.
            if not all(
                x is None
                or ((low <= x if interval[0] == "[" else low < x) and (x <= high if interval[-1] == "]" else x < high))
                for x in numbers
            ):
                yield key, _describe(interval, is_list=numbers is values[key])


def _describe(interval: str, *, is_list: bool) -> str:
    low, high = interval[1:-1].split(", ")
    if high != "inf":
        words = f"in {interval}"
    elif low == "-inf":
        words = "that are finite" if is_list else "that is finite"
    else:
        words = f"of at least {low}" if interval[0] == "[" else f"above {low}"
    return f"numbers {words}" if is_list else f"a number {words}"


def _illegal_lengths(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, length in LENGTHS.items():
        if isinstance(values[key], (list, tuple)) and len(values[key]) != length:
            names = " [height, width]" if key == "DATA.IMG_SIZE" else ""
            yield key, f"{length} values{names}, not {len(values[key])}"
    for key in ("MODEL.SWIN.DEPTHS", "MODEL.SWIN.NUM_HEADS"):
        if not values[key]:
            yield key, "one value for each stage"

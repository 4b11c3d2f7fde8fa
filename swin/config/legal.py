"""What each key by itself may hold: choices, ranges and lengths; and how messages show values."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from swin.errors import UNPRINTABLE, printable

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
# Upper bounds of sizes and counts are far above any use: they are there so that a slip of the finger is a message and
# not a machine out of memory. What sizes amount to together is the business of a rule in validate.py.
RANGES: dict[str, str] = {
    "[1, 1000000000]": """DATA.MAX_ERRORS MODEL.NUM_CLASSES TRAIN.EPOCHS TRAIN.MAX_NONFINITE
        TRAIN.LR_SCHEDULER.DECAY_EPOCHS TRAIN.LR_SCHEDULER.MULTISTEPS SAVE_FREQ SAVE_KEEP EVAL_FREQ PRINT_FREQ
        DIST_TIMEOUT""",
    "[0, 1000000000]": "TRAIN.START_EPOCH TRAIN.WARMUP_EPOCHS TRAIN.LR_REFERENCE_BATCH TRAIN.ROLLBACK SAVE_FREQ_STEPS",
    "[1, 1000000]": "DATA.BATCH_SIZE TRAIN.ACCUMULATION_STEPS",
    "[1, 100000]": "DATA.IMG_SIZE MODEL.SWIN.PATCH_SIZE MODEL.SWIN.EMBED_DIM MODEL.SWIN.NUM_HEADS",
    "[1, 1000]": "DATA.REPEATED_AUG MODEL.SWIN.IN_CHANS MODEL.SWIN.DEPTHS MODEL.SWIN.WINDOW_SIZE AUG.RECOUNT",
    "[0, 65536]": "DATA.NUM_WORKERS",  # of which no more are started than there are CPUs
    "[0, 1000]": "AUG.COLOR_JITTER AUG.MIXUP AUG.CUTMIX AUG.CROP_PADDING",
    "(0, 1000]": "MODEL.SWIN.MLP_RATIO MODEL.SWIN.QK_SCALE",
    "[0, inf)": "TRAIN.WEIGHT_DECAY TRAIN.WARMUP_LR TRAIN.MIN_LR TRAIN.CLIP_GRAD SAVE_MINUTES",
    "(0, inf)": "DATA.STD TRAIN.BASE_LR TRAIN.OPTIMIZER.EPS AUG.RATIO",
    "(-inf, inf)": "DATA.MEAN",
    "[0, 1]": "AUG.REPROB AUG.CUTMIX_MINMAX AUG.MIXUP_PROB AUG.MIXUP_SWITCH_PROB AUG.HFLIP AUG.VFLIP",
    "[0, 1)": """DATA.VAL_SPLIT MODEL.DROP_RATE MODEL.DROP_PATH_RATE MODEL.LABEL_SMOOTHING TRAIN.OPTIMIZER.BETAS
        TRAIN.OPTIMIZER.MOMENTUM TRAIN.EMA.DECAY""",
    "(0, 1]": "TRAIN.LAYER_DECAY TRAIN.LR_SCHEDULER.DECAY_RATE TRAIN.LR_SCHEDULER.GAMMA AUG.SCALE",
    "[0, 4294967296)": "SEED",  # what NumPy takes as a seed
}

# Keys that take exactly this many values when they are lists.
LENGTHS = {"DATA.IMG_SIZE": 2, "TRAIN.OPTIMIZER.BETAS": 2, "AUG.CUTMIX_MINMAX": 2, "AUG.SCALE": 2, "AUG.RATIO": 2}
_MAX_STAGES = 10  # each halves the grid

# Numbers of at most three digits: timm applies as many operations, or mixes as many chains of them.
_POLICY = re.compile(
    r"(none|ta_wide|((rand|augmix|original|originalr|v0|v0r|3a)(-[A-Za-z]+([0-9]{1,3}(\.[0-9]*)?)?)*))?"
)
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,2})?")

# What becomes part of a path, and what file systems allow of it.
_PATHS = ("MODEL.NAME", "MODEL.PRETRAINED", "MODEL.RESUME", "DATA.DATA_PATH", "OUTPUT", "TAG")
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 1000

# Problems shown at most, and characters of each.
MAX_LINES = 10
_MAX_LINE_CHARS = 1000


def illegal_values(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The keys whose value is not legal by itself, each with what was expected."""
    yield from _illegal_characters(values)
    yield from _illegal_words(values)
    yield from _illegal_numbers(values)
    yield from _illegal_lengths(values)


def canonical(key: str, value: Any) -> Any:
    """The listed spelling of a choice; the official code ignores case (`NAME: AdamW`), readers of a config need not."""
    matches = [choice for choice in CHOICES.get(key, ()) if isinstance(value, str) and choice.lower() == value.lower()]
    return matches[0] if matches else value


def show_value(value: Any) -> str:
    """A value as a user would write it, shortened to fit a message."""
    try:
        text = "null" if value is None else repr(list(value) if isinstance(value, tuple) else value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; lists in lists
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def readable_lines(lines: Sequence[str]) -> list[str]:
    """The first lines and how many more there are, each of a bounded length and without control characters."""
    # What was found comes first, what was expected last; what may be long, a name or a path, is in between.
    short = [
        line if len(line) <= _MAX_LINE_CHARS else f"{line[: _MAX_LINE_CHARS // 2]}...{line[-_MAX_LINE_CHARS // 2 :]}"
        for line in lines[:MAX_LINES]
    ]
    shown = list(map(printable, short))
    return [*shown, f"and {len(lines) - MAX_LINES} more like these"] if len(lines) > MAX_LINES else shown


def did_you_mean(names: Iterable[str]) -> str:
    """The end of a message that suggests these names; empty when there are none."""
    names = list(names)
    return f"; did you mean {' or '.join(names)}?" if names else ""


def _illegal_characters(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        for text in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(text, str) and (found := UNPRINTABLE.search(text)):
                yield key, f"text without the character {found[0]!r}; leave it out"
                break
    for key in _PATHS:
        path = values[key].encode(errors="replace")
        if len(path) > _MAX_PATH_BYTES or max(map(len, path.split(b"/"))) > _MAX_NAME_BYTES:
            yield (
                key,
                f"at most {_MAX_PATH_BYTES} bytes, and {_MAX_NAME_BYTES} between two slashes, as file systems do; "
                "choose a shorter name",
            )


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
            "rand-..., augmix-..., original, originalr, v0, v0r, 3a, ta_wide or none, as in rand-m9-mstd0.5-inc1, "
            "with numbers below 1,000",
        )
    if not _DEVICE.fullmatch(values["DEVICE"]):
        yield "DEVICE", "auto, cpu, mps, cuda or cuda:N, as in cuda:0"
    for key in ("MODEL.NAME", "TAG"):
        parts = values[key].replace("\\", "/").split("/")
        if {"", ".", ".."}.intersection(parts):
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
    is_limit = interval[-1] == "]" and float(high) > 1  # rather than what the number means
    if high != "inf" and not is_limit:
        words = f"in {interval}"
    elif low == "-inf":
        words = "that are finite" if is_list else "that is finite"
    else:
        words = f"of at least {low}" if interval[0] == "[" else f"above {low}"
        words += f" and at most {int(high):,}" if is_limit else ""
    return f"numbers {words}" if is_list else f"a number {words}"


def _illegal_lengths(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, length in LENGTHS.items():
        if isinstance(values[key], (list, tuple)) and len(values[key]) != length:
            names = " [height, width]" if key == "DATA.IMG_SIZE" else ""
            yield key, f"{length} values{names}, not {len(values[key])}"
    for key in ("MODEL.SWIN.DEPTHS", "MODEL.SWIN.NUM_HEADS"):
        if not 1 <= len(values[key]) <= _MAX_STAGES:
            yield key, f"one value for each stage, and 1 to {_MAX_STAGES} stages"

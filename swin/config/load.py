"""From files, options and flags to one frozen, checked `Config`: types, unknown keys, precedence."""

import copy
import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from swin.config.keys import KEYS
from swin.config.keys.model import GROUP_OF_TYPE
from swin.config.messages import MAX_LINES, did_you_mean, readable_lines, show_value
from swin.config.sources import Entry, Problems, find_recipe, read_file, read_opts
from swin.config.tree import FLAT_DEFAULTS, GROUPS, Config, Layer, flatten, nest
from swin.config.validate import validate
from swin.errors import ConfigError
from swin.variants import find_variant

_SIZES = ("MODEL.NAME", "DATA.IMG_SIZE", "WINDOW_SIZE", "PRETRAINED_WINDOW_SIZES")  # what is not the architecture

# Source: the official repository's data_simmim_pt.py.
_OF_SIMMIM = {
    "AUG.SCALE": [0.67, 1.0],
    "AUG.AUTO_AUGMENT": "none",
    "AUG.COLOR_JITTER": 0.0,
    "AUG.REPROB": 0.0,
    "AUG.REMODE": "const",  # masks in the picture of the first batch are grey
    "AUG.MIXUP": 0.0,
    "AUG.CUTMIX": 0.0,
}


def load_config(
    path: str | os.PathLike[str] | None = None, opts: Sequence[Any] = (), overrides: Mapping[str, Any] | None = None
) -> Config:
    """Resolve a configuration: the defaults, then the file after its BASE files, then `opts`, then `overrides`.

    What MODEL.VARIANT stands for lies just above the defaults, wherever it is given; what TRAIN.LOSS simmim does, just
    below the file, or the options, that give it.

    Args:
        path: YAML file, or the bare name of a recipe that comes with this package; None for the defaults alone.
        opts: KEY, VALUE, KEY, VALUE, ... as on the command line; values are read as YAML or Python literals.
        overrides: values of flags by dotted key; None stands for a flag that was not given.

    Returns:
        The frozen configuration. Show its `warnings` to the user.

    Raises:
        ConfigError: for everything that is wrong, one line a problem.
    """
    problems = Problems()
    entries = read_file(find_recipe(os.fspath(path)), problems) if path is not None else []
    return _resolve(entries + _further(opts, overrides, problems), problems)


def config_from_dict(
    tree: Mapping[str, Any], opts: Sequence[Any] = (), overrides: Mapping[str, Any] | None = None
) -> Config:
    """Rebuild a configuration from the nested dict of `config_to_dict`, as checkpoints hold it; the rest comes on top.

    Keys that this version does not know are ignored with a warning: another version may have written them.

    Raises:
        ConfigError: `tree` is not a mapping, or a value of a known key cannot be used.
    """
    if not isinstance(tree, Mapping):
        raise ConfigError(f"the stored config is {show_value(tree)}: expected a mapping of keys to values")
    entries = [Entry(key, value, "stored config") for key, value in flatten(tree).items()]
    known = {*KEYS, *GROUPS}
    ignored = [
        f"{where}: {key} is unknown to this version and ignored" for key, _, where in entries if key not in known
    ]
    problems = Problems()
    entries = [entry for entry in entries if entry.key in known] + _further(opts, overrides, problems)
    return _resolve(entries, problems, warnings=readable_lines(ignored))


def _further(opts: Sequence[Any], overrides: Mapping[str, Any] | None, problems: Problems) -> list[Entry]:
    flags = [Entry(key, value, "command line") for key, value in (overrides or {}).items() if value is not None]
    return [*read_opts(opts or (), problems), *flags]


def _resolve(entries: Iterable[Entry], problems: Problems, *, warnings: Sequence[str] = ()) -> Config:
    """Apply the entries in order to the defaults and check the result."""
    values = copy.deepcopy(FLAT_DEFAULTS)
    layers: dict[str, Layer] = {}
    refused: set[str] = set()
    entries = list(entries)
    of_variant = _read_variant(entries, problems)
    warnings = [*warnings, *_compare_with_variant(entries, of_variant, problems), *_doubt_labels(entries)]
    for name, value, where in of_variant + _with_loss(entries):
        if name not in KEYS:
            # Looking for names that are near takes a while, and readable_lines shows only so many.
            problems.add(f"{where}: {explain_unknown(name) if len(problems.lines) < MAX_LINES else name}")
            continue
        layers[name], key = Layer(where, values[name]), KEYS[name]
        try:
            values[name] = key.convert(value)
        except (TypeError, OverflowError) as error:
            hint = _hint(value, key.kind) if isinstance(error, TypeError) else " of at most 64 bits"
            problems.add(f"{where}: {name} is {show_value(value)}: expected {key.describe_types()}{hint}")
            refused.add(name)
    sources = {name: layer.where for name, layer in layers.items()}
    errors, found = validate(values, sources, skip=refused)
    lines = problems.lines if problems.is_file_missing else [*problems.lines, *errors]
    if lines:
        raise ConfigError("\n".join(readable_lines(lines)))
    cfg = Config(nest(values), layers, (*warnings, *found))
    cfg.freeze()
    return cfg


def _read_variant(entries: Sequence[Entry], problems: Problems) -> list[Entry]:
    """Return what the MODEL.VARIANT that was given last stands for; nothing where there is none."""
    last = next((entry for entry in reversed(entries) if entry.key == "MODEL.VARIANT"), None)
    if last is None or not isinstance(last.value, str) or not last.value:  # another type is refused with its key
        return []
    try:
        variant = find_variant(last.value)
    except ConfigError as error:
        problems.add(f"{last.where}: MODEL.VARIANT: {error}")
        return []
    values = {"MODEL.NAME": last.value, "DATA.IMG_SIZE": variant.img_size, "MODEL.TYPE": variant.family}
    values |= {f"MODEL.{GROUP_OF_TYPE[variant.family]}.{name.upper()}": value for name, value in variant.shape.items()}
    return [Entry(key, value, f"MODEL.VARIANT {last.value}") for key, value in values.items()]


def _with_loss(entries: Sequence[Entry]) -> list[Entry]:
    """Add what the TRAIN.LOSS that was given last stands for: a pre-training predicts images as they are."""
    places = [place for place, entry in enumerate(entries) if entry.key == "TRAIN.LOSS"]
    if not places or str(entries[places[-1]].value).lower() != "simmim":
        return list(entries)
    file = _file_of(entries[places[-1]])
    first = next(place for place, entry in enumerate(entries) if _file_of(entry) == file)
    return [*entries[:first], *(Entry(*item, "TRAIN.LOSS simmim") for item in _OF_SIMMIM.items()), *entries[first:]]


def _doubt_labels(entries: Iterable[Entry]) -> list[str]:
    """Doubt that a file of the official pre-training, which no key tells apart there, is to train with labels."""
    named = {entry.key: entry.where for entry in entries}
    given = [key for key in named if key in ("DATA.MASK_RATIO", "DATA.MASK_PATCH_SIZE") or "NORM_TARGET" in key]
    if "TRAIN.LOSS" in named or not given:
        return []
    return [f"{named[given[0]]}: {given[0]} is of a pre-training without labels: for one, --opts TRAIN.LOSS simmim"]


def _compare_with_variant(entries: Sequence[Entry], of_variant: Sequence[Entry], problems: Problems) -> list[str]:
    """Compare a variant with values that an earlier source, as a recipe below --opts, gives in its place.

    Another architecture is a problem: what was asked for last would not be trained. Another size is a warning.
    """
    if not of_variant:
        return []
    place, variant = [(place, entry) for place, entry in enumerate(entries) if entry.key == "MODEL.VARIANT"][-1]
    earlier = {entry.key: entry for entry in entries[:place] if _file_of(entry) != _file_of(variant)}
    later = {entry.key for entry in entries[place:]}
    warnings = []
    for key, value, _ in of_variant:
        own = earlier.get(key)
        if own is None or key in later or key == "MODEL.NAME" or _as_list(own.value) == _as_list(value):
            continue
        line = (
            f"{variant.where}: MODEL.VARIANT {variant.value} has {key} {show_value(value)}, but {own.where} gives it "
            f"as {show_value(own.value)}, which wins"
        )
        if not key.endswith(_SIZES):
            problems.add(f"{line}: use a recipe without an architecture of its own, as --cfg finetune")
            return []
        warnings.append(f"{line}; for the variant's: --opts {key} {show_value(value)}")
    return readable_lines(warnings)


def _file_of(entry: Entry) -> str:
    return re.sub(r":\d+$", "", entry.where)


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _hint(value: Any, kind: str) -> str:
    if value is None:
        return "; leave the key out for its default"
    if kind == "str" and not isinstance(value, (Mapping, list)):
        return "; put it in quotes"
    if kind == "bool" and isinstance(value, int) and value in (0, 1):
        return f"; write {bool(value)}"
    return ""


def explain_unknown(key: str) -> str:
    """Say why `key`, which is none, cannot be set, and which key may be meant."""
    if key in GROUPS:
        first = next(name for name in KEYS if name.startswith(f"{key}."))
        return f"{key} is a group of keys and takes no value: give one of its keys, as in {first}"
    known = next((known for known in KEYS if key.startswith(f"{known}.")), None)
    if known:
        return f"unknown key {key}: {known} is a value and has no keys below it"
    if "=" in key:
        return f"unknown key {key}: separate key and value by a space, not by ="
    return f"unknown key {key}{did_you_mean(_nearest_keys(key)) or '; docs/config.md lists all keys'}"


def _nearest_keys(key: str) -> list[str]:
    """Return up to three keys or groups that `key` may stand for, the likeliest first.

    The whole path and the last name are compared: `MODEL.EMBED_DIM` has the right name in the wrong group,
    `DATA.BATCHSIZE` a wrong name in the right one, and `TRAIN.LR` a part of the right name.
    """
    given = key[:100].upper()  # no key is as long, and the comparison takes time
    leaf = given.rpartition(".")[2]

    def likeness(known: str) -> tuple[float, float, str]:
        known_leaf = known.rpartition(".")[2]
        path = difflib.SequenceMatcher(None, given, known).ratio()
        name = difflib.SequenceMatcher(None, leaf, known_leaf).ratio()
        if leaf in known_leaf.split("_"):
            name = max(name, 0.75)
        return path + name, max(path, name), known

    scored = sorted(map(likeness, (*KEYS, *GROUPS)), reverse=True)
    return [known for total, part, known in scored[:3] if part >= 0.7 and total >= scored[0][0] - 0.15]

"""From files, options and flags to one frozen, checked `Config`: types, unknown keys, precedence."""

import copy
import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from swin.config.defaults import KINDS
from swin.config.legal import MAX_LINES, canonical, did_you_mean, readable_lines, show_value
from swin.config.sources import Entry, Problems, read_file, read_opts
from swin.config.tree import FLAT_DEFAULTS, GROUPS, Config, flatten, nest
from swin.config.validate import validate
from swin.errors import ConfigError


def load_config(
    path: str | os.PathLike[str] | None = None, opts: Sequence[Any] = (), overrides: Mapping[str, Any] | None = None
) -> Config:
    """Resolves a configuration: the defaults, then the file after its BASE files, then `opts`, then `overrides`.

    Args:
        path: YAML file; None for the defaults alone.
        opts: KEY, VALUE, KEY, VALUE, ... as on the command line; values are read as YAML or Python literals.
        overrides: values of flags by dotted key; None stands for a flag that was not given.

    Returns:
        The frozen configuration. Show its `warnings` to the user.

    Raises:
        ConfigError: for everything that is wrong, one line a problem.
    """
    problems = Problems()
    entries = read_file(os.fspath(path), problems) if path is not None else []
    entries += read_opts(opts or (), problems)
    entries += [Entry(key, value, "command line") for key, value in (overrides or {}).items() if value is not None]
    return _resolve(entries, problems)


def config_from_dict(tree: Mapping[str, Any]) -> Config:
    """Rebuilds a configuration from the nested dict of `config_to_dict`, as checkpoints hold it.

    Keys that this version does not know are ignored with a warning: another version may have written them.

    Raises:
        ConfigError: `tree` is not a mapping, or a value of a known key cannot be used.
    """
    if not isinstance(tree, Mapping):
        raise ConfigError(f"the stored config is {show_value(tree)}: expected a mapping of keys to values")
    entries = [Entry(key, value, "stored config") for key, value in flatten(tree).items()]
    unknown = [entry.key for entry in entries if entry.key not in FLAT_DEFAULTS and entry.key not in GROUPS]
    return _resolve(
        [entry for entry in entries if entry.key in FLAT_DEFAULTS or entry.key in GROUPS],
        Problems(),
        warnings=readable_lines([f"stored config: {key} is unknown to this version and ignored" for key in unknown]),
    )


def _resolve(entries: Iterable[Entry], problems: Problems, *, warnings: Sequence[str] = ()) -> Config:
    """Applies the entries in order to the defaults and checks the result."""
    values = copy.deepcopy(FLAT_DEFAULTS)
    sources: dict[str, str] = {}
    refused: set[str] = set()
    for key, value, where in entries:
        if key not in FLAT_DEFAULTS:
            # Looking for names that are near takes a while, and readable_lines shows only so many.
            problems.add(f"{where}: {_unknown(key) if len(problems.lines) < MAX_LINES else key}")
            continue
        sources[key] = where
        kind = KINDS.get(key) or _kind_of(FLAT_DEFAULTS[key])
        try:
            values[key] = canonical(key, _convert(value, kind))
        except (TypeError, OverflowError) as error:
            hint = _hint(value, kind) if isinstance(error, TypeError) else " of at most 64 bits"
            problems.add(f"{where}: {key} is {show_value(value)}: expected {_describe(kind)}{hint}")
            refused.add(key)
        else:
            # The default's own sequence type, so that a config that was dumped and loaded is equal to the first.
            values[key] = tuple(values[key]) if isinstance(FLAT_DEFAULTS[key], tuple) else values[key]
    errors, found = validate(values, sources, skip=refused)
    lines = problems.lines if problems.is_file_missing else [*problems.lines, *errors]
    if lines:
        raise ConfigError("\n".join(readable_lines(lines)))
    cfg = Config(nest(values), sources, (*warnings, *found))
    cfg.freeze()
    return cfg


def _kind_of(default: Any) -> str:
    if isinstance(default, (list, tuple)):
        return f"[{_kind_of(default[0])}]"
    return type(default).__name__


def _convert(value: Any, kind: str) -> Any:
    """The value as one of `kind`; TypeError when it is none, OverflowError when its number is too large for that.

    Integers become floats, and so does text such as 2e-05.
    YAML 1.1 reads 2e-05, which has no point, as text; the official files are full of it.
    """
    is_bool = isinstance(value, bool)
    for option in kind.split("|"):
        if option.startswith("[") and isinstance(value, (list, tuple)):
            try:
                return [_convert(item, option[1:-1]) for item in value]
            except TypeError:
                continue
        if option == "float" and isinstance(value, (int, float, str)) and not is_bool:
            try:
                return float(value)
            except ValueError:
                continue
        is_match = {
            "null": value is None,
            "bool": is_bool,
            "int": isinstance(value, int) and not is_bool,
            "str": isinstance(value, str),
        }
        if is_match.get(option, False):
            if option == "int" and not -(2**63) <= value < 2**63:
                raise OverflowError
            return value
    raise TypeError


def _describe(kind: str) -> str:
    words = {"null": "null", "bool": "True or False", "int": "an integer", "float": "a number", "str": "text"}
    plurals = {"int": "integers", "float": "numbers", "str": "texts"}
    parts = []
    for option in kind.split("|"):
        inner = option[1:-1]
        parts.append(f"a list of {plurals.get(inner, 'lists')}" if option.startswith("[") else words[option])
    return " or ".join(parts)


def _hint(value: Any, kind: str) -> str:
    if value is None:
        return "; leave the key out for its default"
    if kind == "str" and not isinstance(value, (Mapping, list)):
        return "; put it in quotes"
    if kind == "bool" and isinstance(value, int) and value in (0, 1):
        return f"; write {bool(value)}"
    return ""


def _unknown(key: str) -> str:
    if key in GROUPS:
        return f"{key} is a group of keys and takes no value: give one of its keys, as in {_first_below(key)}"
    known = next((known for known in FLAT_DEFAULTS if key.startswith(known + ".")), None)
    if known:
        return f"unknown key {key}: {known} is a value and has no keys below it"
    if "=" in key:
        return f"unknown key {key}: separate key and value by a space, not by ="
    near = did_you_mean(nearest_keys(key)) or "; swin/config/defaults.py lists all keys"
    return f"unknown key {key}{near}"


def _first_below(group: str) -> str:
    return next(key for key in FLAT_DEFAULTS if key.startswith(group + "."))


def nearest_keys(key: str) -> list[str]:
    """Up to three keys or groups that `key` may stand for, the likeliest first.

    The whole path and the last name are compared: `MODEL.EMBED_DIM` has the right name in the wrong group,
    `DATA.BATCHSIZE` a wrong name in the right one, and `TRAIN.LR` a part of the right name.
    """

    given = key[:100].upper()  # no key is as long, and the comparison takes time

    def likeness(known: str) -> tuple[float, float]:
        leaf, known_leaf = given.rpartition(".")[2], known.rpartition(".")[2]
        path = difflib.SequenceMatcher(None, given, known).ratio()
        name = difflib.SequenceMatcher(None, leaf, known_leaf).ratio()
        if leaf in known_leaf.split("_"):
            name = max(name, 0.75)
        return path + name, max(path, name)

    scored = sorted(((*likeness(known), known) for known in (*FLAT_DEFAULTS, *GROUPS)), reverse=True)
    best = scored[0][0]
    return [known for total, part, known in scored[:3] if part >= 0.7 and total >= best - 0.15]

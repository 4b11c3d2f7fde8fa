"""What one config key is: its declaration, and the conversion and checking of values that follow from it."""

import difflib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from swin.config.messages import did_you_mean
from swin.errors import UNPRINTABLE

_TYPES: dict[str, type[Any]] = {"null": type(None), "bool": bool, "int": int, "str": str}
_WORDS = {"null": "null", "bool": "True or False", "int": "an integer", "float": "a number", "str": "text"}
# A share of the run and a size: of training images in that part of it.
_PHASE = "phase"
_PLURALS = {"int": "integers", "float": "numbers", "str": "texts", "int|str": "integers or texts"}
_PLURALS |= {_PHASE: "pairs [share of the run, size]"}
_MAPPINGS = {"{str}": "NAME", "{any}": "VALUE"}
_ARGUMENT = "null|bool|int|float|str|[bool|int|float]"  # what a value of "{any}" may be
_BETWEEN_KINDS = re.compile(r"\|(?![^[]*\])")  # not the bars within a list's brackets

# What file systems allow of a path, and of a name in it.
_MAX_PATH_BYTES = 1000
_MAX_NAME_BYTES = 255

_MAX_STAGES = 10  # each halves the grid
_FOLDER = "a name, or several joined by single slashes: it becomes a folder below OUTPUT"
_STAGES = f"one value for each stage, and 1 to {_MAX_STAGES} stages"


@dataclass(frozen=True)
class Key:
    """One option of the configuration; its name is the one under which a group lists it."""

    default: Any  # its type is that of the option, unless `kind` says more
    kind: str = ""  # alternatives by "|", lists in brackets, as in "null|[int|str]"; or a mapping, "{str}" or "{any}"
    between: str = ""  # interval of numbers, in mathematical notation: of each value of a list; null is always allowed
    one_of: tuple[str, ...] = ()  # allowed texts, also in a list, or names in a mapping; case is ignored, as officially
    retired: tuple[str, ...] = ()  # texts of earlier versions, which are read as the default
    length: int = 0  # how many values a list has; 0 for any number
    items: str = ""  # what the values of such a list are, as in " [height, width]"
    is_per_stage: bool = False  # whether a list has one value for each stage
    matches: str = ""  # regular expression of texts that are allowed, beside those of `one_of`
    expected: str = ""  # what that expression stands for, in words
    is_path: bool = False  # whether the text is a path
    is_folder: bool = False  # whether the text names a folder below OUTPUT
    flag: str = ""  # a flag of main.py that sets it; one without a value, to what is not the default, for True or False
    is_new: bool = False  # whether this project has added it to the keys of the official repository
    deprecated: str = ""  # for an official key that has no effect, what to do instead
    has_effect: bool = True  # False for a key of a model or method that this version does not train
    meaning: str = ""  # what it is, its unit, and what changes with it

    def __post_init__(self) -> None:
        if not self.kind:
            object.__setattr__(self, "kind", _kind_of(self.default))

    def means(self, text: str) -> "Key":
        """Return the key with its meaning; line breaks and indentation of `text` do not matter."""
        return replace(self, meaning=" ".join(text.split()))

    def convert(self, value: Any) -> Any:
        """Return the value as one of the key's type, and a choice in its listed spelling.

        Raises:
            TypeError: it is of none of the key's types.
            OverflowError: it is a number too large for its type.
        """
        converted = _convert(value, self.kind)
        if converted in self.retired:
            return self.default
        if self.one_of:
            spelled = {choice.lower(): choice for choice in self.one_of}
            if isinstance(converted, dict):
                return {spelled.get(name.lower(), name): item for name, item in converted.items()}
            if isinstance(converted, list):
                return [spelled.get(item.lower(), item) for item in converted]
            return spelled.get(converted.lower(), converted)
        # The default's own sequence type, so that a config that was dumped and loaded is equal to the first.
        return tuple(converted) if isinstance(self.default, tuple) else converted

    def describe_types(self) -> str:
        """Say the types in words, as in "null or a list of numbers"."""
        if self.kind in _MAPPINGS:
            return f"a mapping, as {{{self.one_of[0] if self.one_of else 'NAME'}: {_MAPPINGS[self.kind]}}}"
        options = _BETWEEN_KINDS.split(self.kind)
        return " or ".join(_WORDS.get(kind) or f"a list of {_PLURALS.get(kind[1:-1], 'lists')}" for kind in options)

    def describe(self) -> str:
        """Say all that is allowed in words, as in "a list of numbers in (0, 1], 2 values"."""
        if self.kind == "{str}":
            return f"a mapping of any of {', '.join(self.one_of)} to names"
        if self.one_of:
            choices = [*self.one_of, self.expected] if self.matches else self.one_of
            return f"{'a list of any' if '[' in self.kind else 'one'} of {', '.join(choices)}"
        if self.expected or self.is_folder:
            return self.expected or _FOLDER
        words = self.describe_types()
        if self.between:
            words += f" {_describe_interval(self.between, is_list='[' in self.kind)}"
        if self.length:
            words += f", {self.length} values{self.items}"
        return f"{words}, {_STAGES}" if self.is_per_stage else words

    def refuse(self, value: Any) -> str:
        """Say what was expected instead of a value of the key's type; nothing when it is allowed."""
        is_list = isinstance(value, (list, tuple))
        items = [*value, *value.values()] if isinstance(value, dict) else value if is_list else [value]
        if found := next(filter(None, (UNPRINTABLE.search(item) for item in items if isinstance(item, str))), None):
            return f"text without the character {found[0]!r}; leave it out"
        if (self.is_path or self.is_folder) and not _fits_file_systems(value):
            return (
                f"at most {_MAX_PATH_BYTES} bytes, and {_MAX_NAME_BYTES} between two slashes, as file systems do; "
                "choose a shorter name"
            )
        if self.is_folder and {"", ".", ".."}.intersection(value.replace("\\", "/").split("/")):
            return _FOLDER
        chosen = list(value) if isinstance(value, dict) else items
        others = [item for item in chosen if item not in self.one_of] if self.one_of else []
        if others and not (self.matches and re.fullmatch(self.matches, others[0])):
            return f"{self.describe()}{did_you_mean(difflib.get_close_matches(others[0].lower(), self.one_of, n=1))}"
        if self.between and not all(item is None or _is_between(item, self.between) for item in items):
            return f"{'numbers' if is_list else 'a number'} {_describe_interval(self.between, is_list=is_list)}"
        if is_list and self.length and len(value) != self.length:
            return f"{self.length} values{self.items}, not {len(value)}"
        if self.is_per_stage and not 1 <= len(value) <= _MAX_STAGES:
            return _STAGES
        return self.expected if self.matches and not self.one_of and not re.fullmatch(self.matches, value) else ""


def _describe_interval(interval: str, *, is_list: bool) -> str:
    low, high = interval[1:-1].split(", ")
    is_limit = interval[-1] == "]" and float(high) > 1  # rather than what the number means
    if high != "inf" and not is_limit:
        return f"in {interval}"
    if low == "-inf":
        return "that are finite" if is_list else "that is finite"
    words = f"of at least {low}" if interval[0] == "[" else f"above {low}"
    return f"{words} and at most {float(high):,.0f}" if is_limit else words


def _is_between(number: float, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(","))
    # Written so that NaN fails.
    is_above = low <= number if interval[0] == "[" else low < number
    return is_above and (number <= high if interval[-1] == "]" else number < high)


def _fits_file_systems(text: str) -> bool:
    path = text.encode(errors="replace")
    return len(path) <= _MAX_PATH_BYTES and max(map(len, path.split(b"/"))) <= _MAX_NAME_BYTES


def _kind_of(default: Any) -> str:
    return f"[{_kind_of(default[0])}]" if isinstance(default, (list, tuple)) else type(default).__name__


def _convert(value: Any, kind: str) -> Any:
    """As `Key.convert`. Integers become floats, and so does text such as 2e-05.

    YAML 1.1 reads 2e-05, which has no point, as text; the official files are full of it.
    """
    is_bool = isinstance(value, bool)
    if kind == "{str}" and isinstance(value, Mapping):
        return {_convert(name, "str"): _convert(item, "str") for name, item in value.items()}
    if kind == "{any}" and isinstance(value, Mapping):
        return {_convert(name, "str"): _convert(item, _ARGUMENT) for name, item in value.items()}
    for option in _BETWEEN_KINDS.split(kind):
        with suppress(TypeError, ValueError):
            if option[0] == "[" and isinstance(value, (list, tuple)):
                return [_convert(item, option[1:-1]) for item in value]
            if option == _PHASE and isinstance(value, (list, tuple)) and len(value) == 2:
                return [_convert(value[0], "float"), _convert(value[1], "int|[int]")]
            if option == "float" and isinstance(value, (int, float, str)) and not is_bool:
                return float(value)
        if option in _TYPES and isinstance(value, _TYPES[option]) and is_bool == (option == "bool"):
            if option == "int" and not -(2**63) <= value < 2**63:
                raise OverflowError
            return value
    raise TypeError

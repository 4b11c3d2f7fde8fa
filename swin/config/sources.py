"""Reads what users write: YAML files with their BASE files, and KEY VALUE options. Nothing is interpreted here."""

import ast
import difflib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from swin.config.keys import KEYS
from swin.config.messages import did_you_mean, show_value
from swin.config.plain_yaml import PlainLoader
from swin.config.tree import GROUPS
from swin.variants import ALIASES, VARIANTS

# What all files and options together may hold, in bytes; a file counts as 1,000 at least, an alias as all that it
# stands for. The configs of this project have 5,000.
MAX_BYTES = 100_000
_LEAST_BYTES = 1_000

# The recipes of an installed package, or those beside it in a checkout.
_PACKAGE = Path(__file__).parents[1]
RECIPES = (_PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent) / "configs"


class Entry(NamedTuple):
    """A value that was given for a key, and where: `configs/a.yaml:7`, `--opts`."""

    key: str
    value: Any
    where: str


@dataclass
class Problems:
    """What is wrong with the sources, one line each, and how much more may be read."""

    lines: list[str] = field(default_factory=list)
    # Whether a whole file is missing: its values then are too, and rules between keys would only add noise.
    is_file_missing: bool = False
    room: int = MAX_BYTES

    def add(self, line: str, *, is_file_missing: bool = False) -> None:
        self.lines.append(line)
        self.is_file_missing |= is_file_missing


def find_recipe(name: str) -> str:
    """Find a recipe of this package, as swin_digits or configs/swin_digits.yaml; `name` itself where there is none.

    A file of that name is what is meant, wherever there is one.
    """
    folder, end = os.path.split(name)
    path = os.path.join(RECIPES, f"{end.removesuffix('.yaml')}.yaml")
    is_recipe = folder in ("", RECIPES.name) and not os.path.isfile(name) and os.path.isfile(path)
    return path if is_recipe else name


def read_file(path: str, problems: Problems, where: str = "", chain: tuple[str, ...] = ()) -> list[Entry]:
    """Read a YAML file after the files that its BASE names.

    Args:
        path: the file.
        problems: what is wrong with the files is added here.
        where: file and line that named this one as its BASE; empty for the first.
        chain: the files whose BASE led here, to notice a cycle.

    Returns:
        The entries in the order in which they apply.
    """
    if problems.room < 0:  # said already; BASE files that name two each would go on for ever
        return []
    name = os.path.normpath(path)
    text = _read_text(name, problems, f"{where}: BASE: " if where else "")
    if text and os.path.realpath(path) in map(os.path.realpath, chain):
        problems.add(f"{where}: BASE goes round in a circle: {' -> '.join([*chain, name])}; remove one of them")
        return []
    own = _parse(text, name, problems) if text else []
    entries: list[Entry] = []
    for entry in [entry for entry in own if entry.key == "BASE"]:
        bases = [entry.value] if isinstance(entry.value, str) else entry.value
        if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
            line = f"{entry.where}: BASE is {show_value(bases)}: expected a list of YAML files, relative to this one"
            problems.add(line, is_file_missing=True)
            continue
        for base in filter(None, bases):
            entries += read_file(os.path.join(os.path.dirname(path), base), problems, entry.where, (*chain, name))
    return entries + [entry for entry in own if entry.key != "BASE"]


def read_opts(opts: Sequence[Any], problems: Problems) -> list[Entry]:
    """Read KEY VALUE pairs. A value is parsed as YAML, else as a Python literal, unless its key takes text."""
    if len(opts) % 2:
        hint = "; separate key and value by a space, not by =" if any("=" in str(item) for item in opts) else ""
        problems.add(
            f"--opts takes KEY VALUE pairs, but an odd number of items was given ({len(opts)}), so that "
            f"{show_value(opts[-1])} at the end has no value{hint}"
        )
        return []
    entries = []
    for key, value in zip(opts[0::2], opts[1::2], strict=True):
        problems.room -= len(value) if isinstance(value, str) else 0
        if key == "BASE":
            problems.add("--opts: BASE can only be given in a YAML file")
        elif problems.room < 0:
            problems.add(f"--opts: the values, with the files, have more than {MAX_BYTES:,} characters; shorten them")
            break
        else:
            entries.append(Entry(str(key), _literal(value, str(key)) if isinstance(value, str) else value, "--opts"))
    return entries


def _literal(text: str, key: str) -> Any:
    if key in KEYS and KEYS[key].kind == "str":
        is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        return text[1:-1] if is_quoted else text
    # YAML first, as in the files; what it leaves as text may be a tuple, None or 2e-05.
    for parse in (lambda text: PlainLoader(text, MAX_BYTES).get_single_data(), ast.literal_eval):
        try:
            value = parse(text)
        except (yaml.YAMLError, SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
            continue
        if not isinstance(value, str):
            return value
    return text


def _read_text(name: str, problems: Problems, prefix: str) -> str:
    try:
        if not stat.S_ISREG(os.stat(name).st_mode):  # opening a pipe waits for whoever writes to it
            raise OSError("it is not a regular file")
        with open(name, "rb") as file:
            raw = file.read(problems.room + 1)
        problems.room -= max(len(raw), _LEAST_BYTES)
        if problems.room < 0:
            raise OSError(
                f"it and the files read before it have more than {MAX_BYTES:,} bytes, where each counts as "
                f"{_LEAST_BYTES:,} at least; expected a YAML file, and BASE files that are named once"
            )
        return raw.decode("utf-8-sig")
    except FileNotFoundError:
        message = f"does not exist: expected a YAML file{did_you_mean(_nearest_files(Path(name), bool(prefix)))}"
    except UnicodeDecodeError:
        message = "is not UTF-8 text: expected a YAML file"
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        message = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    problems.add(f"{prefix}{name} {message}", is_file_missing=True)
    return ""


def _nearest_files(path: Path, is_base: bool) -> list[str]:
    """Return up to three files beside a missing one, or recipes, that may be meant, all about as likely."""
    near = {file.name: str(file) for file in path.parent.glob("*.y*ml")} if path.parent.is_dir() else {}
    name = path.name
    if not is_base and path.parent in (Path(), Path(RECIPES.name)):
        recipes = {file.stem for file in RECIPES.glob("*.yaml")}
        variants = {**ALIASES, **dict.fromkeys(VARIANTS)}
        for spelling, variant in ((spelling, ALIASES.get(spelling, spelling)) for spelling in variants):
            near[spelling] = variant if variant in recipes else f"finetune --opts MODEL.VARIANT {variant}"
        near |= {recipe: recipe for recipe in recipes}
        name = path.name.removesuffix(".yaml")
    matches = difflib.get_close_matches(name[:100], near, n=3)
    likeness = [difflib.SequenceMatcher(None, match, name).ratio() for match in matches]
    return [near[match] for match, ratio in zip(matches, likeness, strict=True) if ratio > likeness[0] - 0.05]


def _parse(text: str, name: str, problems: Problems) -> list[Entry]:
    try:
        loader = PlainLoader(text, problems.room + len(text))
        root = loader.get_single_node()
        problems.room = min(problems.room, loader.room)
        if root is None:
            return []
        if isinstance(root, yaml.MappingNode):
            return list(_walk(loader, root, "", name, problems, {}))
        what = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
        message = f"{name}:1: expected keys and values, as in DATA: {{IMG_SIZE: 224}}, not {what}"
    except RecursionError:
        message = f"{name}: not valid YAML: lists and mappings are nested too deeply"
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:  # such as a ValueError of the escape \Uffffffff
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        what = ", ".join(filter(None, (getattr(error, "context", None), getattr(error, "problem", None))))
        message = f"{where}: not valid YAML: {what or str(error).splitlines()[0]}"
    problems.add(message, is_file_missing=True)
    return []


def _walk(
    loader: PlainLoader, node: yaml.MappingNode, prefix: str, name: str, problems: Problems, seen: dict[str, int]
) -> Iterator[Entry]:
    """Yield a mapping's entries. `seen` has the line of each key of the file: PyYAML lets a repetition win silently."""
    for key_node, _ in node.value:
        key, line = f"{prefix}{key_node.value}", key_node.start_mark.line + 1
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a list or mapping as a key", key_node.start_mark)
        if key in seen:
            problems.add(f"{name}:{line}: {key} is given twice, first in line {seen[key]}: remove one of them")
        seen.setdefault(key, line)
    loader.flatten_mapping(node)  # YAML's own inheritance, <<: *anchor
    for key_node, value_node in node.value:
        key, where = f"{prefix}{key_node.value}", f"{name}:{key_node.start_mark.line + 1}"
        if key in GROUPS and isinstance(value_node, yaml.MappingNode):
            yield from _walk(loader, value_node, f"{key}.", name, problems, seen)
            continue
        value = loader.construct_object(value_node, deep=True)
        if key not in GROUPS or value is not None:  # a group with nothing below it changes nothing
            yield Entry(key, value, where)

"""Reads what users write: YAML files with their BASE files, and KEY VALUE options. Nothing is interpreted here."""

import ast
import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from swin.config.defaults import KINDS
from swin.config.legal import did_you_mean, show_value
from swin.config.tree import FLAT_DEFAULTS, GROUPS


class Entry(NamedTuple):
    """A value that was given for a key, and where: `configs/a.yaml:7`, `--opts`."""

    key: str
    value: Any
    where: str


@dataclass
class Problems:
    """What is wrong with the sources, one line each."""

    lines: list[str] = field(default_factory=list)
    # Whether a whole file is missing: its values then are too, and rules between keys would only add noise.
    is_file_missing: bool = False

    def add(self, line: str, *, is_file_missing: bool = False) -> None:
        self.lines.append(line)
        self.is_file_missing |= is_file_missing


def read_file(path: str, problems: Problems, where: str = "", chain: tuple[str, ...] = ()) -> list[Entry]:
    """Reads a YAML file after the files that its BASE names.

    Args:
        path: the file.
        problems: what is wrong with the files is added here.
        where: file and line that named this one as its BASE; empty for the first.
        chain: the files whose BASE led here, to notice a cycle.

    Returns:
        The entries in the order in which they apply.
    """
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
    """Reads KEY VALUE pairs. A value is parsed as YAML, else as a Python literal, unless its key takes text."""
    if len(opts) % 2:
        hint = "; separate key and value by a space, not by =" if any("=" in str(item) for item in opts) else ""
        problems.add(
            f"--opts takes KEY VALUE pairs, but an odd number of items was given ({len(opts)}), so that "
            f"{show_value(opts[-1])} at the end has no value{hint}"
        )
        return []
    entries = []
    for key, value in zip(opts[0::2], opts[1::2], strict=True):
        if key == "BASE":
            problems.add("--opts: BASE can only be given in a YAML file")
        else:
            entries.append(Entry(str(key), _literal(value, str(key)) if isinstance(value, str) else value, "--opts"))
    return entries


def _literal(text: str, key: str) -> Any:
    if key not in KINDS and isinstance(FLAT_DEFAULTS.get(key), str):
        is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        return text[1:-1] if is_quoted else text
    # YAML first, as in the files; what it leaves as text may be a tuple, None or 2e-05.
    for parse, errors in ((yaml.safe_load, yaml.YAMLError), (ast.literal_eval, SyntaxError)):
        try:
            value = parse(text)
        except (errors, ValueError, RecursionError, MemoryError):
            continue
        if not isinstance(value, str):
            return value
    return text


def _read_text(name: str, problems: Problems, prefix: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        folder = Path(name).parent
        siblings = [entry.name for entry in folder.glob("*.y*ml")] if folder.is_dir() else []
        close = [str(folder / match) for match in difflib.get_close_matches(Path(name).name, siblings, n=1)]
        message = f"does not exist: expected a YAML file{did_you_mean(close)}"
    except UnicodeDecodeError:
        message = "is not UTF-8 text: expected a YAML file"
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        message = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    problems.add(f"{prefix}{name} {message}", is_file_missing=True)
    return ""


def _parse(text: str, name: str, problems: Problems) -> list[Entry]:
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return []
        if isinstance(root, yaml.MappingNode):
            return list(_walk(loader, root, "", name, problems, {}))
        what = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
        message = f"{name}:1: expected keys and values, as in DATA: {{IMG_SIZE: 224}}, not {what}"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}" if mark else name
        what = ", ".join(filter(None, (getattr(error, "context", None), getattr(error, "problem", None))))
        message = f"{place}: not valid YAML: {what or str(error).splitlines()[0]}"
    except (ValueError, RecursionError) as error:  # such as the date 2024-13-45
        message = f"{name}: a value cannot be read: {error}; put text in quotes"
    problems.add(message, is_file_missing=True)
    return []


def _walk(
    loader: yaml.SafeLoader, node: yaml.MappingNode, prefix: str, name: str, problems: Problems, seen: dict[str, int]
) -> Iterator[Entry]:
    """Entries of a mapping. `seen` has the line of each key of the file: PyYAML lets a repeated key win silently."""
    for key_node, _ in node.value:
        key, line = f"{prefix}{key_node.value}", key_node.start_mark.line + 1
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
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

"""Checks a whole configuration: each key by itself, then the rules between keys. All errors are found in one pass.

A rule's message names in braces the keys that it depends on: they are shown with their values and where these come
from, and the message is dropped when one of them was refused already.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from swin.config.keys import KEYS
from swin.config.keys.model import GROUP_OF_TYPE
from swin.config.messages import show_value
from swin.config.rules import ERRORS, find_warnings

_NAME = re.compile(r"\{([A-Z][A-Z0-9_.]*)\}")


def validate(
    values: Mapping[str, Any], sources: Mapping[str, str], skip: Iterable[str] = ()
) -> tuple[list[str], list[str]]:
    """Check a whole configuration.

    Args:
        values: value of every key, by dotted name, each of its key's type.
        sources: where the keys that were given come from, as in `configs/a.yaml:7`; the others are shown as defaults.
        skip: keys already reported; rules that involve them are not applied.

    Returns:
        Errors and warnings, one line each.
    """

    def show(name: str) -> str:
        return f"{name} = {show_value(values[name])} ({sources.get(name, 'default')})"

    def fill(messages: Iterable[str]) -> list[str]:
        allowed = [message for message in messages if refused.isdisjoint(_NAME.findall(message))]
        return [_NAME.sub(lambda found: show(found[1]), message) for message in allowed]

    problems = {name: key.refuse(values[name]) for name, key in KEYS.items() if name not in skip}
    refused = {*skip, *(name for name, expected in problems.items() if expected)}
    errors = [f"{show(name)}: expected {expected}" for name, expected in problems.items() if expected]
    # Rules must be able to divide by a value whose message is dropped.
    v = {**values, **{name: KEYS[name].default for name in refused}}
    errors += fill(chain.from_iterable(rule(v) for rule in ERRORS))
    return errors, fill(chain(find_warnings(v), _keys_without_effect(v, sources)))


def _keys_without_effect(v: Mapping[str, Any], given: Iterable[str]) -> Iterator[str]:
    others = tuple(f"MODEL.{group}." for kind, group in GROUP_OF_TYPE.items() if kind != v["MODEL.TYPE"])
    for name in given:
        key = KEYS[name]
        if key.deprecated:
            yield f"{{{name}}} is deprecated and has no effect: {key.deprecated}"
        # A dumped config gives every key, so only those that were changed are worth a word.
        elif not key.has_effect and v[name] != key.default:
            yield f"{{{name}}} has no effect: it belongs to a model or method that this version does not train"
        elif name.startswith(others) and v[name] != key.default:
            yield f"{{{name}}} has no effect: {{MODEL.TYPE}} is another family"

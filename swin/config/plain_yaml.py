"""A YAML loader for plain values only, and for no more of them than it is told to expect."""

from typing import Any, cast

import yaml

_TEXT = yaml.SafeLoader.DEFAULT_SCALAR_TAG
_UNUSED = {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value"}


class PlainLoader(yaml.SafeLoader):
    """Loads text, numbers, True and False, null, lists and mappings; all else raises `yaml.YAMLError`.

    A tag may only say what the value is without it, or that it is text. An alias counts as all that it stands for: a
    kilobyte of aliases of aliases can describe more than fits in memory.
    """

    def __init__(self, text: str, max_nodes: int) -> None:
        super().__init__(text)
        self.room = max_nodes  # for further nodes
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As PyYAML's, with the checks of this class."""
        is_alias, room = self.check_event(yaml.AliasEvent), self.room
        mark = cast(Any, self).peek_event().start_mark
        node = super().compose_node(parent, index)
        assert node is not None
        if not is_alias:
            self._check_tag(node)
            self._sizes[node] = room - self.room + 1
        elif node not in self._sizes:
            raise _error("an alias stands for a list or mapping that it is in", mark)
        self.room = room - self._sizes[node]
        if self.room < 0:
            raise _error("it holds too many values, counting each alias in full", mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As PyYAML's, but text that only looks like a number (0x_, or 5,000 digits) is a `yaml.YAMLError` as well."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, ArithmeticError):
            raise _error("a number that cannot be read; put text in quotes", node.start_mark) from None

    def _check_tag(self, node: yaml.Node) -> None:
        meant = cast(Any, self).resolve(type(node), node.value, (True, False))
        is_text = isinstance(node, yaml.ScalarNode) and node.tag == _TEXT
        if not is_text and (node.tag != meant or meant in _UNUSED):
            tag, advice = node.tag.replace("tag:yaml.org,2002:", "!!"), "leave the tag out, or put text in quotes"
            raise _error(f"no key takes a value of the type {tag}; {advice}", node.start_mark)


def _error(message: str, mark: yaml.error.Mark) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(None, None, message, mark)

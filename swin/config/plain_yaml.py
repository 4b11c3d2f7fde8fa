"""A YAML loader for plain values only, and for no more of them than it is told to expect."""

from typing import Any

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
        is_alias, mark, room = self.check_event(yaml.AliasEvent), self.peek_event().start_mark, self.room
        node = super().compose_node(parent, index)
        assert node is not None
        if not is_alias:
            self._check_tag(node)
            self._sizes[node] = room - self.room + 1
        elif node not in self._sizes:
            raise yaml.composer.ComposerError(None, None, "an alias stands for a list or mapping that it is in", mark)
        self.room = room - self._sizes[node]
        if self.room < 0:
            raise yaml.composer.ComposerError(None, None, "it holds too many values, counting each alias in full", mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As PyYAML's, but text that only looks like a number (0x_, or 5,000 digits) is a `yaml.YAMLError` as well."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, ArithmeticError):
            raise yaml.constructor.ConstructorError(
                None, None, "a number that cannot be read; put text in quotes", node.start_mark
            ) from None

    def _check_tag(self, node: yaml.Node) -> None:
        meant = self.resolve(type(node), node.value, (True, False))
        is_text = isinstance(node, yaml.ScalarNode) and node.tag == _TEXT
        if not is_text and (node.tag != meant or meant in _UNUSED):
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise yaml.composer.ComposerError(
                None,
                None,
                f"no key takes a value of the type {tag}; leave the tag out, or put text in quotes",
                node.start_mark,
            )

"""The frozen `Config`, its flat form (values by dotted key) and its YAML form."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from yacs.config import CfgNode

from swin.config.defaults import DEFAULTS, DEPRECATED


def _group_names(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield prefix + name
            yield from _group_names(value, f"{prefix}{name}.")


GROUPS = frozenset(_group_names(DEFAULTS))


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted key. Only known groups are entered: any other mapping stays one value."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        flat.update(flatten(value, f"{key}.") if key in GROUPS and isinstance(value, Mapping) else {key: value})
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, name = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = value
    return tree


FLAT_DEFAULTS = flatten(DEFAULTS)


class Config(CfgNode):
    """The resolved configuration: a yacs tree that also knows which keys were given, and what to warn about."""

    def __init__(
        self,
        tree: Mapping[str, Any] | None = None,
        sources: Mapping[str, str] | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        super().__init__()
        for name, value in (tree or {}).items():
            self[name] = CfgNode(value) if isinstance(value, dict) else value
        # In __dict__, as yacs keeps its own state: attributes of a CfgNode are keys of the tree.
        self.__dict__["_sources"] = dict(sources or {})
        self.__dict__["_warnings"] = tuple(warnings)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should be told about this configuration, one line each."""
        return self.__dict__["_warnings"]

    def is_set(self, key: str) -> bool:
        """Whether `key`, as in "MODEL.NUM_CLASSES", was given by a file, option or flag rather than by its default."""
        if key not in FLAT_DEFAULTS:
            raise KeyError(key)
        return key in self.__dict__["_sources"]


def config_to_dict(cfg: Config) -> dict[str, Any]:
    """The configuration as nested dicts, lists and scalars, for a checkpoint.

    BASE (already resolved) and deprecated keys are left out, and so is MODEL.NUM_CLASSES unless it was given: its
    default must not contradict the data set when the result is loaded again.
    """
    left_out = {"BASE", *DEPRECATED}
    if not cfg.is_set("MODEL.NUM_CLASSES"):
        left_out.add("MODEL.NUM_CLASSES")
    return nest({key: _plain(value) for key, value in flatten(cfg).items() if key not in left_out})


def dump_config(cfg: Config) -> str:
    """The configuration as YAML text; a run with it repeats the run it came from."""
    return yaml.dump(config_to_dict(cfg), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _plain(value: Any) -> Any:
    """A copy with lists for tuples, so that YAML needs neither tags nor anchors."""
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


class _Dumper(yaml.SafeDumper):
    """Writes each list on one line."""


def _represent_list(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.SequenceNode:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


_Dumper.add_representer(list, _represent_list)

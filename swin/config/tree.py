"""The frozen `Config`, its flat form (values by dotted key) and its YAML form."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml
from yacs.config import CfgNode

from swin.config.keys import KEYS
from swin.config.keys.model import GROUP_OF_TYPE

FLAT_DEFAULTS = {name: key.default for name, key in KEYS.items()}
_LIST = yaml.SafeLoader.DEFAULT_SEQUENCE_TAG
GROUPS = frozenset(name[:end] for name in KEYS for end, letter in enumerate(name) if letter == ".")


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return values by dotted key. Only known groups are entered: any other mapping stays one value."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        flat.update(flatten(value, f"{key}.") if key in GROUPS and isinstance(value, Mapping) else {key: value})
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `flatten`."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, name = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = value
    return tree


class Layer(NamedTuple):
    """Where a value was given, as `configs/a.yaml:7` or `--opts`, and the value that it replaced."""

    where: str
    before: Any


class Config(CfgNode):
    """The resolved configuration: a yacs tree that also knows which keys were given, and what to warn about."""

    def __init__(self, tree: Mapping[str, Any], layers: Mapping[str, Layer], warnings: Sequence[str]) -> None:
        super().__init__()
        for name, value in tree.items():
            self[name] = CfgNode(value) if isinstance(value, dict) else value
        # In __dict__, as yacs keeps its own state: attributes of a CfgNode are keys of the tree.
        self.__dict__["_layers"] = dict(layers)
        self.__dict__["_warnings"] = tuple(warnings)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should be told about this configuration, one line each."""
        warnings: tuple[str, ...] = self.__dict__["_warnings"]
        return warnings

    def is_set(self, key: str) -> bool:
        """Whether `key`, as in "MODEL.NUM_CLASSES", was given by a file, option or flag rather than by its default."""
        if key not in KEYS:
            raise KeyError(key)
        return key in self.__dict__["_layers"]

    @property
    def architecture(self) -> CfgNode:
        """The group of the model's own family, as MODEL.SWIN: its keys are the arguments of the family's class."""
        return self.MODEL[GROUP_OF_TYPE[self.MODEL.TYPE]]

    def with_value(self, key: str, value: Any, where: str) -> "Config":
        """Return a copy with an allowed value of one key, which `where` has given; other keys keep their sources."""
        flat = flatten(self)
        layers = {**self.layers, key: Layer(where, flat[key])}
        cfg = Config(nest({**flat, key: value}), layers, self.warnings)
        cfg.freeze()
        return cfg

    @property
    def layers(self) -> dict[str, Layer]:
        """Of each key that was given, where it was given last, and its value before that."""
        return dict(self.__dict__["_layers"])


def config_to_dict(cfg: Config) -> dict[str, Any]:
    """Return the configuration as nested dicts, lists and scalars, for a checkpoint.

    BASE (already resolved) and deprecated keys are left out, and so is MODEL.NUM_CLASSES unless it was given: its
    default must not contradict the data set when the result is loaded again.
    """
    left_out = {"BASE", *(name for name, key in KEYS.items() if key.deprecated)}
    if not cfg.is_set("MODEL.NUM_CLASSES"):
        left_out.add("MODEL.NUM_CLASSES")
    return nest({key: _plain(value) for key, value in flatten(cfg).items() if key not in left_out})


def dump_config(cfg: Config) -> str:
    """Return the configuration as YAML text; a run with it repeats the run it came from."""
    return yaml.dump(config_to_dict(cfg), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _plain(value: Any) -> Any:
    """Copy with lists for tuples and plain mappings, so that YAML needs neither tags nor anchors."""
    if isinstance(value, Mapping):
        return dict(value)
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


class _Dumper(yaml.SafeDumper):
    """Writes each list on one line."""


_Dumper.add_representer(list, lambda dumper, value: dumper.represent_sequence(_LIST, value, flow_style=True))

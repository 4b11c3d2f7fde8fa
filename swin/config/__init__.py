"""Configuration: a commented tree of defaults, YAML files with inheritance, options, and their checks."""

from swin.config.load import config_from_dict, load_config
from swin.config.tree import Config, config_to_dict, dump_config, flatten

__all__ = ["Config", "config_from_dict", "config_to_dict", "dump_config", "flatten", "load_config"]

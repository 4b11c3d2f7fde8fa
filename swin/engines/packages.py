"""Packages of engines, which are imported late: not everybody has them, and each takes seconds."""

from importlib import import_module
from typing import Any

from swin.errors import ConfigError


def need(*names: str, extra: str) -> Any:
    """Import packages and return the first.

    Raises:
        ConfigError: one is not installed.
    """
    try:
        modules = [import_module(name) for name in names]
        return modules[0]
    except ImportError as error:
        raise ConfigError(f'{error.name or names[0]} is not installed: pip install "swin-trainer[{extra}]".') from None

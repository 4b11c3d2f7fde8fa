"""Packages of engines, which are imported late: not everybody has them, and each takes seconds."""

import sys
from importlib import import_module
from typing import Any

from swin.errors import ConfigError


def need(*names: str, extra: str) -> Any:
    """Import packages and return the first.

    OpenVINO tells its makers over the network that it is used, from its import on; here it finds no means to.

    Raises:
        ConfigError: one is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        modules = [import_module(name) for name in names]
        return modules[0]
    except ImportError as error:
        raise ConfigError(f'{error.name or names[0]} is not installed: pip install "swin-trainer[{extra}]".') from None

"""Packages of engines, which are imported late: not everybody has them, and each takes seconds."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


class _SignalStack(ctypes.Structure):
    """`stack_t` of sigaltstack(2)."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def keep_signal_stack() -> Iterator[None]:
    """Put this thread's stack for signal handlers back to what it was.

    A model that OpenVINO compiles sets one of its own, and when it goes it puts back the one that it has found. So the
    second of two models that go in the order in which they came puts back the first one's, which is no more, and the
    next signal with a handler ends the process with a segmentation fault (OpenVINO 2026.4; PyTorch's data loaders
    handle SIGCHLD).
    """
    if sys.platform != "linux":
        yield
        return
    set_stack, before = ctypes.CDLL(None).sigaltstack, _SignalStack()
    set_stack(None, ctypes.byref(before))
    try:
        yield
    finally:
        set_stack(ctypes.byref(before), None)

"""What the tests of engines need to be installed."""

from importlib.util import find_spec

import pytest

ONNX = ("onnx", "onnxscript")
PACKAGES = {"onnx": (*ONNX, "onnxruntime"), "openvino": (*ONNX, "openvino"), "torch": ()}  # by the format


def need(*names: str) -> None:
    """Skip the test where a package is missing: without an import, on which OpenVINO reports to its makers."""
    for name in names:
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")

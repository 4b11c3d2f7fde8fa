"""Where the tests of this folder run: on a GPU, and where it is cheap on a CPU too, which shows that they work."""

import os

import pytest
import torch

# For deterministic matrix products; read when CUDA is first used.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> torch.device:
    """Both devices; for what needs a GPU in any case see `gpu`."""
    return find_device(request.param)


@pytest.fixture
def gpu() -> torch.device:
    """For tests that are marked gpu."""
    return find_device("cuda")


def find_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU: torch.cuda.is_available() is False")
    return torch.device(name, 0) if name == "cuda" else torch.device(name)


@pytest.fixture(autouse=True)
def _fresh_device():
    """Compiled code and memory of one test are none of the next."""
    yield
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # what torch says of its own state on a GPU, not of this project
        for message in ("ignore:TensorFloat32 tensor cores", "ignore:Synchronization debug mode", "ignore:.*SMs"):
            item.add_marker(pytest.mark.filterwarnings(message))

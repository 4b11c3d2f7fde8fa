"""Where the tests of this folder run: on a GPU, and where it is cheap on a CPU too, which shows that they work."""

import os
from pathlib import Path

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
    """Exact products, as the program's default is; compiled code and memory of one test are none of the next."""
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = False
    yield
    for flag, value in zip(flags, before, strict=True):
        flag.allow_tf32 = value
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):  # what torch says of the GPU and of its own compiler
            item.add_marker(pytest.mark.filterwarnings("ignore::UserWarning:torch"))
            item.add_marker(pytest.mark.filterwarnings("ignore:Synchronization debug mode"))

"""What a config's number format and TRAIN.COMPILE set on any machine."""

import pytest
import torch

from swin import SwinTransformer
from swin.config import load_config
from swin.distributed import Distributed
from swin.engine import build
from swin.engine.precision import Precision
from tests.updates import make_state

ALONE = Distributed(0, 1, 0, torch.device("cpu"))


@pytest.fixture
def tf32():
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    yield lambda: [flag.allow_tf32 for flag in flags]
    for flag, value in zip(flags, before, strict=True):
        flag.allow_tf32 = value


@pytest.mark.parametrize("value", [True, False])
def test_tf32_is_set_for_products_and_convolutions(tf32, value):
    build.build_precision(load_config(None, ["TF32", str(value)]), ALONE)
    assert tf32() == [value, value]
    assert torch.get_float32_matmul_precision() == ("high" if value else "highest")


def test_tf32_is_off_unless_asked_for(tf32):
    torch.backends.cudnn.allow_tf32 = True  # torch's own default
    build.build_precision(load_config(None, ["AMP_ENABLE", "False"]), ALONE)
    assert tf32() == [False, False]


@pytest.mark.parametrize(
    ("mode", "accumulation", "expected"),
    [("max-autotune", 1, "max-autotune"), ("max-autotune", 2, "max-autotune-no-cudagraphs"), ("default", 2, "default")],
)
def test_gradients_that_are_added_up_are_not_left_in_a_cuda_graph(monkeypatch, mode, accumulation, expected):
    modes = []
    monkeypatch.setattr(SwinTransformer, "compile", lambda self, mode: modes.append(mode))
    monkeypatch.setenv("CXX", "g++")
    options = ["TRAIN.COMPILE", mode, "TRAIN.ACCUMULATION_STEPS", str(accumulation)]
    make_state(torch.device("cpu"), Precision("cpu", None), *options)
    assert modes == [expected]

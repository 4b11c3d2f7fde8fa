"""The model under torch.compile: one graph, the same numbers, and no recompilation."""

import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from swin import SwinMLP, SwinTransformer, SwinTransformerV2
from swin.distill.objective import Student
from swin.engine import build
from swin.errors import ConfigError

SMALL = {"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 5, "window_size": 4}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def images(batch: int = 2, height: int = 72, width: int = 40) -> torch.Tensor:
    """Grids of 18 x 10 and 9 x 5 tokens: several windows, shifted and padded."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


FAMILIES = pytest.mark.parametrize("family", [SwinTransformer, SwinTransformerV2, SwinMLP])


@FAMILIES
@pytest.mark.parametrize("use_checkpoint", [False, (0,)])
def test_training_is_one_graph_with_the_same_gradients(use_checkpoint, family):
    torch.manual_seed(0)
    model = family(drop_path_rate=0.0, use_checkpoint=use_checkpoint, **SMALL)
    gradients = []
    for network in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        network(images()).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        model.zero_grad()
    for plain, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)


def test_a_student_with_a_teacher_of_features_is_one_graph():
    torch.manual_seed(0)
    student = Student(SwinTransformer(drop_path_rate=0.0, **SMALL), torch.nn.Linear(32, 12))
    compiled = torch.compile(student, fullgraph=True, backend="aot_eager")
    for plain, found in zip(student(images()), compiled(images()), strict=True):
        torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)


@FAMILIES
def test_inference_under_autocast_is_one_graph(family):
    model = family(**SMALL).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(compiled(images()), model(images()), rtol=0.1, atol=0.02)


@FAMILIES
def test_an_exported_model_takes_any_batch(family):
    model = family(**SMALL).eval()
    exported = torch.export.export(model, (images(2),), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    for batch in (1, 5):
        torch.testing.assert_close(exported(images(batch)), model(images(batch)))


@FAMILIES
@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore::torch.jit.TracerWarning")
def test_a_traced_model_takes_any_batch(family):
    model = family(**SMALL).eval()
    with torch.no_grad():
        traced = torch.jit.trace(model, images(2))
        for batch in (1, 5):
            torch.testing.assert_close(traced(images(batch)), model(images(batch)))


def test_train_steps_compile_once_and_once_more_for_the_smaller_last_batch():
    counter = CompileCounterWithBackend("eager")
    model = SwinTransformer(drop_path_rate=0.3, **SMALL)
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    optimizer = torch.optim.AdamW(model.parameters())
    for batch in (4, 4, 3, 4, 4, 2, 4):
        compiled(images(batch)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert counter.frame_count <= 2


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_compiling_in_place_gives_the_same_gradients_under_the_same_names():
    torch.manual_seed(0)
    model = SwinTransformer(drop_path_rate=0.0, **SMALL)
    names, gradients = list(model.state_dict()), []
    for mode in ("off", "default"):
        build.compile_model(model, mode, torch.device("cpu"))
        model(images()).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        model.zero_grad()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "nothing was compiled"
    assert list(model.state_dict()) == names
    for plain, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)


def test_a_missing_compiler_is_said(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"TRAIN\.COMPILE is default, which needs a C\+\+ compiler"):
        build.compile_model(SwinTransformer(**SMALL), "default", torch.device("cpu"))
    build.compile_model(SwinTransformer(**SMALL), "off", torch.device("cpu"))

"""The Triton kernels against the definition in float64: in Triton's interpreter on any machine, and on a GPU.

The interpreter has to be chosen before Triton is imported, hence a process of its own; it runs this file again.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from swin import SwinTransformer
from swin.kernels import window_attention
from tests.numerics.test_window_attention import GRIDS, reference

triton = pytest.importorskip("triton")
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if IS_INTERPRETED else "cuda"
# GRIDS, and windows of several blocks; those of 12 have blocks of 64, 64 and 16 tokens.
LARGE = [(8, 8, 8, (0, 0)), (12, 24, 12, (0, 6)), (16, 16, 16, (0, 0))]
# Largest differences from float64, relative to the largest value. float32: sums of up to 256 terms, rounded at 6e-8.
# The small formats round inputs of products, and weights, to 8 and 11 bits; errors add up over tokens.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
has_no_gpu = IS_INTERPRETED or not torch.cuda.is_available()
in_both = [
    pytest.param("interpreter", marks=pytest.mark.skipif(not IS_INTERPRETED, reason="runs in a process of its own")),
    pytest.param(
        "gpu", marks=[pytest.mark.gpu, pytest.mark.skipif(has_no_gpu, reason="interpreted, or there is no CUDA GPU")]
    ),
]


@pytest.mark.skipif(IS_INTERPRETED, reason="this is the process of its own")
def test_the_kernels_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=900)
    if "only 0-dimensional arrays can be converted" in result.stdout:
        pytest.skip(f"the interpreter of Triton {triton.__version__} does not work with this NumPy, 2.4 or later")
    assert result.returncode == 0, result.stdout[-5000:]
    assert " passed" in result.stdout


def make_inputs(
    height: int, width: int, window: int, dtype: torch.dtype, *, heads: int = 2, head_dim: int = 32
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    batch = 2 if window <= 8 else 1  # the interpreter is slow
    qkv = torch.randn(batch, height, width, 3, heads, head_dim, generator=generator)
    bias = torch.randn(heads, window**2, window**2, generator=generator)
    return qkv.to(DEVICE, dtype).requires_grad_(), bias.to(DEVICE).requires_grad_()


def compare(qkv: torch.Tensor, bias: torch.Tensor, window: int, shift: tuple[int, int], backend: str) -> None:
    """Result and gradients against the reference."""
    out = window_attention(qkv, bias, window, shift, backend=backend)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    grads = torch.autograd.grad(out, (qkv, bias), upstream)
    exact_qkv, exact_bias = (tensor.detach().double().cpu().requires_grad_() for tensor in (qkv, bias))
    exact = reference(exact_qkv, exact_bias, window, shift)
    exact_grads = torch.autograd.grad(exact, (exact_qkv, exact_bias), upstream.double().cpu())
    assert out.dtype == qkv.dtype
    for ours, theirs in zip((out, *grads), (exact, *exact_grads), strict=True):
        error = (ours.double().cpu() - theirs).abs().max() / theirs.abs().max()
        assert error < TOLERANCE[qkv.dtype]


@pytest.mark.parametrize("where", in_both)
@pytest.mark.parametrize(("height", "width", "window", "shift"), GRIDS + LARGE)
def test_result_and_gradients_equal_the_definition(where, height, width, window, shift):
    qkv, bias = make_inputs(height, width, window, torch.float32, head_dim=8)
    compare(qkv, bias, window, shift, "triton")


@pytest.mark.parametrize("where", in_both)
@pytest.mark.parametrize("head_dim", [16, 24, 32, 64])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_head_dims_and_types(where, head_dim, dtype):
    if IS_INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies the bits of bfloat16 as integers")
    qkv, bias = make_inputs(14, 14, 7, dtype, heads=3, head_dim=head_dim)
    compare(qkv, bias, 7, (3, 3), "triton")


@pytest.mark.parametrize("where", in_both)
def test_a_window_of_24(where):
    qkv, bias = make_inputs(24, 24, 24, torch.float32, heads=1, head_dim=16)
    compare(qkv, bias, 24, (0, 0), "triton")


@pytest.mark.parametrize("where", in_both)
def test_results_are_equal_from_run_to_run(where):
    qkv, bias = make_inputs(14, 14, 7, torch.float32)
    runs = []
    for _ in range(2):
        out = window_attention(qkv, bias, 7, (3, 3), backend="triton")
        runs.append((out, *torch.autograd.grad(out.sum(), (qkv, bias))))
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # in opcheck itself
@pytest.mark.parametrize("where", in_both)
def test_the_operator_is_registered_soundly_and_compiles_whole(where):
    qkv, bias = make_inputs(7, 14, 7, torch.float32)
    torch.library.opcheck(
        importlib.import_module("swin.kernels.triton")._attention,
        (qkv, bias, 7, 0, 3, 0.2),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static"),
    )
    backend = "aot_eager" if IS_INTERPRETED else "inductor"
    compiled = torch.compile(window_attention, fullgraph=True, backend=backend)
    ours = compiled(qkv, bias, 7, (0, 3), backend="triton")
    torch.testing.assert_close(ours, window_attention(qkv, bias, 7, (0, 3), backend="eager"))


@pytest.mark.parametrize("where", in_both)
def test_a_model_has_the_same_gradients_as_with_the_reference(where):
    arguments = {"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 3, "drop_path_rate": 0.0}
    gradients = []
    for attention in ("eager", "triton"):
        torch.manual_seed(0)
        model = SwinTransformer(attention=attention, **arguments).to(DEVICE)
        images = torch.randn(1, 3, 60, 36, generator=torch.Generator().manual_seed(1)).to(DEVICE)  # padded grids
        model(images).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max() + 1e-7

"""Every backend of window attention against a loop over windows in float64."""

import pytest
import torch

from swin.kernels import BACKENDS, attention, choose_backend, window_attention
from swin.kernels.windows import MASKED, partition, reverse

# (height, width, window, shift): one window, several, oblong, shifted along one axis only, even and odd windows.
GRIDS = [
    (7, 7, 7, (0, 0)),
    (14, 14, 7, (3, 3)),
    (14, 21, 7, (0, 3)),
    (8, 4, 4, (2, 0)),
    (12, 12, 4, (2, 2)),
    (9, 6, 3, (1, 1)),
]


def reference(qkv: torch.Tensor, bias: torch.Tensor, window: int, shift: tuple[int, int]) -> torch.Tensor:
    """Token by token from the definition: a query sees the keys of its window of the shifted grid that lie on its own
    side of the border."""
    B, H, W, _, N, D = qkv.shape
    out = torch.zeros(B, H, W, N, D, dtype=qkv.dtype)
    for top in range(0, H, window):
        for left in range(0, W, window):
            cells = [(top + r, left + c) for r in range(window) for c in range(window)]
            # Where the cell of the shifted grid comes from, and whether it crossed the border.
            source = [((r + shift[0]) % H, (c + shift[1]) % W, r + shift[0] >= H, c + shift[1] >= W) for r, c in cells]
            q, k, v = (torch.stack([qkv[:, r, c, part] for r, c, _, _ in source], dim=2) for part in range(3))
            logits = q @ k.transpose(-2, -1) / D**0.5 + bias
            apart = torch.tensor([[a[2:] != b[2:] for b in source] for a in source])
            logits = logits + apart.to(logits.dtype) * MASKED
            result = logits.softmax(-1) @ v
            for index, (r, c, _, _) in enumerate(source):
                out[:, r, c] = result[:, :, index]
    return out.flatten(3)


def attend(qkv: torch.Tensor, bias: torch.Tensor, window: int, shift: tuple[int, int] = (0, 0), backend: str = "auto"):
    """Window attention of queries, keys and values in image order, (B, H, W, 3, N, D)."""
    return window_attention(
        qkv.flatten(3), lambda x: x.unflatten(-1, qkv.shape[3:]), bias, (window, window), shift, backend=backend
    )


def make_inputs(height: int, width: int, window: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(2, height, width, 3, 2, 8, generator=generator, dtype=torch.float64)
    bias = torch.randn(2, window**2, window**2, generator=generator, dtype=torch.float64)
    return qkv.to(dtype).requires_grad_(), bias.to(dtype).requires_grad_()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("height", "width", "window", "shift"), GRIDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_forward_and_gradients_equal_the_definition(backend, height, width, window, shift, dtype):
    # float32: logits and sums of up to 49 terms, each rounded at 6e-8 of values of about 5.
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-5}[dtype]
    qkv, bias = make_inputs(height, width, window, dtype)
    exact_qkv, exact_bias = (tensor.detach().double().requires_grad_() for tensor in (qkv, bias))
    out = attend(qkv, bias, window, shift, backend=backend)
    exact = reference(exact_qkv, exact_bias, window, shift)
    upstream = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    out.backward(upstream.to(dtype))
    exact.backward(upstream)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), exact, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(qkv.grad.double(), exact_qkv.grad, rtol=tolerance, atol=tolerance)
    # The bias gradient sums over images and windows.
    torch.testing.assert_close(bias.grad.double(), exact_bias.grad, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend):
    qkv, bias = make_inputs(6, 3, 3, torch.float64)
    assert torch.autograd.gradcheck(lambda q, b: attend(q, b, 3, (1, 0), backend=backend), (qkv, bias))


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_stays_within_its_rounding(backend):
    qkv, bias = make_inputs(14, 14, 7, torch.bfloat16)
    exact = reference(qkv.detach().double(), bias.detach().double(), 7, (3, 3))
    out = attend(qkv, bias, 7, (3, 3), backend=backend)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        inferred = attend(qkv, bias.float(), 7, (3, 3), backend=backend)
    assert out.dtype == inferred.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: 0.4% of a logit of about 10 changes a weight by 4%, and outputs are at most about 3.
    assert (out.double() - exact).abs().max() < 0.15
    assert (inferred.double() - exact).abs().max() < 0.15


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("height", "width", "window", "shift"), GRIDS)
def test_inference_equals_the_definition(backend, height, width, window, shift):
    qkv, bias = make_inputs(height, width, window, torch.float64)
    with torch.inference_mode():
        out = attend(qkv, bias, window, shift, backend=backend)
        torch.testing.assert_close(out, reference(qkv, bias, window, shift), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_are_equal_bit_for_bit_from_run_to_run(backend):
    runs = []
    for _ in range(2):
        qkv, bias = make_inputs(28, 28, 7, torch.float32)
        out = attend(qkv, bias, 7, (3, 3), backend=backend)
        runs.append((out, *torch.autograd.grad(out.square().sum(), (qkv, bias))))
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_pair_apart_has_a_weight_of_exactly_zero(dtype):
    # -100 would leave subnormal weights, which slow every product that they are in.
    logits = torch.tensor([-20.0, 20.0 + MASKED]).to(dtype)
    assert logits.isfinite().all()
    assert logits.softmax(-1).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("shift", [(0, 0), (3, 3)])
def test_the_sdpa_backend_gives_the_same_for_more_windows_than_a_kernel_can_number(monkeypatch, shift):
    qkv, bias = make_inputs(14, 14, 7, torch.float64)
    results = []
    for most in (attention.MAX_BATCH, 1):
        monkeypatch.setattr(attention, "MAX_BATCH", most)
        out = attend(qkv, bias, 7, shift, backend="sdpa")
        results.append((out, *torch.autograd.grad(out.square().sum(), (qkv, bias))))
    for ours, reference_result in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference_result, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_gives_bfloat16_gradients_of_the_right_types(backend):
    qkv, bias = make_inputs(14, 14, 7, torch.float32)
    exact_qkv, exact_bias = (tensor.detach().double().requires_grad_() for tensor in (qkv, bias))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attend(qkv.bfloat16(), bias, 7, (3, 3), backend=backend)
    exact = reference(exact_qkv, exact_bias, 7, (3, 3))
    out.float().sum().backward()
    exact.sum().backward()
    assert (out.dtype, qkv.grad.dtype, bias.grad.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    for ours, theirs in ((qkv.grad, exact_qkv.grad), (bias.grad, exact_bias.grad)):
        # Values of up to about 8, rounded to 8 bits a few times on the way.
        assert (ours - theirs).abs().max() < 0.02 * theirs.abs().max()


def test_a_mask_that_inference_made_serves_a_training_step():
    qkv, bias = make_inputs(12, 8, 4, torch.float32)
    with torch.inference_mode():
        inferred = attend(qkv, bias, 4, (2, 2), backend="eager")
    trained = attend(qkv, bias, 4, (2, 2), backend="eager")
    trained.sum().backward()
    assert torch.equal(inferred, trained)


def test_auto_is_sdpa_but_plain_operations_where_a_cpu_records_gradients():
    assert choose_backend(torch.device("cpu")) == "eager"
    assert choose_backend(torch.device("cuda")) == "sdpa"
    with torch.inference_mode():
        assert choose_backend(torch.device("cpu")) == "sdpa"


def test_partition_groups_rows_of_windows_and_reverse_undoes_it():
    grid = torch.arange(2 * 6 * 4).view(2, 6, 4, 1)
    windows = partition(grid, (2, 2))
    assert windows.shape == (2, 6, 4, 1)
    assert windows[0, 0, :, 0].tolist() == [0, 1, 4, 5]
    assert windows[0, 1, :, 0].tolist() == [2, 3, 6, 7]
    assert torch.equal(reverse(windows, (2, 2), 6, 4), grid)


def test_a_grid_that_is_no_multiple_of_the_window_is_a_programming_error():
    with pytest.raises(AssertionError, match="not a multiple"):
        attend(torch.zeros(1, 5, 4, 3, 1, 2), torch.zeros(1, 4, 4), 2)

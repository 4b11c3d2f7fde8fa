# mypy: disable-error-code="no-untyped-def"
"""The device side of `swin.kernels.triton`: what one program computes.

A program keeps its head (and block of queries or keys) and walks through windows, so that the bias is read once where
a window is one block, and the bias gradient is summed in registers.

Legend: M window side, T = M*M tokens a window, N heads, D head dim; q k v are (BLOCK, DIM), DIM is D rounded up to a
power of two. A window is numbered over all images.
"""

import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]

from swin.kernels.windows import MASKED

_MASKED = tl.constexpr(MASKED)


@triton.jit
def _tokens(t, window, height, width, shift_y, shift_x, M: tl.constexpr):
    """Places in the batch (B*H*W) of tokens t of a window, and the side of the border that each lies on."""
    per_row = width // M
    per_image = per_row * (height // M)
    inside = window % per_image
    y = inside // per_row * M + t // M + shift_y
    x = inside % per_row * M + t % M + shift_x
    side = tl.where(y >= height, 2, 0) + tl.where(x >= width, 1, 0)
    y = tl.where(y >= height, y - height, y)
    x = tl.where(x >= width, x - width, x)
    image = (window // per_image).to(tl.int64)
    return (image * height + y) * width + x, side


@triton.jit
def _load_rows(pointer, places, valid, stride, D: tl.constexpr, DIM: tl.constexpr):
    d = tl.arange(0, DIM)
    mask = valid[:, None] & (d < D)[None, :]
    return tl.load(pointer + places[:, None] * stride + d[None, :], mask=mask, other=0.0)


@triton.jit
def _store_rows(pointer, places, valid, stride, rows, D: tl.constexpr, DIM: tl.constexpr):
    d = tl.arange(0, DIM)
    mask = valid[:, None] & (d < D)[None, :]
    tl.store(pointer + places[:, None] * stride + d[None, :], rows.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _load_bias(bias, head, t_q, t_k, T: tl.constexpr):
    mask = (t_q < T)[:, None] & (t_k < T)[None, :]
    return tl.load(bias + head * T * T + t_q[:, None] * T + t_k[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _logits(q, k, bias, side_q, side_k, t_k, scale, T: tl.constexpr, PRECISION: tl.constexpr):
    logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale + bias
    logits += tl.where(side_q[:, None] != side_k[None, :], _MASKED, 0.0)
    return tl.where((t_k < T)[None, :], logits, float("-inf"))


@triton.jit
def _grad_logits(weights, grad, v, delta, PRECISION: tl.constexpr):
    return weights * (tl.dot(grad, tl.trans(v), input_precision=PRECISION) - delta[:, None])


@triton.jit
def forward(
    qkv, bias, out, lse, windows, height, width, shift_y, shift_x, scale,
    M: tl.constexpr, T: tl.constexpr, N: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    t_q = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    t_first = tl.arange(0, BLOCK)
    qkv += head * D
    first_bias = _load_bias(bias, head, t_q, t_first, T)
    for window in range(tl.program_id(0), windows, tl.num_programs(0)):
        places, side = _tokens(t_q, window, height, width, shift_y, shift_x, M)
        q = _load_rows(qkv, places, t_q < T, 3 * N * D, D, DIM)
        largest = tl.full((BLOCK,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK,), tl.float32)
        sums = tl.zeros((BLOCK, DIM), tl.float32)
        for first in range(0, T, BLOCK):
            t_k = first + t_first
            places_k, side_k = _tokens(t_k, window, height, width, shift_y, shift_x, M)
            k = _load_rows(qkv + N * D, places_k, t_k < T, 3 * N * D, D, DIM)
            v = _load_rows(qkv + 2 * N * D, places_k, t_k < T, 3 * N * D, D, DIM)
            if T > BLOCK:
                tile = _load_bias(bias, head, t_q, t_k, T)
            else:
                tile = first_bias
            logits = _logits(q, k, tile, side, side_k, t_k, scale, T, PRECISION)
            new_largest = tl.maximum(largest, tl.max(logits, 1))
            kept = tl.exp(largest - new_largest)
            weights = tl.exp(logits - new_largest[:, None])
            total = total * kept + tl.sum(weights, 1)
            sums = sums * kept[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
            largest = new_largest
        _store_rows(out + head * D, places, t_q < T, N * D, sums / total[:, None], D, DIM)
        if T > BLOCK:
            tl.store(lse + places * N + head, largest + tl.log(total), mask=t_q < T)


@triton.jit
def backward_whole(
    qkv, bias, grad, grad_qkv, grad_bias, windows, height, width, shift_y, shift_x, scale,
    M: tl.constexpr, T: tl.constexpr, N: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """All gradients, where a window is one block."""
    head = tl.program_id(1)
    t = tl.arange(0, BLOCK)
    qkv += head * D
    grad_qkv += head * D
    tile = _load_bias(bias, head, t, t, T)
    bias_sum = tl.zeros((BLOCK, BLOCK), tl.float32)
    for window in range(tl.program_id(0), windows, tl.num_programs(0)):
        places, side = _tokens(t, window, height, width, shift_y, shift_x, M)
        q = _load_rows(qkv, places, t < T, 3 * N * D, D, DIM)
        k = _load_rows(qkv + N * D, places, t < T, 3 * N * D, D, DIM)
        v = _load_rows(qkv + 2 * N * D, places, t < T, 3 * N * D, D, DIM)
        upstream = _load_rows(grad + head * D, places, t < T, N * D, D, DIM)
        logits = _logits(q, k, tile, side, side, t, scale, T, PRECISION)
        weights = tl.exp(logits - tl.max(logits, 1)[:, None])
        weights = weights / tl.sum(weights, 1)[:, None]
        grad_weights = tl.dot(upstream, tl.trans(v), input_precision=PRECISION)
        grad_logits = weights * (grad_weights - tl.sum(weights * grad_weights, 1)[:, None])
        bias_sum += grad_logits
        low = grad_logits.to(q.dtype)
        grad_q = tl.dot(low, k, input_precision=PRECISION) * scale
        grad_k = tl.dot(tl.trans(low), q, input_precision=PRECISION) * scale
        grad_v = tl.dot(tl.trans(weights.to(q.dtype)), upstream, input_precision=PRECISION)
        _store_rows(grad_qkv, places, t < T, 3 * N * D, grad_q, D, DIM)
        _store_rows(grad_qkv + N * D, places, t < T, 3 * N * D, grad_k, D, DIM)
        _store_rows(grad_qkv + 2 * N * D, places, t < T, 3 * N * D, grad_v, D, DIM)
    target = grad_bias + (tl.program_id(0) * N + head) * T * T + t[:, None] * T + t[None, :]
    tl.store(target, bias_sum, mask=(t < T)[:, None] & (t < T)[None, :])


@triton.jit
def backward_queries(
    qkv, bias, grad, lse, delta, grad_qkv, windows, height, width, shift_y, shift_x, scale,
    M: tl.constexpr, T: tl.constexpr, N: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    t_q = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    qkv += head * D
    for window in range(tl.program_id(0), windows, tl.num_programs(0)):
        places, side = _tokens(t_q, window, height, width, shift_y, shift_x, M)
        q = _load_rows(qkv, places, t_q < T, 3 * N * D, D, DIM)
        upstream = _load_rows(grad + head * D, places, t_q < T, N * D, D, DIM)
        lse_q = tl.load(lse + places * N + head, mask=t_q < T, other=float("inf"))
        delta_q = tl.load(delta + places * N + head, mask=t_q < T, other=0.0)
        grad_q = tl.zeros((BLOCK, DIM), tl.float32)
        for first in range(0, T, BLOCK):
            t_k = first + tl.arange(0, BLOCK)
            places_k, side_k = _tokens(t_k, window, height, width, shift_y, shift_x, M)
            k = _load_rows(qkv + N * D, places_k, t_k < T, 3 * N * D, D, DIM)
            v = _load_rows(qkv + 2 * N * D, places_k, t_k < T, 3 * N * D, D, DIM)
            tile = _load_bias(bias, head, t_q, t_k, T)
            logits = _logits(q, k, tile, side, side_k, t_k, scale, T, PRECISION)
            grad_logits = _grad_logits(tl.exp(logits - lse_q[:, None]), upstream, v, delta_q, PRECISION)
            grad_q += tl.dot(grad_logits.to(k.dtype), k, input_precision=PRECISION)
        _store_rows(grad_qkv + head * D, places, t_q < T, 3 * N * D, grad_q * scale, D, DIM)


@triton.jit
def backward_keys(
    qkv, bias, grad, lse, delta, grad_qkv, windows, height, width, shift_y, shift_x, scale,
    M: tl.constexpr, T: tl.constexpr, N: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of keys and values."""
    head = tl.program_id(1)
    t_k = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    qkv += head * D
    grad_qkv += head * D
    for window in range(tl.program_id(0), windows, tl.num_programs(0)):
        places_k, side_k = _tokens(t_k, window, height, width, shift_y, shift_x, M)
        k = _load_rows(qkv + N * D, places_k, t_k < T, 3 * N * D, D, DIM)
        v = _load_rows(qkv + 2 * N * D, places_k, t_k < T, 3 * N * D, D, DIM)
        grad_k = tl.zeros((BLOCK, DIM), tl.float32)
        grad_v = tl.zeros((BLOCK, DIM), tl.float32)
        for first in range(0, T, BLOCK):
            t_q = first + tl.arange(0, BLOCK)
            places, side = _tokens(t_q, window, height, width, shift_y, shift_x, M)
            q = _load_rows(qkv, places, t_q < T, 3 * N * D, D, DIM)
            upstream = _load_rows(grad + head * D, places, t_q < T, N * D, D, DIM)
            lse_q = tl.load(lse + places * N + head, mask=t_q < T, other=float("inf"))
            delta_q = tl.load(delta + places * N + head, mask=t_q < T, other=0.0)
            tile = _load_bias(bias, head, t_q, t_k, T)
            logits = _logits(q, k, tile, side, side_k, t_k, scale, T, PRECISION)
            weights = tl.exp(logits - lse_q[:, None])
            grad_logits = _grad_logits(weights, upstream, v, delta_q, PRECISION)
            grad_k += tl.dot(tl.trans(grad_logits.to(q.dtype)), q, input_precision=PRECISION)
            grad_v += tl.dot(tl.trans(weights.to(q.dtype)), upstream, input_precision=PRECISION)
        _store_rows(grad_qkv + N * D, places_k, t_k < T, 3 * N * D, grad_k * scale, D, DIM)
        _store_rows(grad_qkv + 2 * N * D, places_k, t_k < T, 3 * N * D, grad_v, D, DIM)


@triton.jit
def backward_bias(
    qkv, bias, grad, lse, delta, grad_bias, windows, height, width, shift_y, shift_x, scale,
    M: tl.constexpr, T: tl.constexpr, N: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of the bias gradient, summed over windows."""
    head = tl.program_id(1)
    blocks = tl.cdiv(T, BLOCK)
    t_q = tl.program_id(2) // blocks * BLOCK + tl.arange(0, BLOCK)
    t_k = tl.program_id(2) % blocks * BLOCK + tl.arange(0, BLOCK)
    qkv += head * D
    tile = _load_bias(bias, head, t_q, t_k, T)
    bias_sum = tl.zeros((BLOCK, BLOCK), tl.float32)
    for window in range(tl.program_id(0), windows, tl.num_programs(0)):
        places, side = _tokens(t_q, window, height, width, shift_y, shift_x, M)
        places_k, side_k = _tokens(t_k, window, height, width, shift_y, shift_x, M)
        q = _load_rows(qkv, places, t_q < T, 3 * N * D, D, DIM)
        k = _load_rows(qkv + N * D, places_k, t_k < T, 3 * N * D, D, DIM)
        v = _load_rows(qkv + 2 * N * D, places_k, t_k < T, 3 * N * D, D, DIM)
        upstream = _load_rows(grad + head * D, places, t_q < T, N * D, D, DIM)
        lse_q = tl.load(lse + places * N + head, mask=t_q < T, other=float("inf"))
        delta_q = tl.load(delta + places * N + head, mask=t_q < T, other=0.0)
        logits = _logits(q, k, tile, side, side_k, t_k, scale, T, PRECISION)
        bias_sum += _grad_logits(tl.exp(logits - lse_q[:, None]), upstream, v, delta_q, PRECISION)
    target = grad_bias + (tl.program_id(0) * N + head) * T * T + t_q[:, None] * T + t_k[None, :]
    tl.store(target, bias_sum, mask=(t_q < T)[:, None] & (t_k < T)[None, :])

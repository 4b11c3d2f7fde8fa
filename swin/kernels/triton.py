"""Window attention as fused Triton kernels, forward and backward.

Queries, keys and values are read from image order and results are written to it: shift, partition and mask are
arithmetic on positions, and nothing of the size of the attention weights reaches memory. Where a window is one block
of tokens, one kernel computes all gradients; larger windows go block by block, in the manner of flash attention. The
programs' sums of the bias gradient are added up in a fixed order afterwards: there are no atomics, and results are
equal from run to run.

Legend: B images, H W grid, T tokens a window, N heads, D head dim.
"""

from contextlib import nullcontext
from typing import Any

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
from torch import Tensor

from swin.errors import ConfigError
from swin.kernels.triton_device import backward_bias, backward_keys, backward_queries, backward_whole, forward

BLOCK = 64  # queries or keys at a time
MAX_HEAD_DIM = 64
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def triton_window_attention(qkv: Tensor, bias_NTT: Tensor, window: int, shift: tuple[int, int], scale: float) -> Tensor:
    """See `swin.kernels.window_attention`.

    Raises:
        ConfigError: these kernels cannot run on such tensors.
    """
    if reason := unsupported(qkv):
        raise ConfigError(f"MODEL.ATTENTION is triton, which {reason}; use auto.")
    out, _ = _attention(qkv.contiguous(), bias_NTT, window, shift[0], shift[1], scale)
    return out


def is_interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter, on any device (TRITON_INTERPRET=1 when this was imported)."""
    return not isinstance(forward, triton.JITFunction)


def unsupported(qkv: Tensor) -> str:
    """Why the kernels cannot run on `qkv`; empty if they can."""
    if qkv.device.type != "cuda" and not is_interpreted():
        return f"needs a CUDA device, not {qkv.device.type}"
    if qkv.dtype not in DTYPES:
        return f"takes bfloat16, float16 and float32, not {qkv.dtype}"
    if qkv.shape[-1] > MAX_HEAD_DIM:
        return f"takes heads of up to {MAX_HEAD_DIM} channels, not {qkv.shape[-1]}"
    return ""


@torch.library.custom_op("swin::window_attention", mutates_args=())
def _attention(
    qkv: Tensor, bias: Tensor, window: int, shift_y: int, shift_x: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Result (B, H, W, N*D), and the logarithms of the softmax's sums (B, H, W, N) where the backward pass needs
    them: where a window is more than one block."""
    B, H, W, _, N, D = qkv.shape
    blocks = triton.cdiv(window**2, BLOCK)
    out = qkv.new_empty(B, H, W, N * D)
    lse = qkv.new_empty((B, H, W, N) if blocks > 1 else (0,), dtype=torch.float32)
    _launch(forward, (qkv, bias.contiguous(), out, lse), qkv, window, (shift_y, shift_x), scale, blocks)
    return out, lse


@_attention.register_fake
def _(qkv: Tensor, bias: Tensor, window: int, shift_y: int, shift_x: int, scale: float) -> tuple[Tensor, Tensor]:
    B, H, W, _, N, D = qkv.shape
    lse_shape = (B, H, W, N) if window**2 > BLOCK else (0,)
    return qkv.new_empty(B, H, W, N * D), qkv.new_empty(lse_shape, dtype=torch.float32)


@torch.library.custom_op("swin::window_attention_backward", mutates_args=())
def _attention_backward(
    qkv: Tensor, bias: Tensor, out: Tensor, lse: Tensor, grad: Tensor, window: int, shift_y: int, shift_x: int,
    scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of `qkv` and of `bias`."""
    N, D = qkv.shape[4:]
    T = window**2
    blocks = triton.cdiv(T, BLOCK)
    bias, grad, shift = bias.contiguous(), grad.contiguous(), (shift_y, shift_x)
    grad_qkv = torch.empty_like(qkv)
    splits = _splits(qkv, window, N * blocks**2)
    bias_sums = qkv.new_empty(splits, N, T, T, dtype=torch.float32)
    if blocks == 1:
        _launch(backward_whole, (qkv, bias, grad, grad_qkv, bias_sums), qkv, window, shift, scale, 1)
    else:
        delta = (grad.float() * out.float()).unflatten(-1, (N, D)).sum(-1)  # (B, H, W, N)
        saved = (qkv, bias, grad, lse, delta)
        _launch(backward_queries, (*saved, grad_qkv), qkv, window, shift, scale, blocks)
        _launch(backward_keys, (*saved, grad_qkv), qkv, window, shift, scale, blocks)
        _launch(backward_bias, (*saved, bias_sums), qkv, window, shift, scale, blocks**2)
    return grad_qkv, bias_sums.sum(0).to(bias.dtype)


@_attention_backward.register_fake
def _(
    qkv: Tensor, bias: Tensor, out: Tensor, lse: Tensor, grad: Tensor, window: int, shift_y: int, shift_x: int,
    scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(qkv), bias.new_empty(bias.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, bias, *ctx.numbers = inputs
    ctx.save_for_backward(qkv, bias, *output)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    grads = _attention_backward(*ctx.saved_tensors, grad, *ctx.numbers)
    return (*grads, None, None, None, None)


_attention.register_autograd(_differentiate, setup_context=_setup_context)


def _splits(qkv: Tensor, window: int, others: int) -> int:
    """Programs that share the windows, where `others` programs share each of them."""
    B, H, W = qkv.shape[:3]
    windows = B * (H // window) * (W // window)
    wanted = 2 * others  # in the interpreter: each program then walks through several windows
    if qkv.is_cuda:
        wanted = 8 * torch.cuda.get_device_properties(qkv.device).multi_processor_count
    return max(1, min(windows, wanted // others))


def _constants(dtype: torch.dtype, window: int, heads: int, head_dim: int) -> dict[str, Any]:
    """What the kernels are compiled for, and the options of the compiler.

    More warps where the registers of four do not hold a program (chosen by the compiler's report for sm_80 and sm_90,
    not by timing), and the deepest pipeline that fits the shared memory of every GPU since Ampere (100 KB).
    """
    T = window**2
    dim = max(16, triton.next_power_of_2(head_dim))
    exact = dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    return {
        "M": window,
        "T": T,
        "N": heads,
        "D": head_dim,
        "DIM": dim,
        "BLOCK": BLOCK,
        "PRECISION": "ieee" if exact else "tf32",
        "num_warps": 4 if dtype.itemsize == 2 and dim <= 32 and T <= BLOCK else 8,
        "num_stages": 2 if dtype.itemsize == 2 else 1,
    }


def _launch(
    kernel: Any,
    tensors: tuple[Tensor, ...],
    qkv: Tensor,
    window: int,
    shift: tuple[int, int],
    scale: float,
    blocks: int,
) -> None:
    B, H, W, _, N, D = qkv.shape
    grid = (_splits(qkv, window, N * blocks), N, blocks)
    constants = _constants(qkv.dtype, window, N, D)
    numbers = (B * (H // window) * (W // window), H, W, *shift, scale)
    # Triton launches on the current device, which need not be that of the tensors.
    with torch.cuda.device(qkv.device) if qkv.is_cuda else nullcontext():
        kernel[grid](*tensors, *numbers, **constants)

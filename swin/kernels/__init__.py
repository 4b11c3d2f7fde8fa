"""Shifted-window attention behind one function, with interchangeable backends.

Legend: B images, H W grid, M window side, T = M*M tokens a window, N heads, D head dim.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from swin.errors import ConfigError
from swin.kernels.cpu import cpu_attend_windows
from swin.kernels.eager import eager_window_attention
from swin.kernels.sdpa import sdpa_attend_windows
from swin.kernels.sort import sort_by_image, sort_by_window
from swin.kernels.windows import is_captured

__all__ = [
    "ATTEND_WINDOWS",
    "BACKENDS",
    "check_backend",
    "choose_backend",
    "is_captured",
    "sort_by_image",
    "sort_by_window",
    "window_attention",
]

# Asked once: torch.compile cannot follow the question.
_HAS_TRITON = find_spec("triton") is not None

Backend = Callable[[Tensor, Tensor, int, tuple[int, int], float], Tensor]
AttendWindows = Callable[[Tensor, Tensor, tuple[int, int], int, tuple[int, int], float], Tensor]

# Backends whose tokens are sorted by window first: attention inside each window of some images, (V, T, 3, N, D) to
# (V, T, N*D), for bias (N, T, T), grid (H, W), window, shift and scale.
ATTEND_WINDOWS: dict[str, AttendWindows] = {"sdpa": sdpa_attend_windows, "cpu": cpu_attend_windows}


def _triton(qkv: Tensor, bias: Tensor, window: int, shift: tuple[int, int], scale: float) -> Tensor:
    # Imported late: Triton is not there on every platform, and it takes a second.
    from swin.kernels.triton import triton_window_attention

    return triton_window_attention(qkv, bias, window, shift, scale)


def _sorting(attend: AttendWindows) -> Backend:
    def attention(qkv: Tensor, bias: Tensor, window: int, shift: tuple[int, int], scale: float) -> Tensor:
        grid = (qkv.shape[1], qkv.shape[2])
        windows = sort_by_window(qkv.flatten(3), window, shift).unflatten(-1, qkv.shape[3:])
        return sort_by_image(attend(windows, bias, grid, window, shift, scale), grid, window, shift)

    return attention


BACKENDS: dict[str, Backend] = {
    "eager": eager_window_attention,
    "triton": _triton,
    **{name: _sorting(attend) for name, attend in ATTEND_WINDOWS.items()},
}


def check_backend(name: str) -> str:
    """Return `name` if it is "auto" or a backend that is installed; raise ConfigError otherwise."""
    if name != "auto" and name not in BACKENDS:
        raise ConfigError(f"MODEL.ATTENTION is '{name}'; expected one of: auto, {', '.join(BACKENDS)}.")
    if name == "triton" and not _HAS_TRITON:
        raise ConfigError("MODEL.ATTENTION is triton, which is not installed on this machine; use auto.")
    return name


def choose_backend(device: torch.device) -> str:
    """The backend that "auto" means on a device: the fastest that can run there.

    What is written for CPUs has nothing left to fuse, and takes a compiler twice as long. The Triton kernels are chosen
    by name only until they have been measured on a GPU: they are tested in Triton's interpreter.
    """
    return "cpu" if device.type == "cpu" and not is_captured() else "sdpa"


def window_attention(
    qkv: Tensor,
    bias: Tensor,
    window: int,
    shift: tuple[int, int] = (0, 0),
    *,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Multi-head self-attention inside the windows of a grid: shift, partition, attend, reverse, shift back, as one.

    Args:
        qkv: queries, keys and values of tokens in image order, (B, H, W, 3, N, D); H and W multiples of `window`.
        bias: relative-position bias (N, T, T), added to the logits of every window.
        window: side M of a window, in tokens.
        shift: cyclic shift of the grid in (rows, columns), in tokens, each in [0, window). Tokens which the shift
            brings together from opposite borders do not see each other.
        scale: factor of the logits; 1/sqrt(D) if None.
        backend: "auto", or a key of `BACKENDS`.

    Returns:
        (B, H, W, N*D) in image order and in the dtype of `qkv`.

    Source: section 3.2 of arXiv 2103.14030.
    """
    _, H, W, three, _, D = qkv.shape
    assert three == 3, f"qkv has shape {tuple(qkv.shape)}; expected (B, H, W, 3, N, D)"
    assert H % window == 0, f"grid {H} x {W} is not a multiple of the window {window}"
    assert W % window == 0, f"grid {H} x {W} is not a multiple of the window {window}"
    if backend == "auto":
        backend = choose_backend(qkv.device)
    return BACKENDS[backend](qkv, bias, window, shift, D**-0.5 if scale is None else scale)

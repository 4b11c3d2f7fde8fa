"""Number formats of the forward pass: which one a device should use, and the contexts that apply it."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from swin.errors import ConfigError


@dataclass(frozen=True)
class Precision:
    """A choice of number format. `dtype` is None for float32 throughout."""

    device_type: str
    dtype: torch.dtype | None

    @property
    def name(self) -> str:
        """bf16, fp16 or fp32."""
        return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]

    def autocast(self) -> AbstractContextManager[object]:
        """Context for forward passes."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)

    def make_scaler(self) -> torch.amp.GradScaler | None:
        """A loss scaler where the format needs one: float16, whose small gradients would vanish."""
        return torch.amp.GradScaler(self.device_type) if self.dtype is torch.float16 else None


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def choose_precision(device: torch.device, *, enabled: bool, dtype: str = "auto") -> Precision:
    """The format for a device.

    Args:
        device: where the model runs.
        enabled: False for float32.
        dtype: "bf16", "fp16", or "auto": bf16 where the hardware has it, else fp16 on CUDA, else float32.

    Raises:
        ConfigError: fp16 on a CPU, where its matrix products are slow and its gradients unscaled.
    """
    if not enabled:
        return Precision(device.type, None)
    if dtype == "fp16" and device.type == "cpu":
        raise ConfigError("AMP_DTYPE is fp16, which needs a GPU; use bf16 or auto on a CPU.")
    if dtype == "auto":
        fallback = torch.float16 if device.type == "cuda" else None
        return Precision(device.type, torch.bfloat16 if has_fast_bf16(device) else fallback)
    return Precision(device.type, {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype])

"""Number formats of the forward pass: which one a device should use, and the contexts that apply it."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from swin.errors import ConfigError


@dataclass(frozen=True)
class Precision:
    """A number format on a type of device; `dtype` is None for float32 throughout."""

    device_type: str
    dtype: torch.dtype | None

    @property
    def name(self) -> str:
        """bf16, fp16 or fp32."""
        return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]

    def autocast(self) -> AbstractContextManager[object]:
        """Context for forward passes."""
        return torch.autocast(self.device_type, dtype=self.dtype) if self.dtype else nullcontext()

    def make_scaler(self) -> torch.amp.GradScaler:
        """Make a loss scaler, enabled where the format needs one: float16, whose small gradients would vanish."""
        return torch.amp.GradScaler(self.device_type, enabled=self.dtype is torch.float16)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def choose_precision(device: torch.device, *, enabled: bool, dtype: str = "auto") -> Precision:
    """Choose the format for a model on a device: float32 unless `enabled`.

    The `dtype` "auto" is bf16 where the hardware has it, else fp16 on CUDA, else float32.

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

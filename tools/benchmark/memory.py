"""What training takes of memory."""

import gc
from collections.abc import Callable

import torch
from torch import Tensor, nn

from swin.engine.precision import Precision


def activation_bytes(model: nn.Module, images: Tensor, precision: Precision) -> int:
    """Bytes an image that a forward pass keeps for its backward pass, parameters not counted."""
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}  # by address, which is not used again while they are kept

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in known:
            kept.setdefault(address, tensor)
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), precision.autocast():
        model(images)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) // len(images)


def largest_batch(step: Callable[[int], object], *, limit: int = 4096) -> int:
    """The largest batch, to within a few percent, for which `step(batch)` does not run out of CUDA memory."""

    def fits(batch: int) -> bool:
        try:
            step(batch)
        except torch.cuda.OutOfMemoryError:
            return False
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        return True

    best = 0
    while best < limit and fits(2 * best or 1):
        best = 2 * best or 1
    step_size = best // 2
    while best < limit and step_size > best // 16:
        if fits(best + step_size):
            best += step_size
        step_size //= 2
    return best

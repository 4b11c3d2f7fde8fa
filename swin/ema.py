"""An exponential moving average of a model's parameters."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from swin.errors import CheckpointError


class Ema:
    """Float32 shadow copies that follow a model's parameters.

    Update n (from 0) moves each shadow by `1 - min(decay, (1 + n) / (10 + n))` of its distance to the parameter: early
    averages forget the initial weights quickly. The counter lives on the device, so no update waits for it.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the present parameters of a model on its device, not wrapped for several processes.

        Once warmed up, each update keeps a fraction `decay` of the shadow, in [0, 1).
        """
        self.decay = decay
        self.shadow = {name: tensor.detach().to(torch.float32, copy=True) for name, tensor in model.named_parameters()}
        self.num_updates = torch.zeros((), dtype=torch.int64, device=next(iter(self.shadow.values())).device)

    @torch.no_grad()
    def update(self, model: nn.Module, ok: Tensor | bool = True) -> None:
        """Move the shadows towards the model's parameters, which must be finite.

        If the 0-d tensor `ok` on the shadows' device is 0, shadows and counter stay as they are.
        """
        # 1 - (1 + n) / (10 + n) written without its cancellation.
        weight = (9.0 / (10.0 + self.num_updates)).clamp(min=1.0 - self.decay) * ok
        shadows = list(self.shadow.values())
        # A 0-d tensor as the factor: a Python number would have to be fetched from the device.
        moves = torch._foreach_sub(list(model.parameters()), shadows)
        torch._foreach_mul_(moves, weight)
        torch._foreach_add_(shadows, moves)
        self.num_updates += ok != 0

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Give the model the averaged weights inside a `with` block, and its own back after it."""
        parameters = list(model.parameters())
        kept = [parameter.detach().clone() for parameter in parameters]
        copy_into(parameters, list(self.shadow.values()))
        try:
            yield
        finally:
            copy_into(parameters, kept)

    def state_dict(self) -> dict[str, Any]:
        """Return `model` (name to shadow) and `num_updates`, sharing memory with this object."""
        return {"model": dict(self.shadow), "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            CheckpointError: Its names or shapes are not those of the model.
        """
        saved = state["model"]
        shapes, saved_shapes = ({name: value.shape for name, value in each.items()} for each in (self.shadow, saved))
        if shapes != saved_shapes:
            differing = sorted(dict(shapes.items() ^ saved_shapes.items()))
            raise CheckpointError(
                f"The saved averaged weights do not fit this model: {len(differing)} tensors are missing, unexpected "
                f"or of another shape, first {differing[0]}. Resume with the model's own config."
            )
        copy_into(list(self.shadow.values()), [saved[name] for name in self.shadow])
        self.num_updates.copy_(state["num_updates"])


@torch.no_grad()
def copy_into(targets: list[Any], sources: list[Tensor]) -> None:
    """Give tensors the values of others, on whichever device and of whichever type these are."""
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)

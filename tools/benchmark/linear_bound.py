"""The model's linear layers alone: what is left when everything between the matrix products costs nothing."""

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook


class LinearBound(nn.Module):
    """The linear layers and the patch embedding of a model, each on random numbers of its input's shape.

    Args:
        model: has the layers.
        images: (B, in_chans, height, width), on the model's device.
        dtype: of the layers' inputs.
    """

    def __init__(self, model: nn.Module, images: Tensor, dtype: torch.dtype | None) -> None:
        super().__init__()
        shapes: dict[nn.Module, torch.Size] = {}
        note_shape = register_module_forward_pre_hook(lambda module, args: shapes.update({module: args[0].shape}))
        with note_shape, torch.no_grad():
            model(images[:1])
        self.layers = nn.ModuleList(module for module in shapes if isinstance(module, (nn.Linear, nn.Conv2d)))
        inputs = {
            (first, *rest): torch.randn(first * len(images), *rest, device=images.device, dtype=dtype)
            for first, *rest in {shapes[layer] for layer in self.layers}
        }
        self.inputs = [inputs[shapes[layer]] for layer in self.layers]

    def forward(self, images: Tensor) -> Tensor:
        """The last layer's output; while gradients are on, each layer is also differentiated, one after another."""
        output = images
        for layer, saved in zip(self.layers, self.inputs, strict=True):
            needs_grad = torch.is_grad_enabled() and isinstance(layer, nn.Linear)
            output = layer(saved.detach().requires_grad_(needs_grad))
            if torch.is_grad_enabled():
                output.backward(output.detach())
        return output

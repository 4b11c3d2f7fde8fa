"""Counting parameters and multiply-adds."""

import copy
from typing import Any

import torch
from torch import nn

from swin.models.backbone import Backbone
from swin.models.swin import WindowAttention
from swin.models.swin_v2 import CosineWindowAttention

_NORM, _POOLING = torch.ops.aten.native_layer_norm, torch.ops.aten.mean


def count_parameters(model: nn.Module) -> int:
    """Learned numbers of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: Backbone, height: int, width: int) -> int:
    """Multiply-adds of one image of height x width pixels, as the official repository counts them.

    One multiply-add is one FLOP. Norms count one for each number they write; softmax, GELU, biases and residual sums
    count nothing, and nor does the MLP of Swin V2's position bias, which is the same for any number of images. Padding
    counts where it is computed.
    """
    flops = _count(model, height, width)
    of_bias = sum(sum(counts.values()) for name, counts in flops.items() if name.endswith(".cpb_mlp"))
    return sum(flops["Global"].values()) - flops["Global"][_POOLING] - of_bias


def count_module_flops(model: Backbone, height: int, width: int) -> int:
    """Multiply-adds as mmpretrain publishes them.

    Its counter sees modules only, so attention's products (queries with keys, weights with values) are left out. Norms
    count two for each number they write, and the patch embedding's bias and the final pooling are counted.
    """
    flops = _count(model, height, width)
    leaves = [name for name, module in model.named_modules() if not any(module.children())]
    in_modules = sum(sum(flops[name].values()) for name in leaves if name in flops)
    bias = flops["patch_embed.proj"][torch.ops.aten.convolution] // model.patch_embed.proj.weight[0].numel()
    return in_modules + flops["Global"][_NORM] + bias + flops["Global"][_POOLING]


@torch.no_grad()
def _count(model: Backbone, height: int, width: int) -> dict[str, dict[Any, int]]:
    """Multiply-adds by module (all in "Global") and torch operation.

    Of norms these are the numbers that they write, of the pooling those that it reads.
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes half a second to import

    # Shapes are enough: a copy on the meta device takes no memory, and no time to compute.
    on_meta = {id(value): value.to("meta") for value in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, on_meta).eval()
    for module in twin.modules():
        if isinstance(module, WindowAttention | CosineWindowAttention):
            module.backend = "eager"  # the kernels of others may not run there, or hide their products from torch
    sizes = dict.fromkeys((_NORM, _POOLING), lambda shape, *_, **__: 2 * shape.numel())
    with FlopCounterMode(display=False, custom_mapping=sizes) as counter:
        twin(torch.empty(1, model.patch_embed.proj.in_channels, height, width, device="meta"))
    return {  # torch counts two for a multiply-add
        name.removeprefix(f"{type(model).__name__}."): {operation: flops // 2 for operation, flops in counts.items()}
        for name, counts in counter.get_flop_counts().items()
    }

"""Counting parameters and multiply-adds."""

from collections.abc import Iterable
from typing import cast

from torch import nn

from swin.models.layers import SwinBlock
from swin.models.swin import SwinTransformer


def count_parameters(model: nn.Module) -> int:
    """Learned numbers of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: SwinTransformer, height: int, width: int) -> int:
    """Multiply-adds of one image of height x width pixels, as the official repository counts them.

    One multiply-add is one FLOP. Norms count one for each number they write, softmax, GELU and residual sums nothing.
    Padding is counted, since it is computed.
    """
    conv = model.patch_embed.proj
    patch = conv.kernel_size[0]
    H, W = height // patch, width // patch
    C = conv.out_channels
    flops = H * W * C * (conv.in_channels * patch**2)
    if isinstance(model.patch_embed.norm, nn.LayerNorm):
        flops += H * W * C
    for stage in model.stages():
        for block in cast(Iterable[SwinBlock], stage.blocks):
            M = block.attn.window_size
            padded = (H + -H % M) * (W + -W % M)
            hidden = block.mlp.fc1.out_features
            flops += 2 * H * W * C  # the two norms
            flops += padded * C * 3 * C + 2 * padded * M * M * C + padded * C * C  # qkv, logits and values, projection
            flops += 2 * H * W * C * hidden
        if stage.downsample is not None:
            flops += H * W * C
            H, W = (H + 1) // 2, (W + 1) // 2
            flops += H * W * 4 * C * 2 * C
            C *= 2
    flops += H * W * C
    return flops + C * model.num_classes

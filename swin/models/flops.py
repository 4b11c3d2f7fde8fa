"""Counting parameters and multiply-adds."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from torch import nn

from swin.models.layers import PatchMerging, SwinBlock
from swin.models.swin import SwinTransformer


def count_parameters(model: nn.Module) -> int:
    """Learned numbers of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


@dataclass
class _Cost:
    """Multiply-adds of one image: of layers with weights, of attention's two products; and numbers that norms write."""

    linear: int = 0
    attention: int = 0
    norms: int = 0


def count_flops(model: SwinTransformer, height: int, width: int) -> int:
    """Multiply-adds of one image of height x width pixels, as the official repository counts them.

    One multiply-add is one FLOP. Norms count one for each number they write; softmax, GELU, biases and residual sums
    count nothing. Padding counts where it is computed.
    """
    cost = _measure(model, height, width)
    return cost.linear + cost.attention + cost.norms


def count_module_flops(model: SwinTransformer, height: int, width: int) -> int:
    """Multiply-adds as mmpretrain publishes them.

    Its counter sees modules only, so attention's products (queries with keys, weights with values) are left out. Norms
    count two for each number they write, and the patch embedding's bias and the final pooling are counted.
    """
    cost = _measure(model, height, width)
    conv = model.patch_embed.proj
    H, W = _grid(model, height, width)
    bias = H * W * conv.out_channels
    for stage in model.stages():
        H, W = _after(stage.downsample, H, W)
    return cost.linear + 2 * cost.norms + bias + H * W * model.num_features


def _grid(model: SwinTransformer, height: int, width: int) -> tuple[int, int]:
    patch = model.patch_embed.proj.kernel_size
    return height // patch[0], width // patch[1]


def _after(downsample: nn.Module | None, H: int, W: int) -> tuple[int, int]:
    factor = downsample.factor if isinstance(downsample, PatchMerging) else 1
    return -(-H // factor), -(-W // factor)


def _measure(model: SwinTransformer, height: int, width: int) -> _Cost:
    cost = _Cost()
    H, W = _grid(model, height, width)
    conv = model.patch_embed.proj
    cost.linear += H * W * conv.weight.numel()
    if isinstance(model.patch_embed.norm, nn.LayerNorm):
        cost.norms += H * W * conv.out_channels
    for stage in model.stages():
        for block in cast(Iterable[SwinBlock], stage.blocks):
            _add_block(cost, block, H, W)
        H, W = _after(stage.downsample, H, W)
        if isinstance(stage.downsample, PatchMerging):
            cost.norms += H * W * stage.downsample.reduction.in_features
            cost.linear += H * W * stage.downsample.reduction.weight.numel()
    cost.norms += H * W * model.num_features
    cost.linear += model.num_features * model.num_classes
    return cost


def _add_block(cost: _Cost, block: SwinBlock, H: int, W: int) -> None:
    attn, mlp = block.attn, block.mlp
    M = attn.window_size
    padded = (H + -H % M) * (W + -W % M)
    cost.linear += padded * attn.qkv.weight.numel()
    cost.attention += 2 * padded * M * M * attn.proj.in_features
    cost.linear += H * W * (attn.proj.weight.numel() + mlp.fc1.weight.numel() + mlp.fc2.weight.numel())
    cost.norms += 2 * H * W * mlp.fc1.in_features

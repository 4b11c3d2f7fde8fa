"""Peer models with the weights of one of ours, for comparisons."""

import re

import timm
import torch
import torchvision
from torch import Tensor, nn

from swin import SwinTransformer


def perturb(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter, biases, norms and tables too, a value that shows when it is used wrongly."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)


def timm_name(name: str) -> str:
    """The name of one of our parameters in timm, whose stages begin with their downsampling."""
    name = re.sub(r"layers\.(\d)\.downsample", lambda match: f"layers.{int(match[1]) + 1}.downsample", name)
    return name.replace("head.", "head.fc.")


def torchvision_name(name: str) -> str:
    """The name of one of our parameters in torchvision, which numbers stages and downsamplings in one list."""
    name = name.replace("patch_embed.proj", "features.0.0").replace("patch_embed.norm", "features.0.2")
    name = re.sub(r"layers\.(\d)\.blocks", lambda match: f"features.{2 * int(match[1]) + 1}", name)
    name = re.sub(r"layers\.(\d)\.downsample", lambda match: f"features.{2 * int(match[1]) + 2}", name)
    return name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")


def make_timm(ours: SwinTransformer) -> nn.Module:
    """The Swin-T of timm with the weights of `ours`."""
    model = timm.create_model("swin_tiny_patch4_window7_224", drop_path_rate=0.0)
    model.load_state_dict({timm_name(name): value for name, value in ours.state_dict().items()})
    return model


def make_torchvision(ours: SwinTransformer) -> nn.Module:
    """The Swin-T of torchvision with the weights of `ours`."""
    model = torchvision.models.SwinTransformer(
        patch_size=[4, 4],
        embed_dim=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=[7, 7],
        stochastic_depth_prob=0.0,
    )
    weights = {torchvision_name(name): value for name, value in ours.state_dict().items()}
    indices = {name: value for name, value in model.state_dict().items() if "relative_position_index" in name}
    model.load_state_dict({**weights, **indices})
    return model


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value of the reference."""
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12))

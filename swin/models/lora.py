"""Low-rank adapters by peft, which are trained in the place of a model's own matrices."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from swin.errors import ConfigError
from swin.models.backbone import Backbone
from swin.models.freeze import note_frozen_parts


def add_adapters(model: Backbone, *, rank: int, alpha: int, modules: Sequence[str], seed: int) -> None:
    """Freeze a model but for its head, and give linear layers adapters, which change nothing before their first update.

    Of the layer y = W x, W (out, in), then y = (W + alpha / rank * B A) x, and B (out, rank) and A (rank, in) are
    trained. A head that is frozen already stays so. Source: Hu et al. 2021, arXiv 2106.09685, section 4.1.

    Args:
        modules: shell patterns for names of linear layers.
        seed: of the first values of A; B is 0.

    Raises:
        ConfigError: peft is not installed, or a pattern names no linear layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ConfigError('MODEL.LORA.RANK needs peft: pip install "swin-trainer[lora]", or set it to 0.') from None
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "head"]
    for pattern in modules:
        if not any(fnmatchcase(name, pattern) for name in linear):
            raise ConfigError(f"MODEL.LORA.MODULES: {pattern!r} names no linear layer, such as {linear[0]}.")
    chosen = [name for name in linear if any(fnmatchcase(name, pattern) for pattern in modules)]
    if not chosen:
        raise ConfigError(f"MODEL.LORA.MODULES is empty: name linear layers, such as {linear[0]}, or set RANK to 0.")
    kept = [parameter for parameter in model.head.parameters() if parameter.requires_grad]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=chosen), model)  # freezes the rest
    for parameter in kept:
        parameter.requires_grad_(True)
    note_frozen_parts(model)

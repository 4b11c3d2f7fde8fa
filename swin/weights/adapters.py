"""Weights of a model with low-rank adapters as those of the plain model."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from swin.errors import CheckpointError


def merge_adapters(tensors: Mapping[str, Tensor], config: Any, name: str) -> dict[str, Tensor]:
    """Add to each adapted matrix what its adapter adds, see `swin.models.lora`; without adapters all is as it was.

    Args:
        tensors: by the names that peft gives them.
        config: the nested config of the run, which has the adapters' scale.
        name: the file, for messages.

    Raises:
        CheckpointError: the scale is not known, or an adapter is not whole.
    """
    merged: dict[str, Tensor] = {}
    try:
        for key, value in tensors.items():
            layer, adapted, rest = key.partition(".base_layer.")
            if adapted and rest == "weight":
                down_RI, up_OR = (tensors[f"{layer}.lora_{part}.default.weight"] for part in "AB")
                value = value + config["MODEL"]["LORA"]["ALPHA"] / len(down_RI) * (up_OR @ down_RI)
            if ".lora_" not in key:
                merged[f"{layer}.{rest}" if adapted else key] = value
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{name} has low-rank adapters that cannot be merged ({type(error).__name__}: {error}): whole checkpoints "
            "of this program, with their config, can be read."
        ) from None
    return merged

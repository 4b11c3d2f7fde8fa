"""Starting a model from weights of another run or program, with a report of what was used."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swin.errors import CheckpointError
from swin.weights.files import read_torch_file

DERIVED_BUFFERS = ("relative_position_index", "attn_mask", "relative_coords_table")
_PREFIXES = ("module.", "_orig_mod.")
_SMALLEST_MATCH = 0.5  # share of the model's tensors; below it, the file is most likely another architecture's


@dataclass
class LoadReport:
    """Names of the model's tensors by what became of them, and of the file's that were not used (`dropped`)."""

    source_format: str
    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    initialised: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"format {self.source_format}: {len(self.loaded)} tensors loaded, {len(self.resized)} resized, "
            f"{len(self.dropped)} dropped, {len(self.initialised)} initialised anew"
        ]
        lines += [f"  {kind}: {name}" for kind in ("resized", "dropped", "initialised") for name in getattr(self, kind)]
        return "\n".join(lines)


def load_weights(model: nn.Module, source: str | Path | Mapping[str, Any]) -> LoadReport:
    """Give a model the weights of a file or state dict as far as they fit.

    Raises:
        CheckpointError: the file cannot be read, or fewer than half of the model's tensors are in it.
    """
    name = "the state dict" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else read_torch_file(source)
    weights = _strip(_unwrap(content, name))
    own = model.state_dict()
    report = LoadReport("official")
    fitting: dict[str, Tensor] = {}
    for key, value in weights.items():
        if key in own and own[key].shape == value.shape:
            fitting[key] = value
            report.loaded.append(key)
        elif not key.endswith(DERIVED_BUFFERS):
            report.dropped.append(key)
    report.initialised = [key for key in own if key not in fitting]
    if len(fitting) < _SMALLEST_MATCH * len(own):
        raise CheckpointError(
            f"only {len(fitting)} of the model's {len(own)} tensors are in {name} with the right shape; it belongs to "
            f"another model. First missing: {', '.join(report.initialised[:3])}."
        )
    model.load_state_dict(fitting, strict=False)
    return report


def _unwrap(content: Any, name: str) -> dict[str, Tensor]:
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{name} holds no weights: expected a state dict, bare or under 'model' or 'state_dict'.")
    return {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}


def _strip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights

"""Keeping parts of a model as they are during training."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from swin.errors import ConfigError
from swin.models.backbone import Backbone


def freeze(model: Backbone, parts: Iterable[int | str]) -> list[str]:
    """Exclude parameters from training, in addition to those that are frozen already.

    Frozen parameters get no gradient and no update. A module whose parameters are all frozen also stays in evaluation
    mode, so that its dropout and stochastic depth are off: its outputs are then the same in training and afterwards.

    Args:
        parts: each a stage, counted from 0 as in the parameters' names (1 is "layers.1": the blocks and the merging
            after them), or a shell pattern for names of parameters or of what holds them ("patch_embed",
            "layers.[01]", "*.attn.qkv", "*relative_position_bias_table").

    Returns:
        Names of the parameters that `parts` names.

    Raises:
        ConfigError: a part names no parameter, or nothing would be left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    chosen: set[str] = set()
    for part in parts:
        pattern = f"layers.{part}" if isinstance(part, int) else part
        found = {name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")}
        if not found:
            tops = dict.fromkeys(re.findall(r"^(?:layers\.)?\w+", "\n".join(names), re.MULTILINE))
            raise ConfigError(
                f"TRAIN.FREEZE: {part!r} names no parameter of this model; expected a stage's number or a pattern for "
                f"names below {', '.join(tops)}, such as layers.0.blocks.1 or *.attn.*."
            )
        chosen |= found
    for name in chosen:
        model.get_parameter(name).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("TRAIN.FREEZE freezes every parameter: leave at least the head to train.")
    note_frozen_parts(model)
    return [name for name in names if name in chosen]


def note_frozen_parts(model: Backbone) -> None:
    """Keep modules whose parameters are all frozen in evaluation mode from now on."""
    model.frozen_parts = [
        name
        for name, module in model.named_modules()
        if (flags := [parameter.requires_grad for parameter in module.parameters()]) and not any(flags)
    ]
    model.train(model.training)

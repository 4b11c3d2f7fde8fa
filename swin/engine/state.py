"""Everything that a resumed run needs to continue bit for bit.

Random numbers need no saving: a training sample's come from (seed, epoch, index) and an update's from
(seed, step, rank). The order of the samples comes from (seed, epoch), the learning rate from the step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swin.ema import Ema
from swin.errors import CheckpointError
from swin.weights import load_strictly


@dataclass
class TrainState:
    """A run between two updates.

    Attributes:
        model: the model itself, not a wrapper of it.
        epoch: the epoch at hand, from 0.
        position: samples of that epoch, over all processes, which are done.
        step: updates done since the start.
        skipped: updates left out because loss or gradients were not finite.
        best: highest accuracy (%) of any evaluation so far.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    ema: Ema | None
    epoch: int = 0
    position: int = 0
    step: int = 0
    skipped: int = 0
    best: float = 0.0

    def checkpoint(self, *, config: dict[str, Any], classes: Sequence[str]) -> dict[str, Any]:
        """The state as tensors and plain values, see `swin.engine.checkpoint.read_checkpoint`."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "ema": self.ema.state_dict() if self.ema else None,
            "epoch": self.epoch - 1,
            "position": self.position,
            "step": self.step,
            "skipped": self.skipped,
            "max_accuracy": self.best,
            "classes": list(classes),
            "config": config,
        }

    def restore(self, content: dict[str, Any], source: Path, *, updates_per_epoch: int) -> None:
        """Take over a checkpoint's state.

        Args:
            content: what `read_checkpoint` returned.
            source: the file, for messages.
            updates_per_epoch: gives the step for checkpoints of the official repository, which lack it.

        Raises:
            CheckpointError: parts are missing, or shapes differ from the config's.
        """
        load_strictly(self.model, content["model"], source)
        for name, target in (("optimizer", self.optimizer), ("scaler", self.scaler), ("ema", self.ema)):
            if target is None:
                continue
            if not content.get(name):
                raise CheckpointError(
                    f"checkpoint {source} has no '{name}' state, which this config needs to continue a run; "
                    "use --pretrained to start a new run from its weights."
                )
            try:
                target.load_state_dict(content[name])
            except (ValueError, KeyError, RuntimeError, TypeError) as error:
                raise CheckpointError(
                    f"the '{name}' state in {source} does not fit this config ({error}); resume with the config it was "
                    "written with, or use --pretrained to start a new run from its weights."
                ) from None
        self.epoch = int(content["epoch"]) + 1
        self.position = int(content.get("position", 0))
        self.step = int(content.get("step", self.epoch * updates_per_epoch))
        self.skipped = int(content.get("skipped", 0))
        self.best = float(content.get("max_accuracy", 0.0))

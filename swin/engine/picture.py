"""A picture of the first images that a run trains on."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from swin.batches import Batch
from swin.engine.trainer import Trainer
from swin.images import encode
from swin.pictures import draw_batch
from swin.records import write_atomically

_MAX_IMAGES = 16


def draw_first_batch(trainer: Trainer) -> None:
    """Have the first micro-batch of this process drawn as batch.png, and shown by the trackers, when training has it.

    It is looked at in passing: nothing is loaded or drawn at random for it.
    """
    state, data, prepare = trainer.state, trainer.data, trainer.state.prepare

    def prepare_and_draw(batch: Batch, device: torch.device, seed: int) -> tuple[Tensor, Any]:
        state.prepare = prepare
        if batch.num_valid:
            images, targets = data.prepare(batch, device, seed)
            shown = data.normalise.undo(images[:_MAX_IMAGES]).cpu()
            picture = draw_batch(shown, targets[:_MAX_IMAGES].cpu(), data.classes)
            write_atomically(trainer.folder.path / "batch.png", encode(picture, "PNG"))
            trainer.logger.image("train/batch", np.asarray(picture), 0)
        return prepare(batch, device, seed)

    state.prepare = prepare_and_draw

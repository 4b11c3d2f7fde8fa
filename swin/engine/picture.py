"""Pictures of a run: of the first images that it trains on, and of what its model makes of some."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from swin.batches import Batch
from swin.images import encode
from swin.pictures import draw_batch
from swin.preprocess import EvalResize
from swin.records import write_atomically

if TYPE_CHECKING:
    from swin.engine.trainer import Trainer

RECONSTRUCTION = "reconstruction.png"
_MAX_IMAGES = 16


def draw_objective(trainer: "Trainer") -> None:
    """Have what the model makes of the first training images drawn and shown by the trackers, where there is a way."""
    view, objective, cfg = trainer.data.view, trainer.state.objective, trainer.cfg
    if view is None or not objective.num_drawn:
        return
    resize = EvalResize(img_size=cfg.DATA.IMG_SIZE, crop=True, interpolation=cfg.DATA.INTERPOLATION)
    shown = view(resize, range(min(objective.num_drawn, trainer.batches.num_samples)))
    images = [resize(shown.read(index)) for index in range(shown.num_samples)]  # so few need no workers
    picture = objective.draw(torch.stack(images))
    write_atomically(trainer.folder.path / RECONSTRUCTION, encode(Image.fromarray(picture), "PNG"))
    trainer.logger.image("train/reconstruction", picture, trainer.progress.samples)


def draw_first_batch(trainer: "Trainer") -> None:
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

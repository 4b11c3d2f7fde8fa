"""What is done to whole batches on the device: normalisation, random erasing, mixing."""

from dataclasses import dataclass

import torch

from data.erasing import erase
from data.mixing import Mixer, build_mixer
from swin.batches import Batch
from swin.config import Config
from swin.preprocess import Normalise


@dataclass(frozen=True)
class Prepare:
    """Turns what a `TrainLoader` yields into what a model and its loss take."""

    normalise: Normalise  # uint8 (B, C, H, W) to float32
    erase_mode: str = "pixel"  # see `data.erasing.erase`
    mix: Mixer | None = None  # None to leave batches as they are

    def __call__(self, batch: Batch, device: torch.device, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images (B, C, H, W) float32, and targets: the labels as loaded, or (B, K) float32 where mixed.

        Args:
            batch: As loaded.
            device: Where the results are wanted.
            seed: Decides the mixing; the same for all parts of an update.
        """
        images_BCHW = self.normalise(batch.images.to(device, non_blocking=True))
        labels = batch.labels.to(device, non_blocking=True)
        erase(images_BCHW, batch.rectangles, self.erase_mode)
        if self.mix is None:
            return images_BCHW, labels
        return self.mix(images_BCHW, labels, seed, batch.rows or [0], batch.update_size)


def build_prepare(cfg: Config, num_classes: int) -> Prepare:
    """Build what a config does to training batches."""
    return Prepare(Normalise(cfg.DATA.MEAN, cfg.DATA.STD), cfg.AUG.REMODE, build_mixer(cfg, num_classes))

"""What an update minimises, as one object: a value for each sample, of the network that is trained and of a batch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from swin.batches import PrepareFn
from swin.losses import Loss


class Objective:
    """Supervised training: the loss of the model's outputs on the labels. Other methods are its subclasses.

    Attributes:
        loss: (logits, targets) to the loss of each sample (b,).
        num_drawn: images that `draw` takes; 0 where there is nothing to see.
        auxiliary: what is trained together with the model and thrown away after the run; None for nothing.
    """

    auxiliary: nn.Module | None = None
    num_drawn = 0

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    def network(self, model: nn.Module) -> nn.Module:
        """Return what `__call__` has called in training: the model itself, or a module around it and `auxiliary`."""
        return model

    def prepare(self, prepare: PrepareFn) -> PrepareFn:
        """Return what turns batches into the images and targets of `__call__`, from what does so for supervision."""
        return prepare

    def __call__(self, network: nn.Module, images: Tensor, targets: Any, drop_paths: Tensor | None) -> Tensor:
        """Compute the losses of a micro-batch, under autocast.

        Args:
            network: What `network` gave, or DistributedDataParallel around it; called once.
            images: (b, C, H, W), normalised.
            targets: What the function from `prepare` gave: labels (b,), or (b, K) where mixed.
            drop_paths: For the model, see `Backbone.forward`.

        Returns:
            Losses (b,), float32.
        """
        return self.loss(network(images, drop_paths), targets)

    def draw(self, images_BCHW: Tensor) -> np.ndarray:
        """Draw what the model makes of up to `num_drawn` images, uint8 as they are loaded: uint8 (H, W, 3)."""
        raise NotImplementedError

    def begin_with(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Take what `auxiliary` can use of the weights from which a run starts; returns the names, [] for nothing."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs besides the model, tensors and texts; {} for nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any], source: Path) -> None:
        """Continue from the `state_dict` that the checkpoint `source` holds; {} where it holds none."""

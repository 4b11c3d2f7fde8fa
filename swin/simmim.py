"""Pre-training without labels: the loss on the pixels of masked cells, and what the model makes of them as a picture.

Legend: B images, C channels, H W pixels, h w grid of cells, each of which is masked as a whole.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swin.batches import Batch, Data, PrepareFn
from swin.errors import CheckpointError
from swin.losses import make_loss
from swin.models import Backbone
from swin.models.simmim import MaskedModel, Reconstruction, scale_masks
from swin.objective import Objective
from swin.preprocess import Normalise
from swin.weights import load_strictly

_VARIANCE_EPS = 1e-6
_DRAWN_PX = 160  # smaller images are enlarged by whole numbers


def normalise_targets(images_BCHW: Tensor, side: int) -> Tensor:
    """Subtract from each pixel the mean of the square of `side` pixels around it, and divide by its deviation.

    Pixels beyond the border do not count. Source: the official code of arXiv 2111.09883, appendix A1.
    """
    mean_BCHW, deviation_BCHW = local_statistics(images_BCHW, side)
    return (images_BCHW - mean_BCHW) / deviation_BCHW


def local_statistics(images_BCHW: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, without bias, of the square of `side` pixels, an odd number, around each pixel."""

    def average(values: Tensor, *, pads: bool = False) -> Tensor:
        return F.avg_pool2d(values, side, stride=1, padding=side // 2, count_include_pad=pads)

    mean, square = average(images_BCHW), average(images_BCHW.square())
    count = average(torch.ones_like(images_BCHW[:1, :1]), pads=True) * side**2
    variance = ((square - mean.square()) * (count / (count - 1).clamp(min=1))).clamp(min=0)
    return mean, (variance + _VARIANCE_EPS).sqrt()


def pixel_loss(predicted_BCHW: Tensor, target_BCHW: Tensor, masks_Bhw: Tensor) -> Tensor:
    """Compute the mean absolute error (B,) over the pixels of masked cells, float32; 0 where none is masked.

    Where all images have as many masked cells, its mean is the official loss, but for 1e-5 beside the number of pixels.
    """
    masks_BHW = scale_masks(masks_Bhw, *target_BCHW.shape[2:])
    errors_BHW = (predicted_BCHW.float() - target_BCHW.float()).abs().mean(dim=1) * masks_BHW
    return errors_BHW.sum(dim=(1, 2)) / masks_BHW.sum(dim=(1, 2)).clamp(min=1)


class SimMIM(Objective):
    """A model's and its `Reconstruction`'s loss on the pixels that are masked."""

    auxiliary: Reconstruction
    num_drawn = 8

    def __init__(self, model: Backbone, data: Data, *, cell: int, ratio: float, norm_side: int | None = None) -> None:
        """Make the objective of one model, on its device.

        Args:
            model: The encoder.
            data: Says how images are normalised.
            cell: Side of a cell in pixels.
            ratio: Fraction of the cells that is masked in pictures; training batches bring their own masks.
            norm_side: See `normalise_targets`; None to predict pixels as the model gets them.
        """
        super().__init__(make_loss(smoothing=0.0))
        self.normalise: Normalise = data.normalise
        self.cell, self.ratio, self.norm_side = cell, ratio, norm_side
        device = next(model.parameters()).device
        self.auxiliary = Reconstruction(model).to(device)
        self.masked = MaskedModel(model, self.auxiliary)

    def network(self, model: nn.Module) -> nn.Module:
        """Return the model with its reconstruction."""
        return self.masked

    def prepare(self, prepare: PrepareFn) -> PrepareFn:
        """Return what gives images and, as targets, the masks that were drawn with them."""

        def prepare_masked(batch: Batch, device: torch.device, seed: int) -> tuple[Tensor, Tensor]:
            images = self.normalise(batch.images.to(device, non_blocking=True))
            masks_Bhw = torch.zeros(len(images), *self._grid(images), dtype=torch.bool)
            index, row, column = batch.rectangles[:, 0], batch.rectangles[:, 1], batch.rectangles[:, 2]
            masks_Bhw[index, row // self.cell, column // self.cell] = True
            return images, masks_Bhw.to(device, non_blocking=True)

        return prepare_masked

    def _grid(self, images: Tensor) -> tuple[int, int]:
        return images.shape[2] // self.cell, images.shape[3] // self.cell

    def __call__(self, network: nn.Module, images: Tensor, targets: Any, drop_paths: Tensor | None) -> Tensor:
        """Compute the losses (b,); `targets` are the masks (b, h, w)."""
        wanted = images if self.norm_side is None else normalise_targets(images, self.norm_side)
        return pixel_loss(network(images, targets, drop_paths), wanted, targets)

    @torch.no_grad()
    def draw(self, images_BCHW: Tensor) -> np.ndarray:
        """Draw images, uint8 as they are loaded, a row each: with masks, as predicted where masked, and as they are.

        The masks are the same at each call, and small images are enlarged. Returns uint8 (rows, columns, 3).
        """
        device = self.auxiliary.mask_token.device
        images = self.normalise(images_BCHW.to(device))
        cells = math.prod(self._grid(images))
        order = torch.rand(len(images), cells, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
        masks_Bhw = (order < math.ceil(self.ratio * cells)).view(-1, *self._grid(images)).to(device)
        was_training = self.masked.training
        predicted = self.masked.eval()(images, masks_Bhw).float()
        self.masked.train(was_training)
        if self.norm_side is not None:
            mean, deviation = local_statistics(images, self.norm_side)
            predicted = predicted * deviation + mean
        masks = scale_masks(masks_Bhw, *images.shape[2:])[:, None]
        rows = [torch.where(masks, 0.0, images), torch.where(masks, predicted, images), images]
        shown_BCHW = self.normalise.undo(torch.cat(rows, dim=3))[:, : 3 if images.shape[1] >= 3 else 1].clamp(0, 1)
        pixels = (shown_BCHW * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).cpu()
        scale = max(1, _DRAWN_PX // images.shape[3])
        pixels = pixels.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
        return torch.cat(list(pixels), dim=1).permute(1, 2, 0).numpy()

    def begin_with(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Take the token and the layer of an earlier pre-training, as far as they have the shapes of these."""
        own = self.auxiliary.state_dict()
        taken = {name: tensors[name] for name in own if name in tensors and tensors[name].shape == own[name].shape}
        self.auxiliary.load_state_dict(taken, strict=False)
        return list(taken)

    def state_dict(self) -> dict[str, Any]:
        """Return the token and the layer that pre-training has added."""
        return {"reconstruction": self.auxiliary.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], source: Path) -> None:
        """Continue with the checkpoint's token and layer.

        Raises:
            CheckpointError: It has none, or of other shapes.
        """
        if "reconstruction" not in state:
            raise CheckpointError(f"checkpoint {source} is not one of a pre-training; give it as --pretrained instead.")
        load_strictly(self.auxiliary, state["reconstruction"], source)

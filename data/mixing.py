"""Mixup and CutMix on whole batches, on the device the batch is on.

Sources: mixup, arXiv 1710.09412; CutMix, arXiv 1905.04899. Each image i is mixed with image B-1-i.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import one_hot

from data.samplers import seeded_random
from swin.config import Config

MODES = ("batch", "pair", "elem")


@dataclass(frozen=True)
class Mixer:
    """Mixes the images and the labels of a batch of any size; an image whose partner is itself stays as it is.

    What is random is drawn for all samples of an update, of which the batch may be a part: the same for every division.
    """

    num_classes: int  # K, the width of the targets
    mixup_alpha: float = 0.0  # mixup draws its weight from Beta(alpha, alpha); 0 turns mixup off
    cutmix_alpha: float = 0.0  # likewise for the area that CutMix leaves; 0 turns CutMix off
    # Instead of by `cutmix_alpha`, a box's sides are drawn between these fractions of the image's.
    cutmix_minmax: Sequence[float] | None = None
    prob: float = 1.0  # of mixing at all
    switch_prob: float = 0.5  # of CutMix where both are on
    mode: str = (
        "batch"  # one draw for the update, for each "pair" (i, U-1-i) of its U samples, or for each image ("elem")
    )

    def __call__(
        self,
        images_BCHW: torch.Tensor,
        labels: torch.Tensor,
        seed: int,
        rows: Sequence[int] | None = None,
        update_size: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mixed images (B, C, H, W) and targets (B, K) float32, the same mixture of the images' labels.

        Args:
            images_BCHW: Normalised images.
            labels: int64 class indices (B,); or 0 and 1 (B, K), any number of labels an image.
            seed: Decides every draw of the update.
            rows: Which of the update's samples these are; None if they are all.
            update_size: Samples of the update; None for the batch's.
        """
        batch_size, _, height, width = images_BCHW.shape
        update_size = update_size or batch_size
        draws = {"batch": 1, "pair": (update_size + 1) // 2, "elem": update_size}[self.mode]
        keep, boxes = self._draw(draws, height, width, seed)
        if self.mode != "batch":
            own = np.arange(batch_size) if rows is None else np.asarray(rows)
            own = np.minimum(own, update_size - 1 - own) if self.mode == "pair" else own
            keep, boxes = keep[own], boxes[own]
        # One small copy to the device for all parameters; D is 1 or B.
        parameters = torch.from_numpy(np.concatenate([keep[:, None], boxes], axis=1).astype(np.float32))
        parameters_D5 = parameters.to(images_BCHW.device, non_blocking=True)
        keep_D1, boxes_D4 = parameters_D5.split([1, 4], dim=1)

        weights_D1HW = _pixel_weights(keep_D1, boxes_D4, height, width).to(images_BCHW.dtype)
        mixed_BCHW = torch.lerp(images_BCHW.flip(0), images_BCHW, weights_D1HW)
        targets_BK = (one_hot(labels, self.num_classes) if labels.ndim == 1 else labels).to(torch.float32)
        return mixed_BCHW, torch.lerp(targets_BK.flip(0), targets_BK, keep_D1)

    def _draw(self, draws: int, height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw the fraction of itself each image keeps (D,), and CutMix's boxes (D, 4): top, bottom, left, right.

        The box is empty where mixup, or nothing, is applied.
        """
        random = seeded_random(seed)
        has_cutmix = self.cutmix_alpha > 0 or self.cutmix_minmax is not None
        has_mixup = self.mixup_alpha > 0
        is_mixed = random.random_sample(draws) < self.prob
        is_cutmix = is_mixed & has_cutmix & ((random.random_sample(draws) < self.switch_prob) | (not has_mixup))
        is_mixup = is_mixed & has_mixup & ~is_cutmix
        keep = np.ones(draws)
        if has_mixup:
            keep = np.where(is_mixup, random.beta(self.mixup_alpha, self.mixup_alpha, draws), keep)
        boxes = np.zeros((draws, 4))
        if has_cutmix:
            boxes = np.where(is_cutmix[:, None], self._draw_boxes(random, draws, height, width), boxes)
            # The true fraction, after the image's border has clipped the box.
            area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
            keep = np.where(is_cutmix, 1 - area / (height * width), keep)
        return keep, boxes

    def _draw_boxes(self, random: np.random.RandomState, draws: int, height: int, width: int) -> np.ndarray:
        sides = np.array([height, width])
        if self.cutmix_minmax is not None:
            low, high = (sides * fraction for fraction in self.cutmix_minmax)
            cut = np.floor(low + (high - low) * random.random_sample((draws, 2)))
            start = np.floor((sides - cut + 1) * random.random_sample((draws, 2)))
            stop = start + cut
        else:
            left_over = random.beta(self.cutmix_alpha, self.cutmix_alpha, draws)
            cut = np.floor(sides * np.sqrt(1 - left_over)[:, None])
            centre = np.floor(sides * random.random_sample((draws, 2)))
            start = np.clip(centre - cut // 2, 0, sides)
            stop = np.clip(centre + (cut + 1) // 2, 0, sides)
        return np.stack([start[:, 0], stop[:, 0], start[:, 1], stop[:, 1]], axis=1)


def _pixel_weights(keep_D1: torch.Tensor, boxes_D4: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return each pixel's weight of its own image (D, 1, H, W): 0 inside a box; `keep` everywhere without a box."""
    top, bottom, left, right = boxes_D4[..., None].unbind(1)  # each (D, 1)
    rows_1H = torch.arange(height, device=keep_D1.device)[None]
    columns_1W = torch.arange(width, device=keep_D1.device)[None]
    in_rows_DH = (rows_1H >= top) & (rows_1H < bottom)
    in_columns_DW = (columns_1W >= left) & (columns_1W < right)
    in_box_DHW = in_rows_DH[:, :, None] & in_columns_DW[:, None, :]
    has_box_D11 = ((bottom > top) & (right > left))[:, :, None]
    weights_DHW = torch.where(has_box_D11, (~in_box_DHW).to(keep_D1.dtype), keep_D1[:, :, None])
    return weights_DHW[:, None]


def build_mixer(cfg: Config, num_classes: int) -> Mixer | None:
    """Build the mixer that a config describes; None when it turns both mixup and CutMix off."""
    minmax = cfg.AUG.CUTMIX_MINMAX
    if cfg.AUG.MIXUP <= 0 and cfg.AUG.CUTMIX <= 0 and minmax is None:
        return None
    return Mixer(
        num_classes=num_classes,
        mixup_alpha=cfg.AUG.MIXUP,
        cutmix_alpha=cfg.AUG.CUTMIX,
        cutmix_minmax=None if minmax is None else tuple(minmax),
        prob=cfg.AUG.MIXUP_PROB,
        switch_prob=cfg.AUG.MIXUP_SWITCH_PROB,
        mode=cfg.AUG.MIXUP_MODE,
    )

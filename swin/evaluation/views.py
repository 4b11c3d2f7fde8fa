"""Test-time augmentation: the mean of a model's probabilities over several views of an image."""

import torch
from torch import Tensor, nn


class MultiView(nn.Module):
    """A classifier of several views.

    Args:
        model: Images (B, C, H, W) to logits (B, K).
        size: (H, W) of the five crops to take, at the corners and in the centre; None to take the image as it is.
        flip: Add the mirror image of each view.
    """

    def __init__(self, model: nn.Module, *, size: tuple[int, int] | None, flip: bool) -> None:
        super().__init__()
        self.model, self.size, self.flip = model, size, flip

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return the logarithms of the mean probabilities, float32 (B, K): their softmax are the probabilities."""
        from torchvision.transforms.v2.functional import five_crop, horizontal_flip

        views = five_crop(images_BCHW, list(self.size)) if self.size else [images_BCHW]
        if self.flip:
            views = [*views, *map(horizontal_flip, views)]
        mean_BK = torch.stack([self.model(view.contiguous()).float().softmax(dim=1) for view in views]).mean(dim=0)
        return mean_BK.clamp_min(torch.finfo(torch.float32).tiny).log()

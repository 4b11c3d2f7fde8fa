"""Test-time augmentation: the mean of a model's probabilities over several views of an image."""

import torch
from torch import Tensor, nn


class MultiView(nn.Module):
    """A classifier of several views.

    Args:
        model: Images (B, C, H, W) to logits (B, K).
        size: (H, W) of the five crops to take, at the corners and in the centre; None to take the image as it is.
        flip: Add the mirror image of each view.
        multi_label: Whether each class has a probability of its own, the sigmoid of its logit.
    """

    def __init__(
        self, model: nn.Module, *, size: tuple[int, int] | None, flip: bool, multi_label: bool = False
    ) -> None:
        super().__init__()
        self.model, self.size, self.flip, self.multi_label = model, size, flip, multi_label

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return logits of the mean probabilities, float32 (B, K), which are their softmax, or sigmoid."""
        from torchvision.transforms.v2.functional import five_crop, horizontal_flip

        views = five_crop(images_BCHW, list(self.size)) if self.size else [images_BCHW]
        if self.flip:
            views = [*views, *map(horizontal_flip, views)]
        logits = [self.model(view.contiguous()).float() for view in views]
        if self.multi_label:
            # Of both answers, since 1 - p would be 0 for a p that rounds to 1.
            yes_BK, no_BK = (torch.stack([(sign * each).sigmoid() for each in logits]).mean(dim=0) for sign in (1, -1))
            tiny = torch.finfo(torch.float32).tiny
            return yes_BK.clamp_min(tiny).log() - no_BK.clamp_min(tiny).log()
        mean_BK = torch.stack([each.softmax(dim=1) for each in logits]).mean(dim=0)
        return mean_BK.clamp_min(torch.finfo(torch.float32).tiny).log()

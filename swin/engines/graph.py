"""A model with what comes before and after it, as one thing to export."""

from typing import cast

import torch
from torch import Tensor, nn

from swin.engines.description import Description

MOST_IMAGES = 4096  # of a batch that an exported graph takes


class Graph(nn.Module):
    """Images to logits, or uint8 images to probabilities, for an engine.

    Args:
        model: images (B, C, H, W) to logits (B, K), on the CPU and in evaluation mode.
        description: with preprocessing the graph takes uint8 (B, C, H, W) and gives float32 probabilities.
        dtype: of the weights; what goes in and out stays float32.
    """

    def __init__(self, model: nn.Module, description: Description, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model, self.dtype = model.to(dtype), dtype
        self.has_preprocessing, self.is_multi_label = description.has_preprocessing, description.threshold is not None
        # One product and one sum, with the constants in double precision before they are rounded.
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (description.mean, description.std))
        self.register_buffer("factor_C11", (1 / (255 * std)).float()[:, None, None], persistent=False)
        self.register_buffer("offset_C11", (mean / std).float()[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.has_preprocessing:
            images = images.float() * cast(Tensor, self.factor_C11) - cast(Tensor, self.offset_C11)
        logits_BK: Tensor = self.model(images.to(self.dtype)).float()
        if not self.has_preprocessing:
            return logits_BK
        return logits_BK.sigmoid() if self.is_multi_label else logits_BK.softmax(dim=1)

    @property
    def output_name(self) -> str:
        """What the graph's output is called."""
        return "probabilities" if self.has_preprocessing else "logits"

    def example(self, description: Description) -> Tensor:
        """Return images of the kind that the graph takes, two of them: one would be taken for a batch of one always."""
        images = torch.zeros(2, description.channels, *description.size)
        return images.to(torch.uint8) if self.has_preprocessing else images


def dynamic_batch() -> tuple[dict[int, torch.export.Dim]]:
    """Return the dynamic shapes of a graph's one input: any number of images, of one size."""
    return ({0: torch.export.Dim("batch", min=1, max=MOST_IMAGES)},)

"""SimMIM: a model of any family that predicts the pixels of the parts of an image that it does not see.

Legend: B images, h w grid of cells, each of which is masked as a whole, H W grid of patches, C = embed_dim channels.
"""

from typing import cast

import torch
from torch import Tensor, nn

from swin.models.backbone import Backbone


class Reconstruction(nn.Module):
    """What pre-training adds to a model: a token in the place of masked patches, and a linear layer back to pixels.

    Parameter names are those of the official files, but for `encoder.` before the token's.

    Source: Xie et al. 2021, arXiv 2111.09886, section 3.
    """

    def __init__(self, model: Backbone) -> None:
        super().__init__()
        patch, in_chans = int(model.patch_embed.proj.stride[0]), model.patch_embed.proj.in_channels
        self.stride = patch * 2 ** (len(model.stages()) - 1)
        token = torch.empty(1, 1, model.patch_embed.proj.out_channels)
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(token, std=0.02))
        to_pixels = nn.Conv2d(model.num_features, self.stride**2 * in_chans, kernel_size=1)
        self.decoder = nn.Sequential(to_pixels, nn.PixelShuffle(self.stride))


class MaskedModel(nn.Module):
    """A model together with its `Reconstruction`: (images, masks, drop_paths) to predicted pixels."""

    def __init__(self, model: Backbone, reconstruction: Reconstruction) -> None:
        super().__init__()
        self.model, self.reconstruction = model, reconstruction

    def forward(self, images: Tensor, masks_Bhw: Tensor, drop_paths: Tensor | None = None) -> Tensor:
        """Predict.

        Args:
            images: (B, in_chans, height, width), normalised; the sides multiples of the model's total stride.
            masks_Bhw: which cells the model does not see, bool; a cell is a whole number of patches.
            drop_paths: as for the model.

        Returns:
            Pixels (B, in_chans, height, width), of which those of masked cells are meant.
        """
        token = cast(Tensor, self.reconstruction.mask_token)

        def hide(x_BHWC: Tensor) -> Tensor:
            masks_BHW = scale_masks(masks_Bhw, x_BHWC.shape[1], x_BHWC.shape[2])
            return torch.where(masks_BHW[..., None], token.to(x_BHWC.dtype), x_BHWC)

        features = self.model.forward_features(images, drop_paths, hide)
        return self.reconstruction.decoder(features.permute(0, 3, 1, 2))


def scale_masks(masks_Bhw: Tensor, height: int, width: int) -> Tensor:
    """Masks of cells as those of the patches or pixels in them: (B, height, width)."""
    rows, columns = height // masks_Bhw.shape[1], width // masks_Bhw.shape[2]
    return masks_Bhw.repeat_interleave(rows, dim=1).repeat_interleave(columns, dim=2)

"""The model as the backbone of a detector and of a segmenter."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork

from swin import SwinTransformer
from swin.models import freeze

SMALL = {"embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8), "window_size": 4}


def make_backbone(**changes) -> SwinTransformer:
    torch.manual_seed(0)
    return SwinTransformer(**{**SMALL, "num_classes": 0, "out_norms": True, **changes})


class PyramidBackbone(nn.Module):
    """Swin's four maps, through a feature pyramid, as torchvision's detectors take them."""

    def __init__(self, backbone: SwinTransformer, out_channels: int) -> None:
        super().__init__()
        self.body = backbone
        channels = [backbone.num_features // 2**stage for stage in (3, 2, 1, 0)]
        self.fpn = FeaturePyramidNetwork(channels, out_channels)
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.fpn(OrderedDict((str(stage), item) for stage, item in enumerate(self.body.feature_maps(images))))


class Segmenter(nn.Module):
    """One class a pixel: each map to the same width, summed at the finest resolution, classified."""

    def __init__(self, backbone: SwinTransformer, num_classes: int) -> None:
        super().__init__()
        self.body = backbone
        self.reduce = nn.ModuleList(nn.Conv2d(backbone.num_features // 2**stage, 16, 1) for stage in (3, 2, 1, 0))
        self.classify = nn.Conv2d(16, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = [reduce(item) for reduce, item in zip(self.reduce, self.body.feature_maps(images), strict=True)]
        fine = sum(F.interpolate(item, maps[0].shape[2:], mode="bilinear") for item in maps)
        return F.interpolate(self.classify(fine), images.shape[2:], mode="bilinear")


def assert_every_stage_has_gradients(backbone: SwinTransformer, frozen: tuple[str, ...] = ()) -> None:
    for name, parameter in backbone.named_parameters():
        if name.startswith((*frozen, "norm.")):  # the final norm belongs to the classifier
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_one_training_step_of_mask_rcnn():
    detector = MaskRCNN(
        PyramidBackbone(make_backbone(), 16),
        num_classes=3,
        rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,), (128,), (256,))[:4], ((0.5, 1.0, 2.0),) * 4),
        min_size=96,
        max_size=128,
        box_detections_per_img=5,
    ).train()
    images = [torch.rand(3, 90, 120), torch.rand(3, 100, 75)]  # padded to one oblong batch
    targets = []
    for image in images:
        mask = torch.zeros(1, *image.shape[1:], dtype=torch.uint8)
        mask[:, 20:60, 10:50] = 1
        boxes = torch.tensor([[10.0, 20.0, 50.0, 60.0]])
        targets.append({"boxes": boxes, "labels": torch.tensor([1]), "masks": mask})
    before = {name: parameter.clone() for name, parameter in detector.backbone.body.named_parameters()}
    losses = detector(images, targets)
    assert {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"} == set(losses)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert_every_stage_has_gradients(detector.backbone.body)
    torch.optim.AdamW(detector.parameters(), lr=1e-3).step()
    changed = [not torch.equal(before[name], p) for name, p in detector.backbone.body.named_parameters()]
    assert sum(changed) >= len(changed) - 2  # all but the final norm
    detections = detector.eval()(images)
    assert all(torch.isfinite(found["boxes"]).all() for found in detections)


@pytest.mark.parametrize("frozen", [(), ("patch_embed.", "layers.0.")])
def test_a_segmenter_learns_a_boundary(frozen):
    model = Segmenter(make_backbone(), 2)
    if frozen:
        freeze(model.body, ["patch_embed", 0])
    images = torch.rand(2, 3, 72, 100)
    labels = (torch.arange(100) > 50).long().expand(2, 72, 100)
    images = images + labels[:, None]
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(model.train()(images), labels)
        loss.backward()
        if not losses:
            assert_every_stage_has_gradients(model.body, frozen)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_out_norms_have_the_official_names_and_normalise_each_map():
    plain = SwinTransformer(**SMALL, num_classes=0)
    backbone = make_backbone()
    extra = set(backbone.state_dict()) - set(plain.state_dict())
    assert extra == {f"norm{stage}.{name}" for stage in range(4) for name in ("weight", "bias")}
    backbone.load_state_dict(plain.state_dict(), strict=False)
    images = torch.rand(1, 3, 65, 90)
    maps, raw = backbone.eval().feature_maps(images), plain.eval().feature_maps(images)
    assert [tuple(item.shape) for item in maps] == [
        (1, 8, 16, 22),
        (1, 16, 8, 11),
        (1, 32, 4, 6),
        (1, 64, 2, 3),
    ]
    for normalised, item in zip(maps, raw, strict=True):
        expected = F.layer_norm(item.permute(0, 2, 3, 1), item.shape[1:2]).permute(0, 3, 1, 2)
        torch.testing.assert_close(normalised, expected)
    assert torch.equal(backbone(images), plain(images)), "the classifier is the same"

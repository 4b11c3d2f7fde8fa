"""SimMIM: masks, loss and targets against their definitions; the tables of the official fine-tuning."""

import math
import random

import numpy as np
import pytest
import torch
from scipy.interpolate import make_interp_spline
from torch import Tensor

from data.erasing import RandomMask
from swin import SwinMLP, SwinTransformer, SwinTransformerV2
from swin.models.simmim import MaskedModel, Reconstruction, scale_masks
from swin.simmim import normalise_targets, pixel_loss
from swin.weights import load_weights, read_weights
from swin.weights.formats import from_native
from swin.weights.resize import _spread_table

SMALL = {"img_size": 32, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4, "num_classes": 0}
FAMILIES = (SwinTransformer, SwinTransformerV2, SwinMLP)


def draw(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.6, 1.0])
def test_a_mask_has_the_fraction_of_cells_rounded_up_and_any_cell_may_be_in_it(ratio):
    random.seed(0)
    drawn = [RandomMask(8, ratio)(32, 24) for _ in range(200)]
    assert {len(mask) for mask in drawn} == {math.ceil(ratio * 12)}
    places = {(cell.top, cell.left) for mask in drawn for cell in mask}
    assert places == {(top, left) for top in range(0, 32, 8) for left in range(0, 24, 8)}
    assert all(cell.height == cell.width == 8 for cell in drawn[0])


def official_loss(predicted: Tensor, images: Tensor, masks: Tensor) -> float:
    """Pixel by pixel, as in equation 1 of the paper: over the masked pixels of the batch, a mean over the channels."""
    total, count = 0.0, 0
    for b, _, row, column in np.ndindex(len(images), 1, *images.shape[2:]):
        if masks[b, row // 8, column // 8]:
            total += float((predicted[b, :, row, column] - images[b, :, row, column]).abs().sum())
            count += 1
    return total / (count + 1e-5) / images.shape[1]


def test_the_loss_is_the_official_one_and_gradients_stay_in_the_masks():
    images, predicted = draw(2, 3, 16, 24), draw(2, 3, 16, 24).flip(0).requires_grad_()
    masks = torch.tensor([[[1, 0, 1], [0, 0, 1]], [[0, 1, 1], [1, 0, 0]]], dtype=torch.bool)
    losses = pixel_loss(predicted, images, masks)
    assert losses.shape == (2,)
    assert float(losses.mean().detach()) == pytest.approx(official_loss(predicted.detach(), images, masks), rel=1e-5)
    losses.sum().backward()
    seen = predicted.grad.abs().sum(dim=1) > 0
    assert torch.equal(seen, scale_masks(masks, 16, 24))
    assert pixel_loss(predicted, images, torch.zeros_like(masks)).tolist() == [0.0, 0.0]


def test_targets_are_normalised_over_the_pixels_around_them():
    images, side = draw(1, 2, 9, 11), 5
    found = normalise_targets(images, side)
    for channel, row, column in np.ndindex(2, 9, 11):
        around = images[0, channel, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
        wanted = (images[0, channel, row, column] - around.mean()) / (around.var() + 1e-6).sqrt()
        assert float(found[0, channel, row, column]) == pytest.approx(float(wanted), abs=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_patches_are_the_token_and_what_is_under_them_is_not_seen(family):
    torch.manual_seed(0)
    model = family(**SMALL, drop_path_rate=0.0).eval()
    network = MaskedModel(model, Reconstruction(model)).eval()
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, 1, 2] = True
    images = draw(1, 3, 32, 32)
    changed = images.clone()
    changed[..., 8:16, 16:24] += 5.0
    with torch.no_grad():
        assert network(images, masks).shape == (1, 3, 32, 32)
        assert torch.equal(network(images, masks), network(changed, masks))
        assert not torch.equal(network(images, ~masks & masks), network(changed, ~masks & masks))
        seen = []
        hook = model.layers[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        network(images, masks)
        hook.remove()
    assert torch.equal(seen[0][0, 2:4, 4:6], network.reconstruction.mask_token[0, 0].expand(2, 2, -1))


@pytest.mark.parametrize("family", [SwinTransformer, SwinTransformerV2])
def test_pixels_and_loss_are_those_of_transformers_from_its_own_weights(family):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    kind = "Swin" if family is SwinTransformer else "Swinv2"
    shape = {"image_size": 32, "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**shape, encoder_stride=8, drop_path_rate=0.0)
    theirs = getattr(transformers, f"{kind}ForMaskedImageModeling")(config).eval()
    for parameter in theirs.parameters():
        parameter.data.normal_(std=0.3)
    weights = read_weights(theirs.state_dict())
    model = family(**SMALL).eval()
    report = load_weights(model, weights)
    assert (weights.format, report.initialised) == ("transformers", [])
    network = MaskedModel(model, Reconstruction(model)).eval()
    network.reconstruction.load_state_dict(
        {name: weights.tensors[name] for name in network.reconstruction.state_dict()}
    )
    images, masks = draw(2, 3, 32, 32), torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.6
    with torch.no_grad():
        expected = theirs(images, bool_masked_pos=scale_masks(masks, 8, 8).flatten(1))
        found = network(images, masks)
    # Float32 in another order of additions.
    torch.testing.assert_close(found, expected.reconstruction, rtol=1e-4, atol=1e-4 * float(found.abs().max()))
    per_image = pixel_loss(found, images, masks)
    counts = masks.sum(dim=(1, 2))
    assert float((per_image * counts).sum() / counts.sum()) == pytest.approx(float(expected.loss), rel=1e-4)


@pytest.mark.parametrize(("token", "layer"), [("encoder.", ""), ("backbone.", "neck."), ("swin.embeddings.", "")])
def test_what_a_pretraining_adds_is_read_from_every_format_that_has_it(token, layer):
    torch.manual_seed(0)
    model = SwinTransformer(**SMALL)
    added = Reconstruction(model).state_dict()
    format_name = {"encoder.": "official", "backbone.": "mmpretrain", "swin.embeddings.": "transformers"}[token]
    file = from_native(model.state_dict(), format_name)
    if format_name == "official":
        file = {f"encoder.{name}": value for name, value in file.items()}
    file[f"{token}mask_token"] = added["mask_token"]
    file |= {f"{layer}{name}": value for name, value in added.items() if name.startswith("decoder")}
    weights = read_weights(file)
    assert weights.format == format_name
    assert all(torch.equal(weights.tensors[name], value) for name, value in added.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_learns(family):
    torch.manual_seed(0)
    model = family(**SMALL).train()
    network = MaskedModel(model, Reconstruction(model))
    masks = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.6
    images = draw(2, 3, 32, 32)
    pixel_loss(network(images, masks), images, masks).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(("old", "new"), [(6, 7), (12, 14), (4, 7), (7, 4), (2, 3)])
def test_tables_go_through_the_splines_that_scipys_interp2d_made(old, new):
    """On a grid interp2d was FITPACK's regrid: splines along rows, then along columns, whose ends go on as they are."""
    side = 2 * old - 1
    smooth = np.add.outer(np.sin(np.linspace(0, 2, side)), np.cos(np.linspace(0, 3, side)))
    table = torch.tensor(np.stack([smooth.ravel(), smooth.T.ravel() * 2], axis=1))
    found = _spread_table(table, old, new)
    assert found.shape == ((2 * new - 1) ** 2, 2)
    q = find_ratio(side, new)
    distances = [sum(q**power for power in range(count)) for count in range(1, old)]
    positions = np.array([*(-d for d in reversed(distances)), 0.0, *distances])
    degree, wanted = min(3, side - 1), np.arange(-(new - 1), new, dtype=float).clip(positions[0], positions[-1])
    along_rows = make_interp_spline(positions, smooth, k=degree, axis=0)(wanted)
    expected = make_interp_spline(positions, along_rows, k=degree, axis=1)(wanted)
    np.testing.assert_allclose(found[:, 0].view(2 * new - 1, -1), expected, atol=1e-5)
    assert torch.allclose(found[:, 1].view(2 * new - 1, -1).T, 2 * found[:, 0].view(2 * new - 1, -1), atol=1e-5)


def find_ratio(side: int, new: int) -> float:
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if (1 - q ** (side // 2)) / (1 - q) > new - 1 else (q, high)
    return q

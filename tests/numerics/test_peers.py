"""Swin-T against timm and torchvision with the same weights: logits, every gradient, one AdamW update."""

import pytest
import torch
from torch.nn import functional as F

from swin import SwinTransformer
from swin.models import count_parameters
from swin.optim import make_optimizer
from tests.numerics.peers import make_timm, make_torchvision, perturb, relative_error, timm_name, torchvision_name

# float32 sums in another order differ by a few units in the last place, 6e-8 each, which 12 blocks amplify to 1e-6
# of the largest logit. A wrong mask, index or order of channels changes logits by 1e-2 and more.
LOGITS_TOLERANCE = 1e-5
# Gradients pass through twice as many operations, and small ones are sums of larger terms that cancel.
GRADIENT_TOLERANCE = 1e-4

PEERS = {"timm": (make_timm, timm_name), "torchvision": (make_torchvision, torchvision_name)}


@pytest.fixture(scope="module")
def ours() -> SwinTransformer:
    torch.manual_seed(0)
    model = SwinTransformer(drop_path_rate=0.0)
    perturb(model)
    return model


def images(height: int, width: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_swin_tiny_has_the_published_number_of_parameters(ours):
    assert count_parameters(ours) == 28_288_354


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_logits_equal_the_peers(ours, peer, backend):
    reference = PEERS[peer][0](ours).eval()
    model = SwinTransformer(attention=backend).eval()
    model.load_state_dict(ours.state_dict())
    with torch.no_grad():
        assert relative_error(model(images(224, 224)), reference(images(224, 224))) < LOGITS_TOLERANCE


@pytest.mark.parametrize(("height", "width"), [(200, 333), (224, 448), (97, 64)])
def test_padded_and_oblong_images_equal_torchvision(ours, height, width):
    reference = make_torchvision(ours).eval()
    with torch.no_grad():
        logits = ours.eval()(images(height, width))
        assert relative_error(logits, reference(images(height, width))) < LOGITS_TOLERANCE


@pytest.mark.parametrize("peer", PEERS)
def test_gradients_and_one_adamw_update_equal_the_peers(ours, peer):
    make, rename = PEERS[peer]
    model = SwinTransformer(drop_path_rate=0.0)
    model.load_state_dict(ours.state_dict())
    reference = make(ours)
    labels = torch.tensor([3, 700])
    for network in (model, reference):
        F.cross_entropy(network.train()(images(224, 224)), labels).backward()
    theirs = dict(reference.named_parameters())
    named = {rename(name): parameter for name, parameter in model.named_parameters()}
    assert named.keys() == theirs.keys()
    for name, parameter in named.items():
        assert relative_error(parameter.grad, theirs[name].grad) < GRADIENT_TOLERANCE, name

    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    lr, decay, eps = 1e-3, 0.05, 1e-4
    optimizer = make_optimizer(model, name="adamw", lr=lr, weight_decay=decay, eps=eps)
    no_decay = {name for name, p in theirs.items() if p.ndim == 1 or "relative_position_bias_table" in name}
    peer_groups = [
        {"params": [p for name, p in theirs.items() if name not in no_decay], "weight_decay": decay},
        {"params": [p for name, p in theirs.items() if name in no_decay], "weight_decay": 0.0},
    ]
    # Adam's first update is lr * g / (|g| + eps). An eps of 1e-4 keeps rounding of tiny gradients from becoming a
    # change of sign, so that the update is comparable at all.
    peer_optimizer = torch.optim.AdamW(peer_groups, lr=lr, eps=eps, foreach=False)
    optimizer.step()
    peer_optimizer.step()
    for name, parameter in named.items():
        assert not torch.equal(parameter, before[name]), name
        torch.testing.assert_close(parameter, theirs[name], rtol=0, atol=1e-2 * lr, msg=name)


def test_feature_maps_have_strides_4_to_32_and_end_in_forward_features(ours):
    ours.eval()
    with torch.no_grad():
        maps = ours.feature_maps(images(224, 192, 1))
        features = ours.forward_features(images(224, 192, 1))
    assert [tuple(item.shape) for item in maps] == [(1, 96, 56, 48), (1, 192, 28, 24), (1, 384, 14, 12), (1, 768, 7, 6)]
    assert features.shape == (1, 7, 6, 768)
    torch.testing.assert_close(ours.norm(maps[-1].permute(0, 2, 3, 1)), features)


@pytest.mark.parametrize("size", [(4, 4), (28, 28), (31, 70), (224, 32)])
def test_any_image_size_of_at_least_a_patch_works(size):
    model = SwinTransformer(embed_dim=8, depths=(2, 2), num_heads=(1, 2), num_classes=3)
    assert model(torch.randn(1, 3, *size)).shape == (1, 3)


def test_checkpointing_changes_no_gradient():
    arguments = {"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 5, "drop_path_rate": 0.3}
    gradients = []
    for use_checkpoint in (False, True):
        torch.manual_seed(0)
        model = SwinTransformer(use_checkpoint=use_checkpoint, **arguments)
        model(images(56, 56)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)

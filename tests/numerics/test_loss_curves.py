"""Training with each backend of window attention follows the same loss curve, but for noise."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from data.digits import open_digits
from swin.models import SwinTransformer
from swin.optim import make_optimizer

STEPS, BATCH, SMOOTHED = 200, 32, 20


def loss_curve(attention: str, *, seed: int = 0) -> np.ndarray:
    """Losses of 200 steps on the digits, averaged over 20 at a time; the seed decides weights and batches."""
    source = open_digits().sources["train"]
    pixels = torch.stack([torch.from_numpy(np.array(source.read(index))) for index in range(len(source.labels))])
    images = F.interpolate((pixels[:, None].float() / 255 - 0.3) / 0.38, scale_factor=4)  # (n, 1, 32, 32)
    labels = torch.from_numpy(source.labels)
    torch.manual_seed(seed)
    model = SwinTransformer(
        img_size=32,
        patch_size=4,
        in_chans=1,
        num_classes=10,
        embed_dim=32,
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=4,
        drop_path_rate=0.0,
        attention=attention,
    )
    optimizer = make_optimizer(model, name="adamw", lr=2e-3, weight_decay=0.05)
    losses = []
    for _ in range(STEPS):
        batch = torch.randint(len(images), (BATCH,))
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return np.array(losses).reshape(-1, SMOOTHED).mean(axis=1)


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    return loss_curve("eager")


@pytest.fixture(scope="module")
def noise(reference) -> float:
    """How far apart two seeds are."""
    return float(np.abs(loss_curve("eager", seed=1) - reference).mean())


def test_the_curve_is_the_references_but_for_noise(reference, noise):
    curve = loss_curve("sdpa")
    assert curve[-1] < 0.7 * curve[0]
    # From the same weights and batches only rounding differs, which grows from step to step but stays far below this.
    assert np.abs(curve - reference).mean() < 0.25 * noise

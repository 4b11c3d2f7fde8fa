"""Classification losses, one value a sample."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from swin.config import Config
from swin.errors import ConfigError

Loss = Callable[[Tensor, Tensor], Tensor]


def make_loss(*, smoothing: float, kind: str = "ce") -> Loss:
    """Make a loss that returns a value for each sample, so that callers form exact sums.

    Args:
        smoothing: Fraction of each target that is spread evenly over all K classes, soft targets included, in [0, 1).
        kind: `ce` for cross entropy; `bce` for binary cross entropy, averaged over the classes of a sample.

    Returns:
        A function of logits (B, K), any float dtype, and targets, either classes (B,) int64 or probabilities (B, K), to
        losses (B,) float32.

    Raises:
        ConfigError: The kind is unknown.
    """

    def cross_entropy(logits_BK: Tensor, targets: Tensor) -> Tensor:
        # In float32, since a half-precision log-sum-exp loses the small differences that gradients are made of.
        return F.cross_entropy(logits_BK.float(), targets, reduction="none", label_smoothing=smoothing)

    def binary_cross_entropy(logits_BK: Tensor, targets: Tensor) -> Tensor:
        num_classes = logits_BK.shape[1]
        targets_BK = F.one_hot(targets, num_classes) if targets.ndim == 1 else targets
        targets_BK = targets_BK.float() * (1.0 - smoothing) + smoothing / num_classes
        return F.binary_cross_entropy_with_logits(logits_BK.float(), targets_BK, reduction="none").mean(dim=1)

    losses: dict[str, Loss] = {"ce": cross_entropy, "bce": binary_cross_entropy}
    if kind not in losses:
        raise ConfigError(f"TRAIN.LOSS is {kind!r}; use one of {', '.join(losses)}.")
    return losses[kind]


def balanced_weights(class_counts: Sequence[int]) -> Tensor:
    """Weights (K,) inversely proportional to the classes' sizes, 1 on average over the samples; 0 for empty classes."""
    counts = torch.tensor(class_counts, dtype=torch.float64)
    weights = torch.where(counts > 0, counts.sum() / counts.clamp(min=1) / (counts > 0).sum(), 0.0)
    return weights.float()


def weight_loss(loss: Loss, weights_K: Tensor) -> Loss:
    """Make a loss in which each sample weighs as much as its class; of soft targets, as much as these on average."""

    def weighted(logits_BK: Tensor, targets: Tensor) -> Tensor:
        nonlocal weights_K
        if weights_K.device != logits_BK.device:  # once: copies of ordinary memory make a GPU wait
            weights_K = weights_K.to(logits_BK.device)
        weight_B = weights_K[targets] if targets.ndim == 1 else targets.float() @ weights_K
        return loss(logits_BK, targets) * weight_B

    return weighted


def build_loss(cfg: Config, class_counts: Sequence[int] = ()) -> Loss:
    """Make the configured training loss; `class_counts` are the training images of each class."""
    loss = make_loss(smoothing=cfg.MODEL.LABEL_SMOOTHING, kind=cfg.TRAIN.LOSS)
    return weight_loss(loss, balanced_weights(class_counts)) if cfg.TRAIN.CLASS_WEIGHTS == "balanced" else loss

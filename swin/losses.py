"""Classification losses, one value a sample."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from swin.config import Config
from swin.errors import ConfigError

Loss = Callable[[Tensor, Tensor], Tensor]


def make_loss(*, smoothing: float, kind: str = "ce") -> Loss:
    """Make a loss that returns a value for each sample, so that callers form exact sums.

    Args:
        smoothing: Share of each target that is spread evenly over all K classes, soft targets included, in [0, 1).
        kind: `ce` for cross entropy; `bce` for binary cross entropy, averaged over the classes of a sample.

    Returns:
        A function of logits (B, K), any float dtype, and targets, either classes (B,) int64 or probabilities (B, K). It
        gives losses (B,) float32.

    Raises:
        ConfigError: If the kind is unknown.
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


def build_loss(cfg: Config) -> Loss:
    """Make the configured training loss."""
    return make_loss(smoothing=cfg.MODEL.LABEL_SMOOTHING, kind=cfg.TRAIN.LOSS)

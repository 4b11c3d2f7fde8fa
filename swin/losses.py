"""Classification losses, one value a sample."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from swin.config import Config
from swin.errors import ConfigError

Loss = Callable[[Tensor, Tensor], Tensor]


def make_loss(
    *, smoothing: float, kind: str = "ce", gamma_neg: float = 4.0, gamma_pos: float = 1.0, clip: float = 0.05
) -> Loss:
    """Make a loss that returns a value for each sample, so that callers form exact sums.

    Args:
        smoothing: Fraction of each label that is spread evenly over all K classes, in [0, 1): with m labels of an image
            the targets become (1 - smoothing) y + smoothing m / K. In `asl` they become (1 - smoothing) y: what other
            classes were given would outweigh the little that this loss takes from those that are clearly absent.
        kind: `ce` for cross entropy; `bce` for binary cross entropy, averaged over the classes of a sample; `asl` for
            the asymmetric loss, see `asymmetric_loss`.
        gamma_neg, gamma_pos, clip: Of the asymmetric loss.

    Returns:
        A function of logits (B, K), any float dtype, and targets, either classes (B,) int64 or numbers from 0 to 1
        (B, K), to losses (B,) float32. For `ce` the targets of a sample sum to 1; for the others to any number.

    Raises:
        ConfigError: The kind is unknown.
    """

    def cross_entropy(logits_BK: Tensor, targets: Tensor) -> Tensor:
        # In float32, since a half-precision log-sum-exp loses the small differences that gradients are made of.
        return F.cross_entropy(logits_BK.float(), targets, reduction="none", label_smoothing=smoothing)

    def dense(targets: Tensor, num_classes: int) -> Tensor:
        return (F.one_hot(targets, num_classes) if targets.ndim == 1 else targets).float()

    def binary_cross_entropy(logits_BK: Tensor, targets: Tensor) -> Tensor:
        targets_BK = dense(targets, logits_BK.shape[1])
        targets_BK = targets_BK * (1.0 - smoothing) + smoothing * targets_BK.mean(dim=1, keepdim=True)
        return F.binary_cross_entropy_with_logits(logits_BK.float(), targets_BK, reduction="none").mean(dim=1)

    def asymmetric(logits_BK: Tensor, targets: Tensor) -> Tensor:
        targets_BK = dense(targets, logits_BK.shape[1]) * (1.0 - smoothing)
        return asymmetric_loss(logits_BK, targets_BK, gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip)

    losses: dict[str, Loss] = {"ce": cross_entropy, "bce": binary_cross_entropy, "asl": asymmetric}
    if kind not in losses:
        raise ConfigError(f"TRAIN.LOSS is {kind!r}; use one of {', '.join(losses)}.")
    return losses[kind]


def asymmetric_loss(
    logits_BK: Tensor, targets_BK: Tensor, *, gamma_neg: float, gamma_pos: float, clip: float
) -> Tensor:
    """Compute a loss that weighs down the many classes that an image clearly does not have.

    With p the sigmoid of a logit and q = max(p - clip, 0), a label costs -(1 - p)^gamma_pos log p and a class that is
    none -q^gamma_neg log(1 - q), so that one below `clip` costs nothing. Gradients pass through the weights too. A
    target between 0 and 1, as of mixed images, costs that fraction of the first and the rest of the second.

    Returns:
        Sums over the classes (B,), float32, as in the paper: an average would leave gradients near AdamW's eps.

    Source: Ridnik et al. 2020, arXiv 2009.14119, equations 4 to 7.
    """
    logits_BK = logits_BK.float()  # in half precision p would be 1 from a logit of 8 on
    log_p_BK, log_not_p_BK = F.logsigmoid(logits_BK), F.logsigmoid(-logits_BK)
    positive_BK = -(gamma_pos * log_not_p_BK).exp() * log_p_BK
    weight_BK = (log_p_BK.exp() - clip).clamp(min=1e-8) ** gamma_neg  # not of 0, where a root has no gradient
    log_clip_BK = torch.full_like(logits_BK, math.log(clip) if clip else -math.inf)
    negative_BK = -weight_BK * torch.logaddexp(log_not_p_BK, log_clip_BK).clamp(max=0)  # log(1 - p + clip), if below 0
    return (targets_BK * positive_BK + (1.0 - targets_BK) * negative_BK).sum(dim=1)


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
    asl = {name.lower(): value for name, value in cfg.TRAIN.ASL.items()}  # named as the arguments are
    loss = make_loss(smoothing=cfg.MODEL.LABEL_SMOOTHING, kind=cfg.TRAIN.LOSS, **asl)
    return weight_loss(loss, balanced_weights(class_counts)) if cfg.TRAIN.CLASS_WEIGHTS == "balanced" else loss

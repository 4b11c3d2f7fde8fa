"""Evaluation with exact counts."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from swin.batches import Data
from swin.distributed import Distributed, gather
from swin.engine.precision import Precision
from swin.engine.signals import StopRequest
from swin.errors import DataError, RunStoppedError


@dataclass(frozen=True)
class EvalResult:
    """Counts over a whole data set. `k` is min(5, classes)."""

    correct1: int
    correct5: int
    seen: int
    loss: float
    k: int

    @property
    def acc1(self) -> float:
        """Top-1 accuracy in percent."""
        return 100.0 * self.correct1 / self.seen

    @property
    def acc5(self) -> float:
        """Top-k accuracy in percent."""
        return 100.0 * self.correct5 / self.seen

    def fields(self) -> dict[str, Any]:
        """Accuracies and counts, for metrics.jsonl and eval.json."""
        return {"acc1": self.acc1, "acc5": self.acc5, **asdict(self)}

    def __str__(self) -> str:
        return f" * Acc@1 {self.acc1:.3f} Acc@{self.k} {self.acc5:.3f} ({self.correct1}/{self.seen})"


@torch.inference_mode()
def evaluate(
    model: nn.Module, data: Data, *, precision: Precision, dist: Distributed, stop: StopRequest | None = None
) -> EvalResult:
    """Classify a data set, each process its own part of it.

    Correct and seen samples are counted as integers and added over processes, so the result depends on neither batch
    size nor the number of processes. Nothing waits for the device before the end.

    Args:
        model: images (b, C, H, W) to logits (b, K); not a distributed wrapper, since parts may differ in length.
        stop: a request that ends it early, on any of the processes.

    Raises:
        DataError: the set is empty.
        RunStoppedError: a process was asked to stop before it was done.
    """
    batches = data.val
    if batches is None or not batches.num_samples:
        raise DataError("the validation set holds no images; there is nothing to evaluate.")
    was_training = model.training
    model.eval()
    # float64 where there is one: a sum of 50,000 losses in float32 would depend on the order of its terms.
    loss_sum = torch.zeros((), dtype=torch.float32 if dist.device.type == "mps" else torch.float64, device=dist.device)
    counts = torch.zeros(2, dtype=torch.int64, device=dist.device)  # correct1, correct5
    seen, k = 0, 0  # k stays 0 in a process without samples, which sees no logits
    for batch in batches:
        if stop and stop.requested:
            break
        images = data.normalise(batch.images.to(dist.device, non_blocking=True))
        labels = batch.labels.to(dist.device, non_blocking=True)
        with precision.autocast():
            logits = model(images).float()
        k = min(5, logits.shape[1])
        hits = logits.topk(k, dim=1).indices == labels[:, None]  # (b, k)
        counts += torch.stack([hits[:, 0].sum(), hits.sum()])  # a label is hit once at most
        loss_sum += F.cross_entropy(logits, labels, reduction="none").to(loss_sum.dtype).sum()
        seen += len(labels)
    model.train(was_training)
    sums = gather((*counts.tolist(), seen, loss_sum.item(), k))
    correct1, correct5, seen, loss, _ = map(sum, zip(*sums, strict=True))
    if seen < batches.num_samples:
        name = (stop and stop.name) or "a signal to another process"
        raise RunStoppedError(f"stopped by {name} during an evaluation, which will be made anew")
    return EvalResult(correct1, correct5, seen, loss / seen, max(k for *_, k in sums))

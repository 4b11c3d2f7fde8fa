"""Evaluation with exact counts."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from swin.distributed import Distributed, all_reduce_sum
from swin.engine.precision import Precision
from swin.errors import DataError


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
        """For metrics.jsonl and eval.json."""
        return {"acc1": self.acc1, "acc5": self.acc5, **asdict(self)}

    def __str__(self) -> str:
        return f" * Acc@1 {self.acc1:.3f} Acc@{self.k} {self.acc5:.3f} ({self.correct1}/{self.seen})"


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    normalise: Callable[[torch.Tensor], torch.Tensor],
    precision: Precision,
    dist: Distributed,
    num_samples: int,
) -> EvalResult:
    """Classify a data set, each process its own share of it.

    Correct and seen samples are counted as integers and added over processes, so the result depends on neither batch
    size nor the number of processes. `model` must not be a distributed wrapper: shares may differ in length.

    Args:
        model: images (b, C, H, W) to logits (b, K).
        batches: this process's batches with `images`, uint8, and `labels`.
        normalise: images as loaded, on the device, to images as the model takes them.
        num_samples: size of the whole set.

    Raises:
        DataError: the set is empty.
    """
    if not num_samples:
        raise DataError("the validation set holds no images; there is nothing to evaluate.")
    was_training = model.training
    model.eval()
    counts = torch.zeros(3, dtype=torch.int64, device=dist.device)  # correct1, correct5, seen
    # float64 where there is one: a sum of 50,000 losses in float32 would depend on the order of its terms.
    loss_sum = torch.zeros((), device=dist.device, dtype=torch.float32 if dist.device.type == "mps" else torch.float64)
    k = 1
    for batch in batches:
        images = normalise(batch.images.to(dist.device, non_blocking=True))
        labels = batch.labels.to(dist.device, non_blocking=True)
        with precision.autocast():
            logits = model(images).float()
        k = min(5, logits.shape[1])
        hits = logits.topk(k, dim=1).indices == labels[:, None]  # (b, k)
        counts += torch.stack(
            [hits[:, 0].sum(), hits.any(dim=1).sum(), hits.new_tensor(len(labels), dtype=torch.int64)]
        )
        loss_sum += F.cross_entropy(logits, labels, reduction="none").to(loss_sum.dtype).sum()
    model.train(was_training)
    widest = torch.tensor(k, device=dist.device)  # a process without samples has seen no logits
    if dist.world_size > 1:
        torch.distributed.all_reduce(widest, op=torch.distributed.ReduceOp.MAX)
    all_reduce_sum(counts)
    all_reduce_sum(loss_sum)
    correct1, correct5, seen = counts.tolist()
    assert seen == num_samples, f"evaluated {seen} of {num_samples} samples"
    return EvalResult(correct1, correct5, seen, loss_sum.item() / seen, int(widest))


class EvalLoader(Protocol):
    """What evaluation needs of a data loader."""

    @property
    def num_samples(self) -> int:
        """Samples of the whole set, over all processes."""

    def __iter__(self) -> Iterator[Any]:
        """This process's batches; see `evaluate`."""


def make_evaluation(
    model: nn.Module,
    loader: EvalLoader,
    normalise: Callable[[torch.Tensor], torch.Tensor],
    precision: Precision,
    dist: Distributed,
) -> Callable[[], EvalResult]:
    """A function that measures the model, as it then is, on a loader's images; see `evaluate`."""
    return lambda: evaluate(
        model, loader, normalise=normalise, precision=precision, dist=dist, num_samples=loader.num_samples
    )

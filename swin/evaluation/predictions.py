"""The table that an evaluation yields: one row an image, in the order of the data set. All figures are read off it.

Legend: N images, K classes.
"""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from swin.errors import CheckpointError, DataError
from swin.evaluation.table import CSV_VALUES, Table
from swin.records import replacing

# Logits are kept in float32 up to the first number of values (64 MiB), in float16 up to the second (2 GiB), and not at
# all above: the other columns, which most figures are read off, are computed in float32 and kept always.
FLOAT32_VALUES, FLOAT16_VALUES = 1 << 24, 1 << 30


class Columns(NamedTuple):
    """What is read off the logits of a batch, in float32, before they are stored."""

    labels: Tensor  # int64 (b,)
    preds: Tensor  # int64 (b,), the first of the largest
    ranks: Tensor  # int64 (b,), how many classes come before the label: larger ones, and equal ones of lower number
    scores: Tensor  # float32 (b,), probability of the predicted class
    losses: Tensor  # float32 (b,), cross entropy
    logits: Tensor | None  # (b, K) as stored, less the row's largest


_KEYS = ("label", "pred", "rank", "score", "loss", "logits")  # names of the columns in a file


def read_columns(logits_BK: Tensor, labels_B: Tensor, dtype: torch.dtype | None) -> Columns:
    """Compute the columns of a batch where it is; nothing waits for the device.

    Args:
        logits_BK: Of any floating type. A label whose logit is NaN, or beside NaN, has not been hit.
        labels_B: int64.
        dtype: What logits are stored in; None to leave them out.
    """
    logits_BK = logits_BK.float()
    # Less the largest: a constant added to a row's logits then changes nothing, and float16 is exact where it matters.
    logits_BK = logits_BK - logits_BK.amax(dim=1, keepdim=True)
    log_sums_B = logits_BK.exp().sum(dim=1).log()
    own_B1 = logits_BK.gather(1, labels_B[:, None])
    is_earlier_BK = torch.arange(logits_BK.shape[1], device=logits_BK.device) < labels_B[:, None]
    is_before_BK = ~(logits_BK <= own_B1) | ((logits_BK == own_B1) & is_earlier_BK)  # what compares with NaN is False
    stored = None if dtype is None else logits_BK.to(dtype)
    losses_B = log_sums_B - own_B1[:, 0]
    return Columns(labels_B, logits_BK.argmax(dim=1), is_before_BK.sum(dim=1), (-log_sums_B).exp(), losses_B, stored)


def storage_dtype(num_images: int, num_classes: int) -> torch.dtype | None:
    """Choose what the logits of a data set are stored in; None for not at all."""
    values = num_images * num_classes
    return torch.float32 if values <= FLOAT32_VALUES else torch.float16 if values <= FLOAT16_VALUES else None


@dataclass(frozen=True)
class EvalResult:
    """Counts over a whole data set, and figures that runs are compared by; None for one that it does not have.

    Attributes:
        k: min(5, classes).
        balanced_accuracy: mean recall of the classes that occur as label, from 0 to 1.
        macro_f1: mean F1 of the classes that occur as label or prediction.
        mean_average_precision: of several labels an image.
    """

    correct1: int
    correct5: int
    seen: int
    loss: float
    k: int
    balanced_accuracy: float | None = None
    macro_f1: float | None = None
    mean_average_precision: float | None = None

    @property
    def acc1(self) -> float:
        """Top-1 accuracy in percent."""
        return 100.0 * self.correct1 / self.seen

    @property
    def acc5(self) -> float:
        """Top-k accuracy in percent."""
        return 100.0 * self.correct5 / self.seen

    def fields(self) -> dict[str, Any]:
        """Figures and counts, for metrics.jsonl and eval.json."""
        found = {"acc1": self.acc1, "acc5": self.acc5, **asdict(self)}
        return {name: value for name, value in found.items() if value is not None}

    def __str__(self) -> str:
        return f" * Acc@1 {self.acc1:.3f} Acc@{self.k} {self.acc5:.3f} ({self.correct1}/{self.seen})"


@dataclass(frozen=True, eq=False)
class Predictions(Table):
    """One label an image. The columns are those of `Columns`, as arrays; `losses` and `scores` are float32.

    Attributes:
        logits: (N, K), each row less its largest; float32, float16 or None, as `storage_dtype` says.
    """

    KEYS: ClassVar = dict(zip(Columns._fields, _KEYS, strict=True))
    LABEL_TYPE: ClassVar = torch.int64

    labels: np.ndarray
    preds: np.ndarray
    ranks: np.ndarray
    scores: np.ndarray
    losses: np.ndarray
    logits: np.ndarray | None

    @staticmethod
    def read(logits_BK: Tensor, labels: Tensor, num_images: int) -> Columns:
        return read_columns(logits_BK, labels, storage_dtype(num_images, logits_BK.shape[1]))

    def count(self) -> EvalResult:
        """Count what was hit; figures of classes are scikit-learn's, in a hundredth of its time."""
        k = min(5, len(self.classes))
        correct1, correct5 = (int(np.count_nonzero(self.ranks < top)) for top in (1, k))
        loss = float(self.losses.sum(dtype=np.float64)) / len(self)
        hits = self.labels[self.labels == self.preds]
        counts = (np.bincount(column, minlength=len(self.classes)) for column in (hits, self.labels, self.preds))
        hits_K, support_K, predicted_K = counts
        labels, used = support_K > 0, support_K + predicted_K > 0
        balanced = float((hits_K[labels] / support_K[labels]).mean())
        macro_f1 = float((2 * hits_K[used] / (support_K + predicted_K)[used]).mean())
        return EvalResult(correct1, correct5, len(self), loss, k, balanced, macro_f1)

    def probabilities(self, rows: slice | np.ndarray = slice(None), temperature: float = 1.0) -> np.ndarray:
        """Return the softmax of the logits of some rows, float32 (n, K).

        Raises:
            DataError: The table was too large to keep logits.
        """
        if self.logits is None:
            size = f"{len(self):,} images x {len(self.classes):,} classes"
            raise DataError(f"{size} are too many to keep their logits; evaluate a part of the images.")
        return (torch.from_numpy(self.logits[rows]).float() / temperature).softmax(dim=1).numpy()

    def with_label_sets(self, label_sets: Sequence[Sequence[int]]) -> "Predictions":
        """Return the rows that have labels, each with the one of them that the model ranks first.

        So an image counts as hit where any of its labels is among the k first. Images without labels are left out.

        Args:
            label_sets: Any number of labels an image.
        """
        kept = np.array([index for index, labels in enumerate(label_sets) if len(labels)], dtype=np.int64)
        if not len(kept):
            raise DataError("none of the images has a label in the file of labels.")
        table = self.take(kept)
        self.probabilities(slice(0))  # which raises without logits
        for row, index in enumerate(kept.tolist()):
            labels = np.unique(np.asarray(label_sets[index], dtype=np.int64))
            logits_K = table.logits[row : row + 1].astype(np.float32)  # type: ignore[index]
            repeated = torch.from_numpy(logits_K).expand(len(labels), -1)
            columns = read_columns(repeated, torch.from_numpy(labels), None)
            best = int(columns.ranks.argmin())
            table.labels[row], table.losses[row] = int(labels[best]), float(columns.losses[best])
            table.ranks[row] = int(columns.ranks[best])
        # In float16 two logits may have become equal: what was predicted in float32 counts.
        is_hit = np.array([table.preds[row] in label_sets[index] for row, index in enumerate(kept.tolist())])
        table.labels[is_hit], table.ranks[is_hit] = table.preds[is_hit], 0
        table.ranks[~is_hit] = np.maximum(table.ranks[~is_hit], 1)
        return table

    def _check_columns(self) -> None:
        num_images, num_classes = len(self.names), len(self.classes)
        for column in (self.labels, self.preds, self.ranks, self.scores, self.losses):
            if column.shape != (num_images,):
                raise ValueError("its columns differ in length")
        if self.logits is not None and self.logits.shape != (num_images, num_classes):
            raise ValueError("its logits are of another shape")
        if not num_images or not all(0 <= each.min() <= each.max() < num_classes for each in (self.labels, self.preds)):
            raise ValueError("it has labels without a class")

    def write_csv(self, path: Path) -> bool:
        """Write `file,label,class,pred,pred_class,score`, then the probability of each class under its name.

        Returns:
            Whether the classes have their columns: very large tables go without.
        """
        has_classes = self.logits is not None and self.logits.size <= CSV_VALUES
        head = ["file", "label", "class", "pred", "pred_class", "score"]
        form = ",%.9g" * (1 + (len(self.classes) if has_classes else 0)) + "\n"  # twice as fast as cell by cell
        with (
            replacing(path) as temporary,
            open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            csv.writer(file, lineterminator="\n").writerow([*head, *self.classes[: None if has_classes else 0]])
            writer = csv.writer(file, lineterminator="")
            for start in range(0, len(self), 1024):
                rows = slice(start, start + 1024)
                probabilities = self.probabilities(rows).tolist() if has_classes else [[]] * len(self.labels[rows])
                columns = (self.labels[rows].tolist(), self.preds[rows].tolist(), self.scores[rows].tolist())
                for name, label, pred, score, others in zip(self.names[rows], *columns, probabilities, strict=True):
                    writer.writerow([name, label, self.classes[label], pred, self.classes[pred]])
                    file.write(form % (score, *others))
        return has_classes

    def check_finite(self) -> None:
        if not (np.isfinite(self.losses).all() and np.isfinite(self.scores).all()):
            raise CheckpointError("The model's outputs are not finite: its weights are damaged. Use another file.")

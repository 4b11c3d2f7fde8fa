"""The table that an evaluation yields where an image has any number of labels, and what is read off it.

Legend: N images, K classes.
"""

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from swin.errors import CheckpointError
from swin.evaluation.predictions import EvalResult
from swin.evaluation.table import CSV_VALUES, Table
from swin.records import replacing

DEFAULT_THRESHOLD = 0.5  # where there is nothing to find one on
_FITTED_VALUES = 1 << 24  # probabilities that the threshold is found on


class LabelColumns(NamedTuple):
    """What is kept of a batch."""

    labels: Tensor  # uint8 (b, K), 0 and 1
    losses: Tensor  # float32 (b,), binary cross entropy, averaged over the classes
    logits: Tensor  # float32 (b, K): every figure is read off them


@dataclass(frozen=True, kw_only=True)
class LabelResult(EvalResult):
    """Counts over a whole data set of any number of labels an image.

    An image is hit where the class of the highest score, or one of the k highest, is among its labels; so one without
    labels never is. Figures that are not defined, as those of outputs that are not finite, are NaN.
    """

    mean_average_precision: float  # over the classes that are a label of some image
    macro_f1: float  # over the same classes, at the threshold
    threshold: float  # probability from which on a class is predicted

    def __str__(self) -> str:
        figures = (
            f"mAP {self.mean_average_precision:.4f} macro F1 {self.macro_f1:.4f} at threshold {self.threshold:.4f}"
        )
        return f"{super().__str__()} {figures}"


@dataclass(frozen=True, eq=False)
class LabelPredictions(Table):
    """Any number of labels an image. The columns are those of `LabelColumns`, as arrays."""

    KEYS: ClassVar = {"labels": "label", "losses": "loss", "logits": "logits"}
    LABEL_TYPE: ClassVar = torch.uint8

    labels: np.ndarray
    losses: np.ndarray
    logits: np.ndarray

    @staticmethod
    def read(logits_BK: Tensor, labels: Tensor, num_images: int) -> LabelColumns:
        logits_BK = logits_BK.float()
        losses_BK = F.binary_cross_entropy_with_logits(logits_BK, labels.float(), reduction="none")
        return LabelColumns(labels, losses_BK.mean(dim=1), logits_BK)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """The sigmoid of the logits, float32 (N, K)."""
        return torch.from_numpy(self.logits).sigmoid().numpy()

    @cached_property
    def average_precisions(self) -> np.ndarray:
        """The average precision of each class (K,), by scikit-learn; NaN for one that is no image's label."""
        from sklearn.metrics import average_precision_score

        columns = zip(self.labels.T, self.probabilities.T, strict=True)
        return np.array(
            [average_precision_score(labels, scores) if labels.any() else np.nan for labels, scores in columns]
        )

    @property
    def given_threshold(self) -> float | None:
        """The threshold that was found elsewhere, as on a run's validation images; kept in `about`."""
        return self.about.get("given_threshold")

    @cached_property
    def threshold(self) -> float:
        """Probability from which on a class is predicted."""
        return self.given_threshold if self.given_threshold is not None else find_threshold(self)

    @cached_property
    def preds(self) -> np.ndarray:
        """Which classes are predicted, bool (N, K)."""
        return self.probabilities >= np.float32(self.threshold)

    @property
    def is_finite(self) -> bool:
        """Whether all outputs are finite numbers."""
        return bool(np.isfinite(self.logits).all())

    def count(self) -> LabelResult:
        k, loss = min(5, len(self.classes)), float(self.losses.sum(dtype=np.float64)) / len(self)
        if not self.is_finite:
            figures = {"mean_average_precision": np.nan, "macro_f1": np.nan, "threshold": DEFAULT_THRESHOLD}
            return LabelResult(0, 0, len(self), loss, k, **figures)
        best = np.argsort(-self.logits, axis=1, kind="stable")[:, :k]  # the lower class number first where equal
        are_hits = np.take_along_axis(self.labels, best, axis=1) > 0
        correct1, correct5 = int(are_hits[:, 0].sum()), int(are_hits.any(axis=1).sum())
        occurs = self.labels.any(axis=0)
        mean_ap = float(self.average_precisions[occurs].mean()) if occurs.any() else np.nan
        macro_f1 = _average(*_counts(self))["macro_f1"]
        figures = {"mean_average_precision": mean_ap, "macro_f1": macro_f1, "threshold": self.threshold}
        return LabelResult(correct1, correct5, len(self), loss, k, **figures)

    def write_csv(self, path: Path) -> bool:
        """Write `file,labels,preds`, names joined by |, then the probability of each class under its name.

        Returns:
            Whether the classes have their columns: very large tables go without.
        """
        has_classes = self.logits.size <= CSV_VALUES
        with (
            replacing(path) as temporary,
            open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["file", "labels", "preds", *self.classes[: None if has_classes else 0]])
            for row, name in enumerate(self.names):
                names = ("|".join(self.names_of(flags)) for flags in (self.labels[row], self.preds[row]))
                scores = (f"{score:.9g}" for score in self.probabilities[row].tolist()) if has_classes else ()
                writer.writerow([name, *names, *scores])
        return has_classes

    def names_of(self, flags_K: np.ndarray) -> list[str]:
        """Return the names of the classes that are flagged."""
        return [self.classes[label] for label in np.flatnonzero(flags_K).tolist()]

    def check_finite(self) -> None:
        if not self.is_finite:
            raise CheckpointError("The model's outputs are not finite: its weights are damaged. Use another file.")

    def _check_columns(self) -> None:
        shape = len(self.names), len(self.classes)
        if not len(self) or self.labels.shape != shape or self.logits.shape != shape or self.losses.shape != shape[:1]:
            raise ValueError("its columns are of different shapes")


def find_threshold(table: LabelPredictions) -> float:
    """Find the probability from which on predictions have the largest macro F1, over the classes that occur as label.

    The search is exact: F1 changes only at the probabilities that the images have, and all of these are tried. Of the
    thresholds that are equally good, one half-way to the next lower probability is taken. Of large tables, images at
    equal distances are used.
    """
    occurs = table.labels.any(axis=0)
    if not occurs.any() or not table.is_finite:
        return DEFAULT_THRESHOLD
    step = -(-len(table) * int(occurs.sum()) // _FITTED_VALUES)
    labels_NK, scores_NK = table.labels[::step, occurs], table.probabilities[::step, occurs]
    order_NK = np.argsort(-scores_NK, axis=0, kind="stable")
    hits_NK = np.take_along_axis(labels_NK, order_NK, axis=0).cumsum(axis=0, dtype=np.int64)
    f1_NK = 2 * hits_NK / (np.arange(1, len(hits_NK) + 1)[:, None] + labels_NK.sum(axis=0, dtype=np.int64))
    # Going down over the probabilities of all classes, each adds what it changes in its own class's F1.
    values = np.take_along_axis(scores_NK, order_NK, axis=0).ravel()
    merged = np.argsort(-values, kind="stable")
    values, sums = values[merged], np.diff(f1_NK, axis=0, prepend=0).ravel()[merged].cumsum()
    ends = np.flatnonzero(np.append(values[:-1] > values[1:], True))  # equal ones are predicted together
    best = ends[sums[ends].argmax()]
    lower = values[best + 1] if best + 1 < len(values) else np.float32(0)
    middle = np.float32((float(values[best]) + float(lower)) / 2)  # in float32, as what it is compared with
    return float(middle if middle > lower else values[best])


def measure_labels(table: LabelPredictions) -> dict[str, Any]:
    """Compute all figures of a table.

    Acc@1 and Acc@k are in percent, all else from 0 to 1. Macro averages are over the classes that occur as label, micro
    averages over all decisions. F1, precision and recall are those at the table's threshold; one that is not defined,
    as the precision of a class that was never predicted, is None, and counts as 0 in averages.

    Returns:
        A dict as JSON holds it; docs/results.md lists its keys.

    Raises:
        CheckpointError: The outputs are not finite.
    """
    table.check_finite()
    result = table.count()
    hits, predicted, support = _counts(table)
    is_wrong = table.labels.astype(bool) != table.preds
    columns = {
        "average_precision": table.average_precisions,
        "precision": _divide(hits, predicted),
        "recall": _divide(hits, support),
        "f1": np.where(support > 0, _divide(2 * hits, predicted + support), np.nan),
        "support": support,
        "predicted": predicted,
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    per_class = {
        name: {key: None if value != value else value for key, value in zip(columns, row, strict=True)}  # NaN
        for name, row in zip(table.classes, rows, strict=True)
    }
    found = {
        **result.fields(),
        **_average(hits, predicted, support),
        "threshold_is_given": table.given_threshold is not None,
        "subset_accuracy": float(1 - is_wrong.any(axis=1).mean()),
        "hamming_loss": float(is_wrong.mean()),
        "labels_per_image": float(table.labels.sum(axis=1, dtype=np.int64).mean()),
        "unlabelled": int((~table.labels.any(axis=1)).sum()),
    }
    plain = {key: None if isinstance(value, float) and value != value else value for key, value in found.items()}
    return {**plain, "per_class": per_class}


def _counts(table: LabelPredictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the images of each class that are rightly predicted, predicted, and labelled as such: int64 (K,) each."""
    labels, preds = table.labels.astype(bool), table.preds
    return (labels & preds).sum(axis=0), preds.sum(axis=0), labels.sum(axis=0)


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide, with NaN for what is not defined."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _average(hits: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> dict[str, float]:
    """Return precision, recall and F1, averaged over classes and over decisions; NaN where no class has an image."""
    found = {}
    for name, part, whole in (
        ("precision", hits, predicted),
        ("recall", hits, support),
        ("f1", 2 * hits, predicted + support),
    ):
        ratios = np.nan_to_num(_divide(part, whole)[support > 0])
        found[f"macro_{name}"] = float(ratios.mean()) if len(ratios) else np.nan
        found[f"micro_{name}"] = float(part.sum() / whole.sum()) if whole.sum() else 0.0
    return found

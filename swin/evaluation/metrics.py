"""What is read off a table of predictions, by scikit-learn and SciPy where they have it.

Legend: N images, K classes, R bootstrap resamples.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from swin.evaluation.predictions import Predictions

BINS = 15  # of the calibration error, as in Guo et al. 2017
MAX_MATRIX = 1000  # classes up to which there is a confusion matrix
_MOST_CONFUSED = 20
_RESAMPLES, _SEED, _DRAWN_AT_ONCE = 1000, 0, 1 << 22
_FITTED_VALUES = 1 << 22  # logits that the temperature is fitted to


def measure(predictions: Predictions) -> dict[str, Any]:
    """Compute all figures of a table.

    Accuracies are in percent, all other fractions from 0 to 1. Averages over classes are scikit-learn's: precision and
    F1 over the classes that occur as label or prediction, recall (the balanced accuracy) over those that occur as
    label. A figure that is not defined, as the precision of a class that was never predicted, is None.

    Returns:
        A dict as JSON holds it; docs/results.md lists its keys.

    Raises:
        CheckpointError: The outputs are not finite.
    """
    from sklearn import metrics

    predictions.check_finite()
    labels, preds, classes = predictions.labels, predictions.preds, predictions.classes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a predicted class is no label; it counts as wrong. Or of a single class
        macro = metrics.precision_recall_fscore_support(labels, preds, average="macro", zero_division=0)
        weighted = metrics.precision_recall_fscore_support(labels, preds, average="weighted", zero_division=0)
        confusion = None
        if len(classes) <= MAX_MATRIX:
            confusion = metrics.confusion_matrix(labels, preds, labels=range(len(classes))).tolist()
    return {
        **predictions.count().fields(),
        "intervals": bootstrap_intervals(predictions),
        "macro_precision": float(macro[0]),
        "macro_recall": float(macro[1]),
        "weighted_f1": float(weighted[2]),
        "per_class": _per_class(predictions),
        "confusion": confusion,
        "confused": most_confused(predictions),
        **calibration(predictions.scores, preds == labels),
        **fit_temperature(predictions),
    }


def _per_class(predictions: Predictions) -> dict[str, dict[str, Any]]:
    from sklearn.metrics import precision_recall_fscore_support

    count = len(predictions.classes)
    columns = precision_recall_fscore_support(
        predictions.labels, predictions.preds, labels=range(count), zero_division=np.nan
    )
    predicted = np.bincount(predictions.preds, minlength=count).tolist()
    names = ("precision", "recall", "f1", "support", "predicted")
    rows = zip(predictions.classes, *(column.tolist() for column in columns), predicted, strict=True)
    return {
        name: {key: None if value != value else value for key, value in zip(names, row, strict=True)}  # NaN
        for name, *row in rows
    }


def most_confused(predictions: Predictions) -> list[dict[str, Any]]:
    """Return the pairs of label and wrong prediction that come most often, with the fraction of the label's."""
    classes, supports = predictions.classes, np.bincount(predictions.labels, minlength=len(predictions.classes))
    wrong = predictions.labels != predictions.preds
    pairs = np.stack([predictions.labels[wrong], predictions.preds[wrong]], axis=1)
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MOST_CONFUSED]
    return [
        {
            "label": label,
            "pred": pred,
            "class": classes[label],
            "pred_class": classes[pred],
            "count": count,
            "fraction": count / int(supports[label]),
        }
        for (label, pred), count in zip(pairs[order].tolist(), counts[order].tolist(), strict=True)
    ]


def calibration(scores: np.ndarray, is_hit: np.ndarray) -> dict[str, Any]:
    """Compare the probabilities (N,) of the predicted classes with how often they were right.

    Returns:
        `ece`, the mean distance of accuracy and probability over bins of equal width, weighted by their images; `mce`,
        the largest; and `reliability`, the bins that hold images.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, equations 2 to 5.
    """
    bins = np.clip(np.ceil(scores.astype(np.float64) * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    used = np.flatnonzero(counts)
    confidence = np.bincount(bins, scores, BINS)[used] / counts[used]
    accuracy = np.bincount(bins, is_hit, BINS)[used] / counts[used]
    gaps = np.abs(confidence - accuracy)
    columns = (used.tolist(), counts[used].tolist(), confidence.tolist(), accuracy.tolist())
    reliability = [
        {"lower": bin_ / BINS, "upper": (bin_ + 1) / BINS, "count": count, "confidence": mean, "accuracy": hit}
        for bin_, count, mean, hit in zip(*columns, strict=True)
    ]
    return {"ece": float(gaps @ counts[used] / len(scores)), "mce": float(gaps.max()), "reliability": reliability}


def fit_temperature(predictions: Predictions) -> dict[str, Any]:
    """Find the temperature T at which softmax(logits / T) explains the labels best, and the calibration error then.

    It is fitted to the images that it is judged on, so it says how far off the probabilities are rather than what a
    corrected model will reach. Of large tables, images at equal distances are used; `temperature_images` are how many.

    Returns:
        `temperature`, `temperature_ece` and `temperature_images`; None, None and 0 where no logits were kept.
    """
    from scipy.optimize import minimize_scalar

    if predictions.logits is None:
        return {"temperature": None, "temperature_ece": None, "temperature_images": 0}
    table = predictions
    step = -(-len(table) * len(table.classes) // _FITTED_VALUES)
    if step > 1:
        table = table.take(np.arange(0, len(table), step))
    own = np.arange(len(table)), table.labels

    def mean_loss(log_temperature: float) -> float:
        probabilities = table.probabilities(temperature=float(np.exp(log_temperature)))
        return -float(np.log(np.maximum(probabilities[own], 1e-30)).mean(dtype=np.float64))

    found = float(np.exp(minimize_scalar(mean_loss, bounds=(-4, 4), method="bounded").x))
    scores = table.probabilities(temperature=found).max(axis=1)
    ece = calibration(scores, table.preds == table.labels)["ece"]
    return {"temperature": found, "temperature_ece": ece, "temperature_images": len(table)}


def bootstrap_intervals(predictions: Predictions) -> dict[str, list[float]]:
    """Return intervals that hold the figures of 95% of the bootstrap's resamples of the images, from a fixed seed.

    Images with the same label, prediction and top-k hit count alike, so a resample is a draw of how many there are of
    each such kind: exact, and fast for many images.
    """
    from scipy.sparse import csr_array

    num_classes, k = len(predictions.classes), min(5, len(predictions.classes))
    rows = np.stack([predictions.labels, predictions.preds, predictions.ranks < k], axis=1)
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    labels, preds, is_top = kinds.T
    is_hit = labels == preds
    numbers, ones = np.arange(len(kinds)), np.ones(len(kinds))
    of_label = csr_array((ones, (numbers, labels)), shape=(len(kinds), num_classes))
    of_pred = csr_array((ones, (numbers, preds)), shape=(len(kinds), num_classes))
    of_hit = csr_array((is_hit.astype(float), (numbers, labels)), shape=(len(kinds), num_classes))
    random, figures, total = np.random.default_rng(_SEED), [], len(predictions)
    size = max(1, _DRAWN_AT_ONCE // max(len(kinds), num_classes))
    for start in range(0, _RESAMPLES, size):
        drawn_RC = random.multinomial(total, counts / total, size=min(size, _RESAMPLES - start)).astype(float)
        support, predicted, hits = drawn_RC @ of_label, drawn_RC @ of_pred, drawn_RC @ of_hit  # (R, K) each
        recall, f1 = _ratio(hits, support), _ratio(2 * hits, support + predicted)
        accuracies = [100 * (drawn_RC @ flags) / total for flags in (is_hit, is_top)]
        figures.append(np.stack([*accuracies, np.nanmean(recall, axis=1), np.nanmean(f1, axis=1)]))
    bounds = np.percentile(np.concatenate(figures, axis=1), [2.5, 97.5], axis=1).T.tolist()
    return dict(zip(("acc1", "acc5", "balanced_accuracy", "macro_f1"), bounds, strict=True))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide, with NaN for a class that does not occur."""
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def average_precisions(predictions: Predictions, label_sets: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Measure how well scores rank the images that a class is a label of above the others, for several labels an image.

    Args:
        label_sets: Any number of labels an image of the table; images without labels are left out.

    Returns:
        `average_precision`, by class, None for one that is no image's label; and their mean,
        `mean_average_precision`.
    """
    from sklearn.metrics import average_precision_score

    kept = np.array([index for index, labels in enumerate(label_sets) if len(labels)], dtype=np.int64)
    probabilities = predictions.probabilities(kept)
    by_class: dict[str, float | None] = {}
    members: list[list[int]] = [[] for _ in predictions.classes]
    for row, index in enumerate(kept.tolist()):
        for label in set(label_sets[index]):
            members[label].append(row)
    for label, name in enumerate(predictions.classes):
        is_member = np.zeros(len(kept), dtype=bool)
        is_member[members[label]] = True
        by_class[name] = float(average_precision_score(is_member, probabilities[:, label])) if members[label] else None
    known = [value for value in by_class.values() if value is not None]
    return {"mean_average_precision": float(np.mean(known)), "average_precision": by_class}

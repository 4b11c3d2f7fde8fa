"""Statistics of several runs side by side, as plain values; nothing is read or drawn here."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from swin.engine.best import Best
from swin.evaluation.predictions import Predictions

Row = dict[str, Any]
_FIGURES = ("acc1", "acc5", "k", "seen", "loss", "balanced_accuracy", "macro_f1", "mean_average_precision", "ece")


def summarise(
    name: str,
    metrics: Mapping[str, Any] | None,
    rows: Sequence[Row],
    parameters: int | None = None,
    monitor: str = "acc1",
) -> dict[str, Any]:
    """Return a run's line in a table; None for what is not known.

    Args:
        name: What the run is called.
        metrics: Of its predictions; without them the best evaluation of the rows is taken, which has no intervals.
        rows: Of its metrics.jsonl.
        parameters: Of its model.
        monitor: What its evaluations were compared by.
    """
    evaluations = [row for row in rows if row["kind"] == "eval" and row.get("acc1") is not None]
    comparison, best = Best(monitor), Row()
    for row in evaluations:
        best = row if comparison.take(row) else best
    figures = best if metrics is None else metrics
    speeds = [row["images_per_sec"] for row in rows if row["kind"] == "train" and row.get("images_per_sec")]
    return {
        "run": name,
        **{key: figures.get(key) for key in _FIGURES},
        "intervals": figures.get("intervals", {}),
        "best_epoch": best.get("epoch"),
        "images_per_sec": median(speeds) if speeds else None,
        "parameters": parameters,
    }


def pair(first: Predictions, other: Predictions) -> dict[str, Any]:
    """Test whether two runs are right equally often.

    Images of the same name and class in both are pairs, tested by McNemar's exact test, which looks only at those that
    one run got right and the other wrong. Without any, all images are taken as two samples, in Fisher's exact test.

    Returns:
        `shared`, `only_first`, `only_other`: images in both and in one alone; `test` and its `p_value`; of the pairs,
        or without any of all images, `acc1_first`, `acc1_other` and `difference` in points of percent; and of pairs
        `both_right`, `first_right` (alone), `other_right` (alone), `both_wrong`.
    """
    from scipy.stats import binomtest, fisher_exact

    hits_first, hits_other = _hits(first), _hits(other)
    shared = hits_first.keys() & hits_other.keys()
    counts = {
        "shared": len(shared),
        "only_first": len(hits_first) - len(shared),
        "only_other": len(hits_other) - len(shared),
    }
    if not shared:
        totals = [(int((found.ranks == 0).sum()), len(found.ranks)) for found in (first, other)]
        p_value = fisher_exact([[right, total - right] for right, total in totals]).pvalue
        return {**counts, "test": "Fisher's exact test, unpaired", "p_value": float(p_value), **_accuracies(*totals)}
    one = np.array([hits_first[key] for key in shared])
    two = np.array([hits_other[key] for key in shared])
    first_right, other_right = int((one & ~two).sum()), int((two & ~one).sum())
    discordant = first_right + other_right
    return {
        **counts,
        "test": "McNemar's exact test, paired",
        "p_value": float(binomtest(first_right, discordant).pvalue) if discordant else 1.0,
        **_accuracies((int(one.sum()), len(one)), (int(two.sum()), len(two))),
        "both_right": int((one & two).sum()),
        "first_right": first_right,
        "other_right": other_right,
        "both_wrong": int((~one & ~two).sum()),
    }


def _hits(predictions: Predictions) -> dict[tuple[str, str], bool]:
    names, classes = predictions.names, predictions.classes
    labels, hits = predictions.labels.tolist(), (predictions.ranks == 0).tolist()
    return {(names[index], classes[label]): hit for index, (label, hit) in enumerate(zip(labels, hits, strict=True))}


def _accuracies(first: tuple[int, int], other: tuple[int, int]) -> dict[str, float | None]:
    """Accuracies of (right, total) in percent, and how much higher the other is."""
    one, two = (100 * right / total if total else None for right, total in (first, other))
    difference = two - one if one is not None and two is not None else None
    return {"acc1_first": one, "acc1_other": two, "difference": difference}


def recall_differences(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List the classes that any run knows, the largest change first.

    Each has its name as `class`, its `support` in the first run, its `recall` in each and the `change` from the first.
    """
    names = dict.fromkeys(name for found in metrics for name in found["per_class"])
    table = []
    for name in names:
        recalls = [found["per_class"].get(name, {}).get("recall") for found in metrics]
        changes = [None if recall is None or recalls[0] is None else recall - recalls[0] for recall in recalls[1:]]
        support = metrics[0]["per_class"].get(name, {}).get("support")
        table.append({"class": name, "support": support, "recall": recalls, "change": changes})
    return sorted(table, key=lambda row: -max((abs(change or 0) for change in row["change"]), default=0))

"""What an evaluation writes into a folder, and the table of classes that it prints."""

from pathlib import Path
from typing import Any

from swin.evaluation.metrics import measure
from swin.evaluation.multilabel import LabelPredictions, measure_labels
from swin.evaluation.predictions import Predictions
from swin.evaluation.table import Table, read_arrays
from swin.records import make_folder, write_json

_MAX_INDENTED, _MAX_ROWS, _NUM_WORST, _NAME_WIDTH = 20, 20, 10, 32


def table_kind(multi_label: bool) -> type[Table]:
    """Return the kind of table for images of one label, or of any number."""
    return LabelPredictions if multi_label else Predictions


def load_table(path: Path) -> Table:
    """Read a `predictions.npz` of either kind; raise a DataError if it is none."""
    return read_arrays(path, lambda content: table_kind(content["label"].ndim == 2).from_arrays(content))


def measure_table(table: Table) -> dict[str, Any]:
    """Compute all figures of a table of either kind, see `measure` and `measure_labels`."""
    if isinstance(table, LabelPredictions):
        return measure_labels(table)
    assert isinstance(table, Predictions)
    return measure(table)


def write_evaluation(predictions: Table, folder: Path, more: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write `metrics.json`, `predictions.npz` and `predictions.csv` into a folder, which is made if absent.

    Args:
        predictions: The table; what it is `about` is written too.
        folder: Files of these names in it are replaced.
        more: Figures to write beside those of `measure_table`.

    Returns:
        What is in `metrics.json`.

    Raises:
        CheckpointError: The outputs are not finite.
        ConfigError: The files cannot be written.
    """
    metrics = {**predictions.about, **measure_table(predictions), **(more or {})}
    make_folder(folder)
    metrics["csv_has_classes"] = predictions.write_csv(folder / "predictions.csv")
    logits = getattr(predictions, "logits", None)
    metrics["logits"] = "none" if logits is None else str(logits.dtype)
    predictions.save(folder / "predictions.npz")
    indent = 2 if len(predictions.classes) <= _MAX_INDENTED else None  # a matrix of 1,000 classes has a million lines
    write_json(folder / "metrics.json", metrics, indent=indent)
    return metrics


def describe_classes(metrics: dict[str, Any]) -> str:
    """Return a table of the classes for a terminal; of more than 20, the ten with the lowest F1 among the tested.

    The average precision is there for several labels an image.
    """
    rows = [(name, row) for name, row in metrics["per_class"].items() if row["support"]]
    has_precisions = "threshold" in metrics
    title = "class"
    if len(rows) > _MAX_ROWS:
        title = f"the {_NUM_WORST} classes of lowest F1, of {len(rows)}"
        rows = sorted(rows, key=lambda pair: pair[1]["f1"])[:_NUM_WORST]
    width = max(len(title), *(min(len(name), _NAME_WIDTH) for name, _ in rows))
    lines = [f"{title:{width}}  images  precision  recall     F1" + "     AP" * has_precisions]
    for name, row in rows:
        shown = name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 1]}…"
        precision, recall, f1 = (
            "-" if row[key] is None else f"{row[key]:.3f}" for key in ("precision", "recall", "f1")
        )
        more = f"  {row['average_precision']:.3f}" if has_precisions else ""
        lines.append(f"{shown:{width}}  {row['support']:6}  {precision:>9}  {recall:>6}  {f1:>5}{more}")
    return "\n".join(lines)


def describe_figures(metrics: dict[str, Any]) -> str:
    """Return the figures over all classes in a line, with the interval of the accuracy, or with the threshold."""
    if "threshold" in metrics:
        origin = "given" if metrics["threshold_is_given"] else "found on these images"
        return (
            f"subset accuracy {metrics['subset_accuracy']:.4f}, Hamming loss {metrics['hamming_loss']:.4f}, micro F1 "
            f"{metrics['micro_f1']:.4f}; the threshold is {metrics['threshold']:.4f}, {origin}"
        )
    low, high = metrics["intervals"]["acc1"]
    return (
        f"balanced accuracy {metrics['balanced_accuracy']:.4f}, macro F1 {metrics['macro_f1']:.4f}, calibration error "
        f"{metrics['ece']:.4f}; 95% interval of Acc@1 {low:.2f} to {high:.2f}"
    )

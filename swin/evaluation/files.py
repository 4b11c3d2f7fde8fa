"""What an evaluation writes into a folder, and the table of classes that it prints."""

from pathlib import Path
from typing import Any

from swin.evaluation.metrics import measure
from swin.evaluation.predictions import Predictions
from swin.records import make_folder, write_json

_MAX_INDENTED, _MAX_ROWS, _NUM_WORST, _NAME_WIDTH = 20, 20, 10, 32


def write_evaluation(predictions: Predictions, folder: Path, more: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write `metrics.json`, `predictions.npz` and `predictions.csv` into a folder, which is made if absent.

    Args:
        predictions: The table; what it is `about` is written too.
        folder: Files of these names in it are replaced.
        more: Figures to write beside those of `measure`.

    Returns:
        What is in `metrics.json`.

    Raises:
        CheckpointError: The outputs are not finite.
        ConfigError: The files cannot be written.
    """
    metrics = {**predictions.about, **measure(predictions), **(more or {})}
    make_folder(folder)
    metrics["csv_has_classes"] = predictions.write_csv(folder / "predictions.csv")
    metrics["logits"] = "none" if predictions.logits is None else str(predictions.logits.dtype)
    predictions.save(folder / "predictions.npz")
    indent = 2 if len(predictions.classes) <= _MAX_INDENTED else None  # a matrix of 1,000 classes has a million lines
    write_json(folder / "metrics.json", metrics, indent=indent)
    return metrics


def describe_classes(metrics: dict[str, Any]) -> str:
    """Return a table of the classes for a terminal; of more than 20, the ten with the lowest F1 among the tested."""
    rows = [(name, row) for name, row in metrics["per_class"].items() if row["support"]]
    title = "class"
    if len(rows) > _MAX_ROWS:
        title = f"the {_NUM_WORST} classes of lowest F1, of {len(rows)}"
        rows = sorted(rows, key=lambda pair: pair[1]["f1"])[:_NUM_WORST]
    width = max(len(title), *(min(len(name), _NAME_WIDTH) for name, _ in rows))
    lines = [f"{title:{width}}  images  precision  recall     F1"]
    for name, row in rows:
        shown = name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 1]}…"
        precision, recall, f1 = (
            "-" if row[key] is None else f"{row[key]:.3f}" for key in ("precision", "recall", "f1")
        )
        lines.append(f"{shown:{width}}  {row['support']:6}  {precision:>9}  {recall:>6}  {f1:>5}")
    return "\n".join(lines)


def describe_figures(metrics: dict[str, Any]) -> str:
    """Return the figures over all classes in a line, with the interval of the accuracy."""
    low, high = metrics["intervals"]["acc1"]
    return (
        f"balanced accuracy {metrics['balanced_accuracy']:.4f}, macro F1 {metrics['macro_f1']:.4f}, calibration error "
        f"{metrics['ece']:.4f}; 95% interval of Acc@1 {low:.2f} to {high:.2f}"
    )

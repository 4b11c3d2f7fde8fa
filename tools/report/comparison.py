"""Several runs side by side: the figures of `tools.compare`, and the page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swin.engine.best import choose_figure
from swin.evaluation.multilabel import LabelPredictions
from swin.evaluation.predictions import Predictions
from swin.records import make_folder
from tools.report import figures
from tools.report.compare import pair, recall_differences, summarise
from tools.report.page import write_numbers, write_page
from tools.report.sources import Opened, count_run_parameters, name_folders
from tools.report.style import Names, draw_picture


def compare_runs(opened: Sequence[Opened]) -> dict[str, Any]:
    """Return `runs`, see `summarise`; `pairs`, each other run with the first, see `pair`; and `recalls` by class.

    A pair whose predictions are not both there has the reason as its `problem`. `measured` are the runs of `recalls`.
    """
    names = name_folders([run.folder for run in opened])
    runs = []
    for name, run in zip(names, opened, strict=True):
        num_classes = len(run.predictions.classes) if run.predictions else 0
        parameters = count_run_parameters(run.config, num_classes) if num_classes else None
        monitor = run.config.TRAIN.MONITOR if run.config else "acc1"
        if isinstance(run.predictions, LabelPredictions):
            monitor = choose_figure(monitor, multi_label=True)
        runs.append(summarise(name, run.metrics, run.files.rows, parameters, monitor))
    first, pairs = opened[0].predictions, []
    for name, run in zip(names[1:], opened[1:], strict=True):
        if first is None or run.predictions is None:
            found: dict[str, Any] = {"test": None, "problem": "one of the two has no predictions.npz to compare."}
        elif not isinstance(first, Predictions) or not isinstance(run.predictions, Predictions):
            found = {"test": None, "problem": "the test is of hits and misses, and here images have several labels."}
        else:
            found = pair(first, run.predictions)
        pairs.append({"run": name, **found})
    metrics = {name: run.metrics for name, run in zip(names, opened, strict=True) if run.metrics}
    recalls = recall_differences(list(metrics.values())) if len(metrics) > 1 else []
    return {"runs": runs, "pairs": pairs, "measured": list(metrics), "recalls": recalls}


def write_comparison(numbers: dict[str, Any], opened: Sequence[Opened], page: Path, folder: Path) -> Path:
    """Write the page about what `compare_runs` found, and its figures and numbers into a folder; returns `page`."""
    make_folder(folder)
    names = Names.of(run["run"] for run in numbers["runs"])
    rows = {name: run.files.rows for name, run in zip(names.short, opened, strict=True) if run.files.rows}
    alt = "Curves of all runs over each other."
    pictures = {}
    if rows:
        draw = figures.curves(rows)
        pictures["curves"] = draw_picture("curves", draw, size=(10.5, 5.6), alt=alt, folder=folder, fonts=names.fonts)
    notes = [
        f"{run['run']}: {note}" for run, found in zip(numbers["runs"], opened, strict=True) for note in found.notes
    ]
    write_numbers(folder, {**numbers, "notes": notes})
    title = " · ".join(run["run"] for run in numbers["runs"])
    return write_page(page, "compare.html.jinja", {**numbers, "title": title, "notes": notes, "pictures": pictures})

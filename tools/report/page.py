"""`write_report`: the page about one run or one evaluation."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swin.errors import DataError, printable
from swin.evaluation.files import measure_table
from swin.evaluation.multilabel import LabelPredictions
from swin.evaluation.predictions import Predictions
from swin.evaluation.table import Table
from swin.records import encode, make_folder, write_atomically
from tools.pictures import require
from tools.report import figures
from tools.report.sources import RunFiles, config_changes, read_run
from tools.report.style import Draw, Names, Picture, data_uri, draw_picture, shorten
from tools.report.thumbnails import Cam, Images, choose_mistakes, choose_unsure, make_gallery, make_label_gallery

_TEMPLATES = Path(__file__).parent
_MAX_INDENTED = 20  # classes: a matrix of 1,000 would have a million lines


def write_report(
    predictions: Table | None,
    metrics: dict[str, Any] | None,
    folder: Path,
    *,
    page: Path,
    run: Path | None = None,
    images: Images | None = None,
    cam: Cam | None = None,
    notes: Sequence[str] = (),
    test: Mapping[str, Any] | None = None,
    folds: Mapping[str, Any] | None = None,
) -> Path:
    """Write a page that needs no other file and no network, and beside it its figures and numbers.

    What is not known is left out, and the page says why.

    Args:
        predictions: Of an evaluation; without them there are no mistakes to show. Of several labels an image, the page
            has their figures, and no confusions.
        metrics: What was measured of them; measured here where None.
        folder: Where the figures, as PNG, and report.json go; made if absent.
        page: The HTML file, written last.
        run: The folder of the run that trained the model.
        images: Gives the uint8 pixels (C, H, W) of a row of the predictions, or raises a DataError.
        cam: Draws over images what counted for labels.
        notes: What readers should know.
        test: Figures of the run's test part, which has a page of its own; shown apart.
        folds: Of a cross-validation, the figures of its folds, their mean and their standard deviation.

    Returns:
        `page`.

    Raises:
        ConfigError: A package that draws is not installed, or a file cannot be written.
    """
    if metrics is None and predictions is not None:
        metrics = measure_table(predictions)
    files = read_run(run)
    make_folder(folder)
    classes = list(metrics["per_class"]) if metrics else list(next(iter(files.counts.values()), {}))
    counts = _class_counts(files, metrics, classes)
    names = Names.of(classes)
    numbers = {
        "title": _title(run, is_folds=bool(folds)),
        "about": predictions.about if predictions else {},
        "metrics": metrics,
        "test": test or {},
        "folds": folds or {},
        "class_counts": counts,
        **_galleries(predictions, images, cam),
        **_config(files),
        "environment": files.environment,
        "why_not": files.why_not,
        "notes": list(notes),
    }
    pictures = _draw(files, metrics, counts, names, folder)
    write_numbers(folder, numbers)
    more = {
        "pictures": pictures,
        "batch": data_uri(files.batch) if files.batch else "",
        "reconstruction": data_uri(files.reconstruction) if files.reconstruction else "",
        "config": files.config,
        "replaced": [(label, classes[label]) for label in names.replaced],
        "max_matrix": figures.MAX_MATRIX,
        "has_images": images is not None,
    }
    template = "labels.html.jinja" if isinstance(predictions, LabelPredictions) else "page.html.jinja"
    return write_page(page, template, {**numbers, **more})


def _title(run: Path | None, *, is_folds: bool) -> str:
    if run:
        return printable("/".join(run.resolve().parts[-2:]))
    return "Cross-validation" if is_folds else "Evaluation"


def write_numbers(folder: Path, numbers: Mapping[str, Any]) -> None:
    """Write report.json: the numbers of a page, without its pictures."""
    indent = 1 if len((numbers.get("metrics") or {}).get("per_class", ())) <= _MAX_INDENTED else None
    content = json.dumps(numbers, indent=indent, ensure_ascii=False, default=_without_pictures)
    write_atomically(folder / "report.json", encode(content + "\n"))


def write_page(page: Path, template: str, context: Mapping[str, Any]) -> Path:
    """Fill a template of this folder; what it is given is text and never markup."""
    require("jinja2")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": _plain, "shorten": shorten, "ending": _ending}
    write_atomically(page, encode(environment.get_template(template).render(**context)))
    return page


def _without_pictures(hit: Any) -> Any:
    """Turn an image of a gallery into what JSON holds."""
    return {**hit.about, **({"problem": hit.problem} if hit.problem else {})}


def _plain(value: Any) -> str:
    """Show a value as YAML readers would write it in one line."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _ending(name: str) -> str:
    """Return an image's file and its folder, which is most often its class."""
    return "/".join(name.split("/")[-2:])


def _class_counts(
    files: RunFiles, metrics: Mapping[str, Any] | None, classes: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Images of each class by split, in the order of the labels; of the evaluation alone where no more is known."""
    if files.counts:
        return {
            split: {name: counts.get(name, 0) for name in classes} for split, counts in files.counts.items() if counts
        }
    return {"evaluation": {name: row["support"] for name, row in metrics["per_class"].items()}} if metrics else {}


def _galleries(predictions: Table | None, images: Images | None, cam: Cam | None) -> dict[str, Any]:
    if isinstance(predictions, LabelPredictions):
        return {"worst": make_label_gallery(predictions, images)}
    if not isinstance(predictions, Predictions):
        return {"mistakes": [], "unsure": [], "cam_problem": ""}
    mistakes, problem = make_gallery(predictions, choose_mistakes(predictions), images, cam)
    unsure, _ = make_gallery(predictions, choose_unsure(predictions), images)
    return {"mistakes": mistakes, "unsure": unsure, "cam_problem": problem}


def _config(files: RunFiles) -> dict[str, Any]:
    """Group the keys that were given by the files and options that gave them."""
    try:
        return {"config_changes": config_changes(files.config, files.layers) if files.config else {}}
    except DataError as error:
        files.why_not["config.yaml"] = str(error)
        return {"config_changes": {}}


def _draw(
    files: RunFiles, metrics: dict[str, Any] | None, counts: dict[str, dict[str, int]], names: Names, folder: Path
) -> dict[str, Picture]:
    """Draw the figures there is something to draw of."""
    count = len(names.short)
    wanted: dict[str, tuple[Draw, tuple[float, float], str]] = {}
    if files.rows:
        alt = "Curves of loss, accuracy, learning rate, gradient norm, speed and waiting for data."
        wanted["curves"] = figures.curves({"run": files.rows}), (10.5, 5.6), alt
    if metrics and metrics.get("confusion") is not None:
        side = 4 + 0.28 * count if count <= figures.MAX_NUMBERED else 9.6  # the page is 11 inches wide
        alt = f"Confusion matrix of {count} classes; the table of the most confused pairs says the same in words."
        wanted["confusion"] = figures.confusion(np.array(metrics["confusion"]), names.short), (side + 1.4, side), alt
    if metrics and metrics.get("reliability"):
        alt = "Reliability diagram: how often predictions are right against how sure they are."
        wanted["reliability"] = figures.reliability(metrics["reliability"]), (5.5, 5.5), alt
    if counts and count:
        lists = {split: list(of_split.values()) for split, of_split in counts.items()}
        wanted["counts"] = figures.class_counts(lists, names.short), (10.5, 3.5), "Bar chart of images a class."
    return {
        name: draw_picture(name, draw, size=size, alt=alt, folder=folder, fonts=names.fonts)
        for name, (draw, size, alt) in wanted.items()
    }

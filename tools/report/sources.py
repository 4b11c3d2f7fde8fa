"""What the folder of a run, or of an evaluation, offers a report: read where it is there, else a sentence why not."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from data.build import build_data
from swin.config import Config, load_config
from swin.config.tree import FLAT_DEFAULTS, flatten
from swin.create import build_model
from swin.distributed import select_device
from swin.engine.picture import RECONSTRUCTION
from swin.errors import DataError, SwinError, printable
from swin.evaluation.files import load_table, measure_table
from swin.evaluation.table import Table
from swin.predictor import Predictor
from swin.preprocess import build_eval_resize, make_eval_transform
from swin.weights import load_weights
from tools.cam import make_cam
from tools.report.thumbnails import Cam, Images

PREDICTIONS, FOLDS = "predictions.npz", "folds.json"
_TEST_FIGURES = (
    "acc1",
    "balanced_accuracy",
    "macro_f1",
    "mean_average_precision",
    "loss",
    "seen",
    "epoch",
    "intervals",
)

Row = dict[str, Any]


@dataclass(frozen=True)
class RunFiles:
    """The files that describe a run; each may be missing.

    Attributes:
        why_not: For each that is, its name and a sentence for readers.
    """

    rows: list[Row] = field(default_factory=list)  # of metrics.jsonl
    config: str = ""  # the text of config.yaml
    environment: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # images of each class, by split
    layers: dict[str, Any] = field(default_factory=dict)  # by key, where its value was given and what it replaced
    batch: bytes = b""  # a picture of augmented images
    reconstruction: bytes = b""  # a picture of what a pre-training predicts
    why_not: dict[str, str] = field(default_factory=dict)


def read_run(folder: Path | None) -> RunFiles:
    """Read the files of a run; None where there is no run to tell of."""
    why_not: dict[str, str] = {}

    def read(name: str, what: str) -> bytes:
        if folder is None:
            why_not[name] = f"This page is about predictions alone, so {what} is not known here."
            return b""
        try:
            return (folder / name).read_bytes()
        except FileNotFoundError:
            why_not[name] = f"The run's folder has no {name}, so {what} is not known."
        except OSError as error:
            why_not[name] = f"{name} cannot be read ({error.strerror or error})."
        return b""

    def read_json(name: str, what: str) -> dict[str, Any]:
        if not (content := read(name, what)):
            return {}
        try:
            found = json.loads(content)
        except ValueError as error:
            found, why_not[name] = {}, f"{name} is damaged: {error}."
        return found if isinstance(found, dict) else {}

    counts = read_json("data.json", "the number of training images of each class")
    if not all(isinstance(of_split, dict) and _are_counts(of_split.values()) for of_split in counts.values()):
        counts, why_not["data.json"] = (
            {},
            "data.json is damaged: expected a number of images for each class of a split.",
        )
    return RunFiles(
        rows=_parse_rows(read("metrics.jsonl", "the course of training")),
        config=read("config.yaml", "the config").decode(errors="backslashreplace"),
        environment=read_json("environment.json", "what it ran on"),
        counts=counts,
        layers=read_json("layers.json", "where the values of the config were given"),
        batch=read("batch.png", "what augmented images looked like"),
        reconstruction=read(RECONSTRUCTION, "what it predicts")
        if folder and (folder / RECONSTRUCTION).exists()
        else b"",
        why_not=why_not,
    )


def _are_counts(values: Iterable[Any]) -> bool:
    return all(type(value) is int for value in values)


def _parse_rows(content: bytes) -> list[Row]:
    """Parse the rows of metrics.jsonl but those that are torn."""
    rows = []
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "kind" in row and all(type(row.get(key)) is int for key in ("samples", "epoch")):
            rows.append(row)
    return rows


def config_changes(text: str, layers: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Group the keys of a resolved config.yaml that are not at their defaults by the file or option that gave them.

    Args:
        text: The YAML.
        layers: Of each key `where` it was given and the value `before`, in the order in which files inherit and options
            come on top; where that is not known, all are in one group and compared with their defaults.

    Raises:
        DataError: It is no YAML of a mapping.
    """
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:  # the latter of brackets without end
        raise DataError(f"config.yaml is damaged: {error}") from None
    if not isinstance(tree, dict):
        raise DataError("config.yaml holds no keys.")
    values = flatten(tree)
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in FLAT_DEFAULTS.items()}
    groups: dict[str, list[dict[str, Any]]] = {}
    for key in [*layers, *(values.keys() - layers.keys() if not layers else ())]:
        layer = layers.get(key) or {}
        before = layer.get("before", plain.get(key))
        if key in values and values[key] != before:
            file = re.sub(r":\d+$", "", str(layer.get("where", "")))
            groups.setdefault(file, []).append({"key": key, "value": values[key], "before": before})
    return groups


@dataclass(frozen=True)
class Opened:
    """All that a folder offers a report or a comparison."""

    folder: Path
    run: Path | None  # the folder itself, or of an evaluation that of the run which trained the model, if it is there
    files: RunFiles  # of that run
    predictions: Table | None
    metrics: dict[str, Any] | None
    config: Config | None  # which says where the images are
    notes: tuple[str, ...]  # why things are left out
    test: dict[str, Any] = field(default_factory=dict)  # figures of the run's test part, where it has one
    folds: dict[str, Any] = field(default_factory=dict)  # of a cross-validation, what folds.json holds


def open_folder(folder: Path) -> Opened:
    """Open the folder of a run, or of an evaluation.

    Raises:
        DataError: It is neither, or its predictions are damaged.
    """
    has_predictions, has_rows = (folder / PREDICTIONS).exists(), (folder / "metrics.jsonl").exists()
    if not has_predictions and not has_rows:
        raise DataError(
            f"{folder} is not the folder of a run or of an evaluation: it has neither {PREDICTIONS} nor metrics.jsonl. "
            "Give the folder that training or tools.evaluate wrote."
        )
    predictions = load_table(folder / PREDICTIONS) if has_predictions else None
    notes = []
    if predictions is None:
        notes.append(f"The folder has no {PREDICTIONS}: there are curves, but no figures of single images or classes.")
    folds = read_numbers(folder / FOLDS) if (folder / FOLDS).exists() else {}
    run = folder if has_rows or folds else _run_of(predictions)
    config = None
    try:
        config = load_config(folder / "config.yaml")
    except SwinError as error:
        notes.append(f"The config cannot be used: {error}")
    metrics, test = _metrics(folder, predictions), {}
    if has_rows and (folder / "test" / "metrics.json").exists():
        found = read_numbers(folder / "test" / "metrics.json")
        test = {key: found.get(key) for key in _TEST_FIGURES}
    return Opened(folder, run, read_run(run), predictions, metrics, config, tuple(notes), test, folds)


def _run_of(predictions: Table | None) -> Path | None:
    """Return the run that wrote the checkpoint which was evaluated, if it is where it was."""
    run = Path(str(predictions.about.get("checkpoint", ""))).parent.parent if predictions else Path()
    return run if run != Path() and (run / "metrics.jsonl").exists() else None


def _metrics(folder: Path, predictions: Table | None) -> dict[str, Any] | None:
    """Return what the evaluation wrote, which may hold more than is read off its table; a run writes none."""
    if predictions is None:
        return None
    if not (folder / "metrics.json").exists():
        return measure_table(predictions)
    found = read_numbers(folder / "metrics.json")
    if not found.get("per_class") or found.get("seen") != len(predictions):
        raise DataError(f"{folder / 'metrics.json'} is not about the {PREDICTIONS} beside it. Evaluate again.")
    return {key: value for key, value in found.items() if key not in predictions.about}


def read_numbers(file: Path) -> dict[str, Any]:
    """Read what an evaluation or a cross-validation has written as JSON.

    Raises:
        DataError: It cannot be read.
    """
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}. Evaluate again.") from None
    return found if isinstance(found, dict) else {}


def open_images(opened: Opened) -> Images:
    """Return a function that gives the pixels of a row of the predictions, as the model saw them.

    Raises:
        SwinError: The data cannot be opened, any more or at all.
    """
    predictions = opened.predictions
    if opened.folds:
        return _open_images_of_folds(opened)
    if opened.config is None or predictions is None:
        raise DataError("config.yaml, which would say where the images are, is not there or not usable.")
    runs = [opened.folder, *([opened.run] if opened.run else [])]
    split = str(predictions.about.get("split", "val"))
    origin = "the classes of the evaluation"
    val = build_data(
        opened.config, runs=runs, need_train=False, classes=predictions.classes, split=split, origin=origin
    ).val
    assert val is not None
    resize = build_eval_resize(opened.config)
    places: dict[str, int] = {}

    def images(row: int) -> Tensor:
        name, index = predictions.names[row], row
        if row >= val.num_samples or val.name(row) != name:  # of an evaluation of some of the images
            if not places:
                places.update((val.name(index), index) for index in range(val.num_samples))
            if name not in places:
                raise DataError(f"{name} is not in the data set any more.")
            index = places[name]
        return resize(val.read(index))

    return images


def _open_images_of_folds(opened: Opened) -> Images:
    """Return a function as `open_images` does, which finds each image in the fold that validated on it."""
    assert opened.predictions is not None
    names, places = opened.predictions.names, dict[str, tuple[Images, int]]()
    for row in opened.folds["folds"]:
        fold = open_folder(opened.folder / f"fold-{row['fold']}")
        assert fold.predictions is not None
        images = open_images(fold)
        places |= {name: (images, place) for place, name in enumerate(fold.predictions.names)}

    def read(row: int) -> Tensor:
        images, place = places[names[row]]
        return images(place)

    return read


def open_cam(opened: Opened) -> Cam:
    """Return a function that draws over pixels, as `open_images` gives them, what counted for labels.

    Raises:
        SwinError: The checkpoint is not there any more, or a package is not installed.
    """
    config, predictions = opened.config, opened.predictions
    assert config is not None
    assert predictions is not None
    device = select_device(config.DEVICE)
    model = build_model(config, len(predictions.classes))
    model.classes = list(predictions.classes)
    load_weights(model, predictions.about.get("checkpoint", ""), min_matched=1.0)
    # The pixels are of the model's size already.
    how = {"interpolation": config.DATA.INTERPOLATION, "mean": config.DATA.MEAN, "std": config.DATA.STD}
    transform = make_eval_transform(img_size=config.DATA.IMG_SIZE, crop=False, **how)
    channels = config.architecture.IN_CHANS
    return make_cam(Predictor(model.to(device).eval(), transform, channels, predictions.classes, device))


def name_folders(folders: Sequence[Path]) -> list[str]:
    """Return names as short as tells folders apart: of a run its tag, with more of its path where two are the same."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts))):
        names = [printable("/".join(part[-count:])) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {folder}" for number, folder in enumerate(map(str, folders), start=1)]


def count_run_parameters(config: Config | None, num_classes: int) -> int | None:
    """Count the parameters of a run's model, without making any; None where its config is not known."""
    if config is None:
        return None
    import torch

    from swin.models.flops import count_parameters

    with torch.device("meta"):
        return count_parameters(build_model(config, num_classes))

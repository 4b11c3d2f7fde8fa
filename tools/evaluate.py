"""Evaluate any checkpoint, run or published model on any data set, in tables and pictures.

python -m tools.evaluate --checkpoint output/swin_tiny/default --data-path FOLDER --output evaluation

Starts under torchrun too. Exit status: 0; 2 for an error; 3 when stopped by a signal.
"""

import argparse
import csv
import itertools
import sys
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from data import build_data
from data.label_sets import read_label_sets
from swin.batches import Data
from swin.config import Config, config_from_dict
from swin.config.messages import program_name
from swin.create import build_model, config_tree
from swin.distributed import from_main, setup_distributed
from swin.engine.build import Job, build_precision
from swin.engine.command import run_command
from swin.engine.evaluate import describe_data
from swin.engine.run import describe_threshold, evaluate_into
from swin.engine.signals import StopRequest
from swin.errors import ConfigError
from swin.evaluation.metrics import average_precisions
from swin.evaluation.predictions import Predictions
from swin.evaluation.table import Table
from swin.evaluation.views import MultiView
from swin.logger import Logger
from swin.preprocess import SMALL_IMAGE_PX, as_size
from swin.records import encode, write_atomically, write_json
from swin.run_folder import RunFolder
from swin.weights import load_weights, read_weights
from swin.weights.labels import imagenet_classes
from swin.weights.source import Weights
from tools.arguments import positive, with_data_path
from tools.report import report_folder

_COMPARED = (
    "acc1",
    "acc5",
    "correct1",
    "seen",
    "loss",
    "balanced_accuracy",
    "mean_average_precision",
    "macro_f1",
    "ece",
)


def build_config(weights: Weights, options: argparse.Namespace, **overrides: Any) -> Config:
    """Build the config of an evaluation: the checkpoint's own, or what shapes of foreign weights say; then flags."""
    tree = config_tree(weights)
    if options.data_path:
        tree = with_data_path(tree, options.data_path)
    flags = {
        "DATA.BATCH_SIZE": options.batch_size,
        "DATA.NUM_WORKERS": options.workers,
        "DEVICE": options.device,
        "MODEL.RESUME": weights.name,
        "EVAL_MODE": True,
        "OUTPUT": "",
        "REPORT": False if options.no_report else None,
        **overrides,
    }
    return config_from_dict(tree, options.opts, flags)


def evaluate_one(
    weights: Weights, options: argparse.Namespace, job: Job, folder: Path, is_resized: bool
) -> dict[str, Any]:
    """Evaluate in one size and window, into a folder."""
    cfg, num_classes = job.cfg, weights.count_classes()
    classes = weights.classes or imagenet_classes(num_classes)
    asked = {"classes": classes, "origin": f"the classes of {weights.name}", "split": options.split}
    data = job.make_data(need_train=False, keep_border=options.crops == 5, **asked)
    if data.part == "all" and cfg.DATA.VAL_SPLIT > 0:
        job.logger.warning("all images are evaluated; --split val takes those that the run has held out, if it can")
    if options.crops == 5 and not (cfg.TEST.CROP and max(as_size(cfg.DATA.IMG_SIZE)) > SMALL_IMAGE_PX):
        job.logger.warning("the views of --crops 5 are all the same: images are taken whole here, see TEST.CROP")
    model = build_model(cfg, num_classes)
    model.classes = data.classes
    report = load_weights(model, weights, strict=not is_resized, min_matched=1.0)
    job.logger.info(f"evaluating {weights.name} on {data.val and data.val.num_samples} images: {report}")
    about = {"checkpoint": weights.name, **describe_data(cfg, data.part), "precision": job.precision.name}
    about |= describe_threshold(weights.threshold, data)
    about |= {"window_size": cfg.architecture.WINDOW_SIZE, "crops": options.crops, "flip": options.flip}
    classifier: torch.nn.Module = model.to(job.dist.device)
    if options.flip or options.crops > 1:
        size = as_size(cfg.DATA.IMG_SIZE) if options.crops > 1 else None
        classifier = MultiView(model, size=size, flip=options.flip, multi_label=data.multi_label)
    return evaluate_into(folder, job, classifier, data, about, _refine(options.labels, data))


def _refine(labels: Path | None, data: Data) -> Callable[[Table], tuple[Table, dict[str, Any]]] | None:
    if labels is None:
        return None
    if data.multi_label:
        raise ConfigError("--labels is for data of one label an image; these have several themselves. Leave it out.")
    val = data.val
    assert val is not None
    names = [val.name(index) for index in range(val.num_samples)]
    label_sets = from_main(lambda: read_label_sets(labels, names, data.classes))

    def refine(table: Table) -> tuple[Table, dict[str, Any]]:
        assert isinstance(table, Predictions)
        chosen = table.with_label_sets(label_sets)
        more = {"labels": str(labels), "unlabelled": len(table) - len(chosen)}
        return chosen, {**more, **average_precisions(table, label_sets)}

    return refine


def compare_settings(rows: list[dict[str, Any]], folder: Path) -> str:
    """Write sizes.json and sizes.csv, and return their content as a table."""
    columns = ("img_size", "window_size", *(key for key in _COMPARED if key in rows[0]))
    table = [{key: row[key] for key in columns} for row in rows]
    write_json(folder / "sizes.json", table)
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_atomically(folder / "sizes.csv", encode(text.getvalue()))
    lines = [[f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()] for row in table]
    widths = [max(map(len, column)) for column in zip(columns, *lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in (columns, *lines))


def run(options: argparse.Namespace, logger: Logger, stop: StopRequest) -> None:
    """Evaluate in every size and window that is asked for."""
    weights = read_weights(options.checkpoint)
    cfg = build_config(weights, options)
    dist = setup_distributed(cfg.DEVICE, cfg.DIST_TIMEOUT)
    settings = list(itertools.product(options.img_size or [None], options.window or [None]))
    rows = []
    for size, window in settings:
        changes = {"DATA.IMG_SIZE": size, "MODEL.SWIN.WINDOW_SIZE": window}
        cfg = build_config(weights, options, **changes)
        for warning in cfg.warnings:
            logger.warning(warning)
        name = "_".join(f"{key}{value}" for key, value in (("size", size), ("window", window)) if value)
        folder = options.output / name if len(settings) > 1 else options.output
        report = None if options.no_report else report_folder
        job = Job(cfg, dist, build_precision(cfg, dist), logger, stop, RunFolder(folder), build_data, False, report)
        is_resized = bool(window or size)
        rows.append(evaluate_one(weights, options, job, folder, is_resized))
    if len(settings) > 1 and dist.is_main:
        logger.info(compare_settings(rows, options.output))
        logger.info(f"written to {options.output}: sizes.json, sizes.csv, and a folder for each setting")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    summary, example = (__doc__ or "").split("\n\n")[:2]
    parser = argparse.ArgumentParser(
        prog=program_name("swin-evaluate", "python -m tools.evaluate"),
        description=summary,
        epilog=f"example: {example}",
    )
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="F", help="a checkpoint or weight file, a run's or a model's folder")
    add("--data-path", metavar="D", help="data set in any layout; default: the one that the run was validated on")
    add("--split", help="val, test, train or another part of it, or all; default: val, else test, else all")
    add("--output", type=Path, default=Path("evaluation"), metavar="DIR", help="default: evaluation")
    add("--labels", type=Path, metavar="FILE", help="JSON with any number of right labels an image, as real.json")
    add("--img-size", type=int, nargs="+", metavar="PX", help="sizes to evaluate at, in one table")
    add("--window", type=int, nargs="+", metavar="N", help="window sizes to evaluate with, in one table")
    add("--flip", action="store_true", help="average over each image and its mirror image")
    add("--crops", type=int, choices=(1, 5), default=1, help="average over the centre and corners (default: 1)")
    add("--no-report", action="store_true", help="write no report.html")
    add_running_options(parser)
    return parser.parse_args(argv)


def add_running_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how an evaluation runs, which `build_config` reads."""
    add = parser.add_argument
    add("--batch-size", type=positive, default=64, help="images in a forward pass (default: 64)")
    add("--workers", type=int, help="processes that decode images; default: the config's")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    add("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config keys, as TEST.CROP False")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status."""
    options = parse(argv)
    return run_command(lambda logger, stop: run(options, logger, stop))


if __name__ == "__main__":
    sys.exit(main())

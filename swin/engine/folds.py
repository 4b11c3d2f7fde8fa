"""k-fold cross-validation in one command: the runs of the folds one after the other, and what they say together."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from swin.config import dump_config
from swin.config.flags import load_command_line, run_path
from swin.create import complete_config
from swin.distributed import from_main, gather
from swin.engine.best import FIGURES
from swin.engine.build import Job
from swin.engine.command import record_end
from swin.engine.evaluate import PREDICTIONS, describe_data
from swin.engine.run import run_dry, run_training
from swin.errors import ConfigError, DataError, RunStoppedError
from swin.evaluation.files import describe_classes, describe_figures, load_table, write_evaluation
from swin.evaluation.table import Table
from swin.run_folder import RunFolder

_TITLES = {figure.field: figure.title for figure in FIGURES.values()}


def run_folds(job: Job, arguments: Sequence[str]) -> None:
    """Make the run of each fold, as DATA.FOLD alone would, in fold-K/ of the folder; then put them together there.

    Folds that are done are left as they are, and one that was interrupted goes on.
    """
    jobs = [make_fold(job, arguments, number) for number in range(job.cfg.DATA.FOLDS)]
    if job.is_dry:
        run_dry(jobs[0])
        return
    if job.cfg.MODEL.RESUME:
        raise ConfigError(
            f"--resume names one run, and DATA.FOLDS asks for {len(jobs)}. Leave it out: the same command again goes "
            "on with all of them. Or name the fold as well, as DATA.FOLD 0."
        )
    is_main = job.dist.is_main
    from_main(job.folder.lock)
    try:
        for number, fold in enumerate(jobs):
            _run_fold(job, fold, arguments, number)
        done = from_main(lambda: write_folds(job, jobs))
        if is_main:
            job.write_report(job.folder.path)
            job.folder.write_status("done", exit_code=0, message=done)
    except BaseException as error:
        record_end(job, error)
        raise
    finally:
        if is_main:
            job.folder.release()


def make_fold(job: Job, arguments: Sequence[str], number: int) -> Job:
    """Return the job that the command line asks for with DATA.FOLD beside it."""
    cfg = complete_config(load_command_line(arguments, ["DATA.FOLD", number])[0])
    return replace(job, cfg=cfg, folder=RunFolder(run_path(cfg)))


def _run_fold(job: Job, fold: Job, arguments: Sequence[str], number: int) -> None:
    if any(gather(job.stop.requested)):
        name = job.stop.name or "a signal to another process"
        raise RunStoppedError(f"stopped by {name} before fold {number}; the same command continues from there.")
    begin = partial(_tell_of_fold, job, arguments, number)
    if (classes := from_main(lambda: _classes_if_done(fold))) is not None:
        begin(classes)
        job.logger.info(f"fold {number} ({number + 1} of {job.cfg.DATA.FOLDS}) is done: {fold.folder.path}")
        return
    job.logger.info(f"fold {number} ({number + 1} of {job.cfg.DATA.FOLDS}): {fold.folder.path}")
    # What the folds before have left behind must not count.
    torch.manual_seed(fold.cfg.SEED)
    if fold.cfg.TRAIN.COMPILE != "off":
        torch.compiler.reset()
    run_training(fold, arguments, when_begun=begin)
    job.logger.close()  # the next fold has files of its own


def _tell_of_fold(job: Job, arguments: Sequence[str], number: int, classes: Sequence[str]) -> None:
    """Make the folder the command's own, once no fold before has been refused, and say which fold it is at."""

    def write() -> dict[str, Any]:
        if not job.folder.status:
            job.folder.begin(dump_config(job.cfg), classes, arguments)
        job.folder.write_status("running", fold=number)
        return job.folder.status

    job.folder.status = from_main(write)


def _classes_if_done(fold: Job) -> list[str] | None:
    """Return the classes of a run that has ended well, with this very config; None of any other."""
    folder = fold.folder.path
    try:
        if fold.is_fresh or json.loads((folder / "status.json").read_bytes())["state"] != "done":
            return None
        is_same = (folder / "config.yaml").read_text(encoding="utf-8") == dump_config(fold.cfg)
        return (
            json.loads((folder / "classes.json").read_bytes()) if is_same and (folder / PREDICTIONS).exists() else None
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_folds(job: Job, jobs: Sequence[Job]) -> str:
    """Write folds.json, and the tables and figures of all images, each as the fold that did not train on it has it.

    Returns:
        The figures in a line.

    Raises:
        DataError: a fold's predictions or split.json are missing.
    """
    folder = job.folder.path
    tables = [load_table(fold.folder.path / PREDICTIONS) for fold in jobs]
    rows = [row for fold, table in zip(jobs, tables, strict=True) for row in _read_rows(fold, len(table))]
    summary = summarize_folds(tables)
    job.folder.write_json("folds", summary)
    about = {**describe_data(job.cfg, "out-of-fold"), "folds": len(jobs)}
    table = join_tables(tables).take(np.argsort(rows)).described(**about)
    metrics = write_evaluation(table, folder)
    for line in (describe_folds(summary), describe_classes(metrics), describe_figures(metrics), str(table.count())):
        job.logger.info(line)
    job.logger.info(f"written to {folder}: folds.json, metrics.json, predictions.csv, predictions.npz")
    mean, std = summary["mean"], summary["std"]
    shown = ", ".join(f"{title} {mean[name]:.4f} ± {std[name]:.4f}" for name, title in _TITLES.items() if name in mean)
    return f"done: {len(jobs)} folds, {shown}"


def _read_rows(fold: Job, count: int) -> list[int]:
    """Return the rows among all images that a fold's `count` images have."""
    file = fold.folder.path / "split.json"
    try:
        rows: list[int] = json.loads(file.read_bytes())["val_rows"]
        if len(rows) != count:
            raise ValueError(f"{len(rows)} images, of which {count} were evaluated")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file}: is no split of a fold ({error!r}). Remove the fold's folder to make it anew."
        ) from None
    return rows


def summarize_folds(tables: Sequence[Table]) -> dict[str, Any]:
    """Return the figures of each fold, their `mean` and their standard deviation `std` (with folds - 1 below)."""
    rows: list[dict[str, Any]] = []
    for number, table in enumerate(tables):
        fields = table.count().fields()
        figures = {name: fields[name] for name in _TITLES if name in fields}
        rows.append({"fold": number, "images": len(table), "best_epoch": table.about.get("epoch"), **figures})
    columns = {name: [row[name] for row in rows] for name in _TITLES if name in rows[0]}
    return {
        "folds": rows,
        "mean": {name: float(np.mean(column)) for name, column in columns.items()},
        "std": {name: float(np.std(column, ddof=1)) for name, column in columns.items()},
    }


def join_tables(tables: Sequence[Table]) -> Table:
    """Return one table of the rows of several with the same classes; nothing is said of what it is about."""
    first = tables[0]
    columns: dict[str, Any] = {}
    for name in first.KEYS:
        parts = [getattr(table, name) for table in tables]
        columns[name] = None if any(part is None for part in parts) else np.concatenate(parts)
    return replace(first, names=[name for table in tables for name in table.names], **columns, about={})


def describe_folds(summary: Mapping[str, Any]) -> str:
    """Return the folds' figures as a table for a terminal."""
    shown = {name: title for name, title in _TITLES.items() if name in summary["mean"]}
    lines = [f"fold  images  best epoch  {'  '.join(f'{title:>9}' for title in shown.values())}"]
    for row in summary["folds"]:
        figures = "  ".join(f"{row[name]:9.4f}" for name in shown)
        lines.append(f"{row['fold']:4}  {row['images']:6}  {row['best_epoch']!s:>10}  {figures}")
    for name in ("mean", "std"):
        lines.append(f"{name:24}  {'  '.join(f'{summary[name][key]:9.4f}' for key in shown)}")
    return "\n".join(lines)

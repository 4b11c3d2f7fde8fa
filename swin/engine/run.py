"""What a command line can ask for, once its config is read: throughput, evaluation, a dry run, or training."""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swin.batches import Data
from swin.config import config_to_dict, dump_config
from swin.config.flags import run_name
from swin.config.tree import flatten
from swin.distributed import from_main, gather
from swin.engine.budget import fix_length
from swin.engine.build import Job, compile_model, describe_frozen
from swin.engine.checkpoint import BEST
from swin.engine.command import record_end
from swin.engine.evaluate import describe_data, evaluate
from swin.engine.picture import draw_first_batch
from swin.engine.plan import describe_done, describe_early, describe_end, describe_plan, describe_time, find_doubts
from swin.engine.resume import changed_settings, check_classes, find_checkpoint, read_agreed
from swin.engine.step import train_step
from swin.engine.throughput import SUMMARY, measure_throughput, peak_bytes, summarize
from swin.engine.trainer import Trainer
from swin.errors import ConfigError, NonFiniteError
from swin.evaluation.files import describe_classes, describe_figures, write_evaluation
from swin.evaluation.multilabel import LabelResult
from swin.evaluation.table import Table
from swin.images import open_input
from swin.records import encode, make_folder, write_atomically
from swin.trackers import require_packages
from swin.weights import load_strictly, load_weights, read_weights

# Of the figures of an evaluation, those that are counted or that runs are compared by.
FIELDS = ("acc1", "acc5", *(field.name for field in fields(LabelResult)))


def run_throughput(job: Job) -> None:
    """Time inference on random images of the config's size and batch."""
    cfg, device = job.cfg, job.dist.device
    model = job.make_model(None)
    images = torch.randn(cfg.DATA.BATCH_SIZE, cfg.architecture.IN_CHANS, *model.img_size, device=device)
    compile_model(model, cfg.TRAIN.COMPILE, device)
    speeds, peak = measure_throughput(model, images, job.precision)
    figures, rounds = summarize(speeds), len(speeds)
    job.logger.info(
        f"batch_size {len(images)} throughput {SUMMARY.format(**figures)} images/s over {rounds} rounds, "
        f"peak memory {peak / 2**20:.0f} MiB ({job.precision.name} on {device})"
    )
    setting = {"batch_size": len(images), "precision": job.precision.name, "device": str(device)}
    result = {**setting, "images_per_sec": {"model": figures}, "rounds": rounds, "peak_bytes": peak}
    from_main(lambda: job.folder.write_json("throughput", result))


def run_evaluation(job: Job) -> None:
    """Evaluate the named checkpoint or weight file, strictly; nothing is chosen automatically."""
    cfg, logger = job.cfg, job.logger
    flag, file = ("--resume", cfg.MODEL.RESUME) if cfg.MODEL.RESUME else ("--pretrained", cfg.MODEL.PRETRAINED)
    if not file:
        raise ConfigError("--eval evaluates a named checkpoint; add --resume FILE.")
    weights = read_weights(file)
    origin = f"the classes of {weights.name}"
    data = job.make_data(need_train=False, classes=weights.classes, split=None, origin=origin)
    model = job.make_model(data.classes)
    logger.info(f"evaluating {weights.name} ({flag}): {load_weights(model, weights, strict=True)}")
    about = {"checkpoint": weights.name, **describe_data(cfg, data.part), **describe_threshold(weights.threshold, data)}
    metrics = evaluate_into(job.folder.path / "eval", job, model, data, about)
    if job.dist.is_main:
        counts = {name: metrics[name] for name in FIELDS if name in metrics}
        job.folder.write_json("eval", {**counts, **about})
        if data.split:
            job.folder.write_json("split", data.split)
        logger.info(f"written to {job.folder.path / 'eval.json'}")


def evaluate_into(
    folder: Path,
    job: Job,
    model: nn.Module,
    data: Data,
    about: dict[str, Any],
    refine: Callable[[Table], tuple[Table, dict[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Evaluate a model, say how it did and write its tables, and the report where the config asks for one.

    Args:
        folder: Where they go; it is made if absent.
        about: What is known of the checkpoint and the data.
        refine: Gives another table to read the figures off, and more figures.

    Returns:
        In the main process, what is in `metrics.json`; an empty dict in the others.
    """
    job.stop.defer()
    logger = job.logger
    from_main(lambda: make_folder(folder))  # what cannot be written is said before the hours of an evaluation
    _, predictions = evaluate(model, data, job.precision, job.dist, stop=job.stop, show=logger.progress)

    def write() -> dict[str, Any]:
        assert predictions is not None
        table, more = refine(predictions) if refine else (predictions, {})
        table = table.described(**about)
        metrics = write_evaluation(table, folder, more)
        write_atomically(folder / "config.yaml", encode(dump_config(job.cfg)))
        logger.info(describe_classes(metrics))
        logger.info(describe_figures(metrics))
        logger.info(str(table.count()))
        logger.info(f"written to {folder}: metrics.json, predictions.csv, predictions.npz")
        return metrics

    metrics = from_main(write)
    if job.dist.is_main:
        job.write_report(folder)
    return metrics if job.dist.is_main else {}


def describe_threshold(threshold: float | None, data: Data) -> dict[str, Any]:
    """Return what a table of several labels says of the threshold that a checkpoint's run has found."""
    return {"given_threshold": threshold} if data.multi_label and threshold is not None else {}


def make_trainer(job: Job) -> Trainer:
    """Make the run that the config describes, where the checkpoint stands that it continues from, if any."""
    cfg, logger = job.cfg, job.logger
    from_main(lambda: require_packages(cfg.LOGGERS))
    found = find_checkpoint(job)
    data = job.make_data()
    model = job.make_model(data.classes)
    weights = read_weights(cfg.MODEL.PRETRAINED) if found is None and cfg.MODEL.PRETRAINED else None
    if weights is not None:
        logger.info(f"starting from {cfg.MODEL.PRETRAINED} (--pretrained): {load_weights(model, weights)}")
    trainer = Trainer(job, model, data)
    if weights is not None and (taken := trainer.state.objective.begin_with(weights.tensors)):
        logger.info(f"taken from the same file: {', '.join(taken)}")
    if cfg.TRAIN.FREEZE or cfg.MODEL.LORA.RANK:
        logger.info(describe_frozen(model, "MODEL.LORA" if cfg.MODEL.LORA.RANK else "TRAIN.FREEZE"))
    if found is not None:
        path, reason = found
        content = read_agreed(path, job.dist)
        logger.info(f"resuming from {path}, {reason}")
        if cfg.MODEL.PRETRAINED:
            logger.info(f"{cfg.MODEL.PRETRAINED} (--pretrained) is not used, since the run is resumed")
        check_classes(content, data.classes, path)
        trainer.restore(content, path)
        trainer.clock.before_sec = content.get("seconds", 0.0)
        if changes := changed_settings(content, cfg):
            logger.info(f"settings that differ from the checkpoint's: {', '.join(changes)}")
    if not trainer.is_length_known:
        fix_length(trainer, None if job.is_dry else job.folder.path)
    logger.info(describe_plan(trainer))
    for doubt in find_doubts(trainer):
        logger.warning(doubt)
    logger.show_warnings(gather(logger.warnings))
    return trainer


def run_dry(job: Job) -> None:
    """Build everything and run one update on one batch, writing nothing; one of each size that the run is to see."""
    trainer = make_trainer(job)
    progress, phases = trainer.progress, trainer.phases
    sizes = {phase.img_size: phase for _, phase in phases.spans()} if len(phases.phases) > 1 else {}
    for phase in sizes.values() or [phases.of_epoch(progress.epoch)]:
        trainer.totals.reset()
        batches = trainer.batches.epoch(progress.epoch, progress.position, phase)
        train_step(trainer.state, progress.step, batches, trainer.lr, trainer.totals, [])
        loss, samples, *_ = trainer.totals.values.tolist()
        if not samples:
            raise NonFiniteError("dry run: loss or gradients of the update were not finite; nothing was written.")
        height, width = phase.img_size
        size = f" of {samples:.0f} images of {height} x {width}" if sizes else ""
        memory = f", memory so far {peak_bytes(job.dist.device) / 2**20:.0f} MiB" if sizes else ""
        job.logger.info(f"dry run: one update{size}, loss {loss / samples:.4f}{memory}; nothing was written")


def run_training(
    job: Job, arguments: Sequence[str], *, when_begun: Callable[[Sequence[str]], None] | None = None
) -> None:
    """Train, from a checkpoint where there is one. Until nothing can refuse the run, its folder is left as it is.

    From then on it is the run's own, and `when_begun` is called with the names of the classes.
    """
    folder, is_main = job.folder, job.dist.is_main
    from_main(folder.lock)
    try:
        trainer = make_trainer(job)
        folder.status = from_main(lambda: begin(job, trainer, arguments))
        if when_begun:
            when_begun(trainer.data.classes)
        if was_done := trainer.is_at_end and trainer.evaluated:
            done = describe_end(trainer)
        else:
            trainer.run()
            job.logger.hparams(flatten(config_to_dict(job.cfg)), done=True)
            early = f", early: {describe_early(trainer)}" if trainer.best.is_over else ""
            where = folder.path / "checkpoints"
            done = f"done{early}: {describe_done(trainer)}{describe_time(trainer)}, checkpoints in {where}"
        evaluate_test(job, trainer, has_trained=not was_done)
        job.logger.info(done)
        if is_main:
            if job.write_report(folder.path):
                show_confusions(job, trainer)
            folder.write_status("done", exit_code=0, message=done, seconds=round(trainer.clock.seconds, 1))
    except BaseException as error:
        record_end(job, error)
        raise
    finally:
        if is_main:
            folder.release()


def evaluate_test(job: Job, trainer: Trainer, *, has_trained: bool) -> None:
    """Evaluate the best weights on the test part of the data, if there is one, into test/ of the run's folder.

    Nothing else looks at that part. After a run that was done before its start, it is only done where it is missing.
    """
    data, state, dist = trainer.data, trainer.state, job.dist
    if data.test is None:
        return
    best, folder = trainer.writer.folder / BEST, job.folder.path / "test"
    content = read_agreed(best, dist) if from_main(best.is_file) else {}
    epoch = trainer.progress.last_epoch
    if "epoch" in content:
        epoch = content["epoch"] + (content.get("position", 0) > 0)
    if not has_trained and from_main(lambda: read_epoch(folder / "metrics.json") == epoch):
        return
    if content:
        averages = content.get("ema") or {"model": {}}
        load_strictly(state.model, {**content["model"], **averages["model"]}, best)
    job.logger.info(f"test: its {data.test.num_samples} images are looked at once, with the weights of epoch {epoch}")
    about = {"checkpoint": str(best if content else trainer.last), "epoch": epoch, **describe_data(job.cfg, "test")}
    about |= describe_threshold(content.get("threshold", trainer.best.threshold), data)
    with state.ema.applied(state.model) if state.ema and not content else nullcontext():
        metrics = evaluate_into(folder, job, state.model, replace(data, val=data.test, part="test"), about)
    if dist.is_main:
        where = {"epoch": epoch, "step": trainer.progress.step, "samples": trainer.progress.samples}
        job.logger.metrics("test", **where, **{name: metrics[name] for name in FIELDS if name in metrics})


def read_epoch(file: Path) -> int | None:
    """Return the epoch that figures are about; None where there are none."""
    try:
        return json.loads(file.read_bytes())["epoch"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def show_confusions(job: Job, trainer: Trainer) -> None:
    """Have the trackers show the confusion matrix of the report, where there is one."""
    picture = job.folder.path / "report" / "confusion-light.png"
    if picture.is_file():
        image_HWC = open_input(picture).permute(1, 2, 0).numpy()
        job.logger.image("eval/confusion", image_HWC, trainer.progress.samples)


def begin(job: Job, trainer: Trainer, arguments: Sequence[str]) -> dict[str, Any]:
    """Make the folder the run's own, in the main process: earlier rows are cut back to where the run stands."""
    folder = job.folder
    if job.is_fresh and (aside := folder.set_aside()):
        job.logger.info(f"the earlier run of this name is now in {aside} (TRAIN.AUTO_RESUME False)")
    folder.begin(dump_config(job.cfg), trainer.data.classes, arguments)
    if trainer.data.split:
        folder.write_json("split", trainer.data.split)
    folder.remove_leftovers()
    data = trainer.data
    counts = {"train": data.class_counts, "val": data.val_counts, "test": data.test_counts}
    named = {part: dict(zip(data.classes, each, strict=True)) for part, each in counts.items() if each}
    folder.write_json("data", named)
    folder.write_json("layers", {key: layer._asdict() for key, layer in job.cfg.layers.items()})
    begin_tracking(job, trainer)
    trainer.write_status()
    return folder.status


def begin_tracking(job: Job, trainer: Trainer) -> None:
    """Open the run's logs and trackers, which are shown its plan and config; its first batch too, when it has come."""
    cfg, logger, progress = job.cfg, job.logger, trainer.progress
    logger.open(
        job.folder.path,
        step=progress.step,
        evaluated=trainer.evaluated,
        trackers=cfg.LOGGERS,
        name=run_name(cfg),
    )
    plan = describe_plan(trainer).replace("\n", "  \n")  # as Markdown breaks lines
    logger.text("plan", plan, progress.samples)
    logger.hparams(flatten(config_to_dict(cfg)))
    if progress.step == 0:
        draw_first_batch(trainer)

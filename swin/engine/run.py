"""What a command line can ask for, once its config is read: throughput, evaluation, a dry run, or training."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swin.batches import Data
from swin.config import config_to_dict, dump_config
from swin.config.tree import flatten
from swin.distributed import explain_timeout, from_main, gather, is_collective_error, shutdown
from swin.engine.build import Job, compile_model, describe_frozen
from swin.engine.evaluate import describe_data, evaluate
from swin.engine.picture import draw_first_batch
from swin.engine.plan import describe_plan, find_doubts
from swin.engine.resume import changed_settings, check_classes, find_checkpoint, read_agreed
from swin.engine.signals import StopRequest
from swin.engine.step import train_step
from swin.engine.throughput import SUMMARY, measure_throughput, summarize
from swin.engine.trainer import Trainer
from swin.errors import ConfigError, InterruptedRunError, NonFiniteError, ProcessGroupError, RunStoppedError, SwinError
from swin.evaluation.files import describe_classes, describe_figures, write_evaluation
from swin.evaluation.predictions import Predictions
from swin.images import open_input
from swin.logger import Logger
from swin.records import encode, make_folder, write_atomically
from swin.trackers import require_packages
from swin.weights import load_weights, read_weights


def run_throughput(job: Job) -> None:
    """Time inference on random images of the config's size and batch."""
    cfg, device = job.cfg, job.dist.device
    model = job.make_model(None)
    images = torch.randn(cfg.DATA.BATCH_SIZE, cfg.MODEL.SWIN.IN_CHANS, *model.img_size, device=device)
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
    about = {"checkpoint": weights.name, **describe_data(cfg, data.part)}
    metrics = evaluate_into(job.folder.path / "eval", job, model, data, about)
    if job.dist.is_main:
        counts = {key: metrics[key] for key in ("acc1", "acc5", "correct1", "correct5", "seen", "loss", "k")}
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
    refine: Callable[[Predictions], tuple[Predictions, dict[str, Any]]] | None = None,
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
        metrics = write_evaluation(table.described(**about), folder, more)
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


def make_trainer(job: Job) -> Trainer:
    """Make the run that the config describes, where the checkpoint stands that it continues from, if any."""
    cfg, logger = job.cfg, job.logger
    from_main(lambda: require_packages(cfg.LOGGERS))
    found = find_checkpoint(job)
    data = job.make_data()
    model = job.make_model(data.classes)
    if found is None and cfg.MODEL.PRETRAINED:
        logger.info(f"starting from {cfg.MODEL.PRETRAINED} (--pretrained): {load_weights(model, cfg.MODEL.PRETRAINED)}")
    trainer = Trainer(job, model, data)
    if cfg.TRAIN.FREEZE:
        logger.info(describe_frozen(model))
    if found is not None:
        path, reason = found
        content = read_agreed(path, job.dist)
        logger.info(f"resuming from {path}, {reason}")
        if cfg.MODEL.PRETRAINED:
            logger.info(f"{cfg.MODEL.PRETRAINED} (--pretrained) is not used, since the run is resumed")
        check_classes(content, data.classes, path)
        trainer.restore(content, path)
        if changes := changed_settings(content, cfg):
            logger.info(f"settings that differ from the checkpoint's: {', '.join(changes)}")
    logger.info(describe_plan(trainer))
    for doubt in find_doubts(trainer):
        logger.warning(doubt)
    logger.show_warnings(gather(logger.warnings))
    return trainer


def run_dry(job: Job) -> None:
    """Build everything and run one update on one batch, writing nothing."""
    trainer = make_trainer(job)
    batches = trainer.batches.epoch(trainer.progress.epoch, trainer.progress.position)
    train_step(trainer.state, trainer.progress.step, batches, trainer.lr, trainer.totals, [])
    loss, samples, *_ = trainer.totals.values.tolist()
    if not samples:
        raise NonFiniteError("dry run: loss or gradients of the update were not finite; nothing was written.")
    job.logger.info(f"dry run: one update, loss {loss / samples:.4f}; nothing was written")


def run_training(job: Job, arguments: Sequence[str]) -> None:
    """Train, from a checkpoint where there is one. Until nothing can refuse the run, its folder is left as it is."""
    epochs, folder, is_main = job.cfg.TRAIN.EPOCHS, job.folder, job.dist.is_main
    from_main(folder.lock)
    try:
        trainer = make_trainer(job)
        folder.status = from_main(lambda: begin(job, trainer, arguments))
        if trainer.progress.epoch >= epochs and trainer.evaluated:
            done = f"all {epochs} epochs are done; best accuracy {trainer.best:.3f}. Raise TRAIN.EPOCHS to go on."
        else:
            trainer.run()
            job.logger.hparams(flatten(config_to_dict(job.cfg)), done=True)
            done = f"done: best accuracy {trainer.best:.3f}, checkpoints in {folder.path / 'checkpoints'}"
        job.logger.info(done)
        if is_main:
            if job.write_report(folder.path):
                show_confusions(job, trainer)
            folder.write_status("done", exit_code=0, message=done)
    except BaseException as error:
        record_end(job, error)
        raise
    finally:
        if is_main:
            folder.release()


def show_confusions(job: Job, trainer: Trainer) -> None:
    """Have the trackers show the confusion matrix of the report, where there is one."""
    picture = job.folder.path / "report" / "confusion-light.png"
    if picture.is_file():
        image_HWC = open_input(picture).permute(1, 2, 0).numpy()
        job.logger.image("eval/confusion", image_HWC, trainer.progress.samples)


def record_end(job: Job, error: BaseException) -> None:
    """Write how a run ended other than well, since launchers replace its exit status.

    A process that fails by itself writes it; what all of them know is for the main one to write.
    """
    failure, folder = explain(error, job.dist.rank), job.folder
    if not job.dist.is_main and failure and (failure.is_shared or isinstance(failure, ProcessGroupError)):
        return
    state = "stopped" if isinstance(failure, RunStoppedError) else "failed"
    code = failure.exit_code if failure else 1
    with suppress(ConfigError):  # on a full disk the run's own error says more
        folder.write_status(state, exit_code=code, message=str(failure or repr(error)))


def begin(job: Job, trainer: Trainer, arguments: Sequence[str]) -> dict[str, Any]:
    """Make the folder the run's own, in the main process: earlier rows are cut back to where the run stands."""
    folder = job.folder
    if job.is_fresh and (aside := folder.set_aside()):
        job.logger.info(f"the earlier run of this name is now in {aside} (TRAIN.AUTO_RESUME False)")
    folder.begin(dump_config(job.cfg), trainer.data.classes, arguments)
    if trainer.data.split:
        folder.write_json("split", trainer.data.split)
    folder.remove_leftovers()
    counts = {"train": trainer.data.class_counts, "val": trainer.data.val_counts}
    named = {part: dict(zip(trainer.data.classes, each, strict=True)) for part, each in counts.items() if each}
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
        name=f"{cfg.MODEL.NAME}/{cfg.TAG}",
    )
    plan = describe_plan(trainer).replace("\n", "  \n")  # as Markdown breaks lines
    logger.text("plan", plan, progress.samples)
    logger.hparams(flatten(config_to_dict(cfg)))
    if progress.step == 0:
        draw_first_batch(trainer)


def run_command(action: Callable[[Logger, StopRequest], None]) -> int:
    """Do what a command line asks for, and end as users and launchers expect; returns the exit status."""
    rank = int(os.environ.get("RANK", 0))
    logger = Logger(is_main=rank == 0)
    with StopRequest() as stop:
        try:
            action(logger, stop)
        except BaseException as error:
            stop.defer()  # nothing interrupts the way out
            return tell_failure(error, rank, logger)
        finally:
            logger.close()
            shutdown()
    return 0


def tell_failure(error: BaseException, rank: int, logger: Logger) -> int:
    """Tell a user what ended the program, in one message; returns the exit status. A bug in this program is raised."""
    failure = explain(error, rank)
    if failure is None:
        raise error
    logger.error(str(failure))
    if rank and not failure.is_shared:  # such as an image that this process alone has decoded
        print(f"error (process {rank}): {failure}", file=sys.stderr)
    return failure.exit_code


def explain(error: BaseException, rank: int) -> SwinError | None:
    """Turn an error into what a user is told of it; None for a bug in this program, whose traceback says more."""
    if isinstance(error, SwinError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return InterruptedRunError("interrupted by a second Ctrl-C; the last checkpoint is intact.")
    if isinstance(error, torch.OutOfMemoryError):
        return ConfigError(
            f"{str(error).splitlines()[0]} Lower --batch-size (and raise --accumulation-steps), or recompute "
            "activations with --use-checkpoint. The last checkpoint is intact."
        )
    return ProcessGroupError(explain_timeout(error, rank, None)) if is_collective_error(error) else None

"""Train, evaluate or time a Swin Transformer: `python main.py --cfg FILE`, or the same under torchrun."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from data import build_data
from data.splits import adopt_split
from swin.config import Config, dump_config
from swin.config.flags import load_command_line
from swin.distributed import Distributed, keep_freed_memory, setup_distributed, shutdown
from swin.engine.build import (
    build_plan,
    build_precision,
    build_setup,
    build_state,
    compile_model,
    describe_frozen,
    describe_model,
    describe_plan,
)
from swin.engine.evaluate import make_evaluation
from swin.engine.precision import Precision
from swin.engine.start import check_classes, find_start
from swin.engine.step import StepTotals, train_step
from swin.engine.throughput import measure_throughput
from swin.engine.train import train
from swin.errors import ConfigError, RunStoppedError, SwinError
from swin.models import SwinTransformer, build_model
from swin.records import Records
from swin.weights import load_weights, read_weights


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        cfg, is_dry = load_command_line(arguments)
        dist = setup_distributed(cfg.DEVICE, cfg.DIST_TIMEOUT)
        run_dir = Path(cfg.OUTPUT or "output") / cfg.MODEL.NAME / cfg.TAG
        if dist.device.type == "cpu":
            keep_freed_memory()
        keeps_files = not (is_dry or cfg.THROUGHPUT_MODE)
        records = Records(run_dir if keeps_files else None, is_main=dist.is_main)
        try:
            run(cfg, dist, records, run_dir, arguments, is_dry=is_dry)
        except SwinError as error:
            records.error(str(error))
            # Each process decodes its own images, so that only one may know of a bad one.
            if not dist.is_main and not isinstance(error, ConfigError):
                print(f"error (process {dist.rank}): {error}", file=sys.stderr)
            return error.exit_code
        finally:
            records.close()
            shutdown()
    except KeyboardInterrupt:
        print("stopped before training began; there was nothing to save", file=sys.stderr)
        return RunStoppedError.exit_code
    except torch.OutOfMemoryError as error:
        print(
            f"error: {str(error).splitlines()[0]} Lower --batch-size (and raise --accumulation-steps), or recompute "
            "activations with --use-checkpoint. The last checkpoint is intact.",
            file=sys.stderr,
        )
        return ConfigError.exit_code
    except SwinError as error:
        if os.environ.get("RANK", "0") == "0":  # every process found the same; one says it
            print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run(
    cfg: Config, dist: Distributed, records: Records, run_dir: Path, arguments: Sequence[str], *, is_dry: bool
) -> None:
    """Do what the config asks for: throughput, evaluation, a dry run, or training."""
    for warning in cfg.warnings:
        records.warning(warning)
    precision = build_precision(cfg, dist)
    torch.manual_seed(cfg.SEED)
    if cfg.THROUGHPUT_MODE:
        run_throughput(cfg, dist, records, run_dir, precision)
    elif cfg.EVAL_MODE:
        run_evaluation(cfg, dist, records, run_dir, precision)
    else:
        run_training(cfg, dist, records, run_dir, precision, arguments, is_dry=is_dry)


def make_model(cfg: Config, dist: Distributed, records: Records, classes: Sequence[str] | None) -> SwinTransformer:
    """The config's model on this process's device; it has MODEL.NUM_CLASSES outputs if the classes are not known."""
    model = build_model(cfg, len(classes) if classes else cfg.MODEL.NUM_CLASSES)
    model.classes = list(classes) if classes else None
    records.info(describe_model(cfg, model))
    return model.to(dist.device)


def run_throughput(cfg: Config, dist: Distributed, records: Records, run_dir: Path, precision: Precision) -> None:
    """Time inference on random images of the config's size and batch."""
    model = make_model(cfg, dist, records, None)
    images = torch.randn(cfg.DATA.BATCH_SIZE, cfg.MODEL.SWIN.IN_CHANS, *model.img_size, device=dist.device)
    compile_model(model, cfg.TRAIN.COMPILE, dist.device)
    result = measure_throughput(model, images, precision)
    records.info(f"batch_size {len(images)} {result} ({precision.name} on {dist.device})")
    if dist.is_main:
        run_dir.mkdir(parents=True, exist_ok=True)
        setting = {"batch_size": len(images), "precision": precision.name, "device": str(dist.device)}
        (run_dir / "throughput.json").write_text(json.dumps({**setting, **result.fields()}, indent=2) + "\n")


def run_evaluation(cfg: Config, dist: Distributed, records: Records, run_dir: Path, precision: Precision) -> None:
    """Evaluate the named checkpoint or weight file, strictly; nothing is chosen automatically."""
    flag, file = ("--resume", cfg.MODEL.RESUME) if cfg.MODEL.RESUME else ("--pretrained", cfg.MODEL.PRETRAINED)
    if not file:
        raise ConfigError("--eval evaluates a named checkpoint; add --resume FILE.")
    adopt_split(cfg.MODEL.RESUME, run_dir, is_main=dist.is_main)
    weights = read_weights(file)
    data = build_data(
        cfg,
        rank=dist.rank,
        world_size=dist.world_size,
        run_dir=run_dir,
        need_train=False,
        classes=weights.classes,
    )
    model = make_model(cfg, dist, records, data.classes)
    records.info(f"evaluating {file} ({flag}): {load_weights(model, weights, strict=True)}")
    assert data.val is not None
    result = make_evaluation(model, data.val, data.prepare.normalise, precision, dist)()
    records.info(str(result))
    if dist.is_main:
        (run_dir / "eval.json").write_text(json.dumps(result.fields(), indent=2) + "\n")


def run_training(
    cfg: Config,
    dist: Distributed,
    records: Records,
    run_dir: Path,
    precision: Precision,
    arguments: Sequence[str],
    *,
    is_dry: bool,
) -> None:
    """Train, from a checkpoint where there is one."""
    if not is_dry:
        adopt_split(cfg.MODEL.RESUME, run_dir, is_main=dist.is_main)
    data = build_data(cfg, rank=dist.rank, world_size=dist.world_size, run_dir=None if is_dry else run_dir)
    assert data.train is not None
    for note in data.notes:
        records.warning(note)
    records.write_run_files(dump_config(cfg), data.classes, arguments)
    model = make_model(cfg, dist, records, data.classes)
    found = find_start(
        run_dir / "checkpoints",
        resume=cfg.MODEL.RESUME,
        is_automatic=cfg.TRAIN.AUTO_RESUME and not is_dry,
        pretrained=cfg.MODEL.PRETRAINED,
        records=records,
    )
    if found is None and cfg.MODEL.PRETRAINED:
        records.info(
            f"starting from {cfg.MODEL.PRETRAINED} (--pretrained): {load_weights(model, cfg.MODEL.PRETRAINED)}"
        )
    state = build_state(cfg, model, precision)
    if cfg.TRAIN.FREEZE:
        records.info(describe_frozen(model))
    state.epoch, state.step = cfg.TRAIN.START_EPOCH, cfg.TRAIN.START_EPOCH * data.train.updates_per_epoch
    if found is not None:
        check_classes(found.content, data.classes, found.path)
        state.restore(found.content, found.path, updates_per_epoch=data.train.updates_per_epoch)
    evaluation = make_evaluation(model, data.val, data.prepare.normalise, precision, dist) if data.val else None
    plan = build_plan(cfg, data.train, run_dir, data.classes, evaluation, dist)
    num_val = data.val.num_samples if data.val else 0
    records.info(describe_plan(cfg, plan, data.train, num_val, precision, dist))
    setup = build_setup(cfg, model, data.prepare, precision, dist, data.class_counts)
    if is_dry:
        totals = StepTotals(dist.device)
        train_step(setup, state, data.train.epoch(state.epoch, 0), plan.schedule(state.step), totals)
        records.info(f"dry run: one update, loss {float(totals.values[0] / totals.values[1]):.4f}; nothing was written")
        return
    if state.epoch >= plan.epochs:
        records.info(f"all {plan.epochs} epochs are done; best accuracy {state.best:.3f}. Raise TRAIN.EPOCHS to go on.")
        return
    train(setup, state, data.train, plan, records)
    records.info(f"done: best accuracy {state.best:.3f}, checkpoints in {plan.checkpoints}")


if __name__ == "__main__":
    sys.exit(main())

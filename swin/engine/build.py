"""From a config to the objects of a run, and the plan in words."""

import os
import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from swin.config import Config, config_to_dict
from swin.distributed import Distributed
from swin.ema import Ema
from swin.engine.evaluate import EvalResult
from swin.engine.precision import Precision, choose_precision
from swin.engine.state import TrainState
from swin.engine.step import Prepare, StepSetup
from swin.engine.train import TrainLoader, TrainPlan
from swin.errors import ConfigError
from swin.losses import build_loss
from swin.models import SwinTransformer, count_flops, count_parameters, freeze
from swin.optim import build_optimizer
from swin.schedule import build_schedule


def build_precision(cfg: Config, dist: Distributed) -> Precision:
    """The number format of the config on this device."""
    return choose_precision(dist.device, enabled=cfg.AMP_ENABLE, dtype=cfg.AMP_DTYPE)


def build_state(cfg: Config, model: SwinTransformer, precision: Precision) -> TrainState:
    """A run's state before its first update. The model is on its device and holds its initial weights.

    What TRAIN.FREEZE names is frozen here.
    """
    if cfg.TRAIN.FREEZE:
        freeze(model, cfg.TRAIN.FREEZE)
    ema = Ema(model, cfg.TRAIN.EMA.DECAY) if cfg.TRAIN.EMA.ENABLE else None
    return TrainState(model, build_optimizer(cfg, model), precision.make_scaler(), ema)


def compile_model(model: nn.Module, mode: str, device: torch.device) -> None:
    """Have calls of the model compiled, in place: parameters and their names stay as they are.

    Raises:
        ConfigError: what compiles for this device is not installed.
    """
    if mode == "off":
        return
    if device.type == "cpu" and not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")):
        raise ConfigError(f"TRAIN.COMPILE is {mode}, which needs a C++ compiler on a CPU; install g++ or use off.")
    if device.type == "cuda" and find_spec("triton") is None:
        raise ConfigError(f"TRAIN.COMPILE is {mode}, which needs Triton on a GPU; install it or use off.")
    model.compile(mode=mode)


def build_setup(
    cfg: Config,
    model: nn.Module,
    prepare: Prepare,
    precision: Precision,
    dist: Distributed,
    class_counts: Sequence[int] = (),
) -> StepSetup:
    """What every update of a run shares; wraps the model for several processes where there are any."""
    compile_model(model, cfg.TRAIN.COMPILE, dist.device)
    network = model
    if dist.world_size > 1:
        network = DistributedDataParallel(
            model,
            device_ids=[dist.device] if dist.device.type == "cuda" else None,
            broadcast_buffers=False,  # the only buffers are indices that follow from the config
            gradient_as_bucket_view=True,
        )
    return StepSetup(
        network, build_loss(cfg, class_counts), prepare, precision, dist, cfg.TRAIN.CLIP_GRAD or 0.0, cfg.SEED
    )


def effective_batch(cfg: Config, dist: Distributed) -> int:
    """Samples in one update, over all processes and accumulated micro-batches."""
    return cfg.DATA.BATCH_SIZE * dist.world_size * cfg.TRAIN.ACCUMULATION_STEPS


def build_plan(
    cfg: Config,
    loader: TrainLoader,
    run_dir: Path,
    classes: Sequence[str],
    evaluate: Callable[[], EvalResult] | None,
    dist: Distributed,
) -> TrainPlan:
    """How long to train and what to do along the way."""
    batch = effective_batch(cfg, dist)
    return TrainPlan(
        epochs=cfg.TRAIN.EPOCHS,
        schedule=build_schedule(cfg, effective_batch=batch, updates_per_epoch=loader.updates_per_epoch),
        effective_batch=batch,
        max_nonfinite=cfg.TRAIN.MAX_NONFINITE,
        print_freq_steps=cfg.PRINT_FREQ,
        save_freq=cfg.SAVE_FREQ,
        save_freq_steps=cfg.SAVE_FREQ_STEPS,
        save_keep=cfg.SAVE_KEEP,
        eval_freq=cfg.EVAL_FREQ,
        checkpoints=run_dir / "checkpoints",
        config=config_to_dict(cfg),
        classes=list(classes),
        evaluate=evaluate,
    )


def describe_model(cfg: Config, model: SwinTransformer) -> str:
    """Name, size and cost of the model."""
    height, width = model.img_size
    return (
        f"model {cfg.MODEL.NAME}: {count_parameters(model):,} parameters, "
        f"{count_flops(model, height, width) / 1e9:.2f} GFLOPs (multiply-adds) at {height} x {width}, "
        f"{model.num_classes} classes"
    )


def describe_frozen(model: SwinTransformer) -> str:
    """How much of a model with frozen parts is trained."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return f"frozen (TRAIN.FREEZE): {trained:,} of {count_parameters(model):,} parameters are trained"


def describe_plan(
    cfg: Config, plan: TrainPlan, loader: TrainLoader, num_val: int, precision: Precision, dist: Distributed
) -> str:
    """Data, batch, steps and learning rates of a run, a line each."""
    steps = plan.epochs * loader.updates_per_epoch
    rates = [plan.schedule(step) for step in range(0, steps, max(1, steps // 2000))] + [plan.schedule(steps - 1)]
    scaled = f"base {cfg.TRAIN.BASE_LR:g}"
    if cfg.TRAIN.LR_REFERENCE_BATCH:
        scaled += f" x {plan.effective_batch}/{cfg.TRAIN.LR_REFERENCE_BATCH}"
    if cfg.TRAIN.LAYER_DECAY != 1:
        scaled += f", x {cfg.TRAIN.LAYER_DECAY:g} for each block below the head"
    return "\n".join(
        [
            f"data {cfg.DATA.DATASET}: {loader.num_samples} training and {num_val} validation images, "
            f"{len(plan.classes)} classes",
            f"batch: {cfg.DATA.BATCH_SIZE} per process x {dist.world_size} processes x "
            f"{cfg.TRAIN.ACCUMULATION_STEPS} accumulation = {plan.effective_batch} per update",
            f"steps: {plan.epochs} epochs x {loader.updates_per_epoch} updates = {steps}",
            f"learning rate ({cfg.TRAIN.LR_SCHEDULER.NAME}, {scaled}): first {rates[0]:.3e} peak {max(rates):.3e} "
            f"last {rates[-1]:.3e}",
            f"precision {precision.name} on {dist.device}, world size {dist.world_size}",
        ]
    )

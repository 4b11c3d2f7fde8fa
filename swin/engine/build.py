"""From a config to the objects of a run, and the model in words."""

import os
import shutil
from importlib.util import find_spec

import torch
from torch import nn

from swin.batches import Data
from swin.config import Config
from swin.distributed import Distributed
from swin.ema import Ema
from swin.engine.precision import Precision, choose_precision
from swin.engine.state import TrainState
from swin.errors import ConfigError
from swin.losses import build_loss
from swin.models import SwinTransformer, count_flops, count_parameters, freeze
from swin.optim import build_optimizer


def build_precision(cfg: Config, dist: Distributed) -> Precision:
    """The number format of the config on this device; TF32 is set for the whole process."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = cfg.TF32
    return choose_precision(dist.device, enabled=cfg.AMP_ENABLE, dtype=cfg.AMP_DTYPE)


def build_state(cfg: Config, model: SwinTransformer, data: Data, precision: Precision, dist: Distributed) -> TrainState:
    """A run's state before its first update. The model is on its device and holds its initial weights.

    What TRAIN.FREEZE names is frozen here, and the model is compiled as TRAIN.COMPILE says.
    """
    if cfg.TRAIN.FREEZE:
        freeze(model, cfg.TRAIN.FREEZE)
    compile_model(model, cfg.TRAIN.COMPILE, dist.device, accumulation=cfg.TRAIN.ACCUMULATION_STEPS)
    return TrainState(
        model=model,
        optimizer=build_optimizer(cfg, model),
        scaler=precision.make_scaler(),
        ema=Ema(model, cfg.TRAIN.EMA.DECAY) if cfg.TRAIN.EMA.ENABLE else None,
        loss=build_loss(cfg, data.class_counts),
        prepare=data.prepare,
        precision=precision,
        dist=dist,
        clip_grad=cfg.TRAIN.CLIP_GRAD,
        seed=cfg.SEED,
    )


def compile_model(model: nn.Module, mode: str, device: torch.device, *, accumulation: int = 1) -> None:
    """Have calls of the model compiled, in place: parameters and their names stay as they are.

    Args:
        model: on its device.
        mode: as TRAIN.COMPILE.
        device: what to compile for.
        accumulation: backward passes whose gradients are added up.

    Raises:
        ConfigError: what compiles for this device is not installed.
    """
    if mode == "off":
        return
    if device.type == "cpu" and not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")):
        raise ConfigError(f"TRAIN.COMPILE is {mode}, which needs a C++ compiler on a CPU; install g++ or use off.")
    if device.type == "cuda" and find_spec("triton") is None:
        raise ConfigError(f"TRAIN.COMPILE is {mode}, which needs Triton on a GPU; install it or use off.")
    if mode == "max-autotune" and accumulation > 1:
        # A CUDA graph returns gradients in its own memory, and the next pass would overwrite what `.grad` holds.
        mode = "max-autotune-no-cudagraphs"
    model.compile(mode=mode)


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

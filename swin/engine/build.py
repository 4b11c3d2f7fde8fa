"""From a command line's config to the objects of a run, and the model in words."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swin.batches import Data
from swin.config import Config
from swin.create import build_model
from swin.distributed import Distributed
from swin.ema import Ema
from swin.engine.precision import Precision, choose_precision
from swin.engine.signals import StopRequest
from swin.engine.state import TrainState
from swin.errors import ConfigError, SwinError
from swin.library_optim import SCHEDULE_FREE, ScheduleFreeAverage
from swin.logger import Logger
from swin.losses import build_loss
from swin.models import Backbone, add_adapters, count_flops, count_parameters, freeze
from swin.objective import Objective
from swin.optim import build_optimizer
from swin.run_folder import RunFolder
from swin.weights.files import find_weight_file


@dataclass(frozen=True)
class Job:
    """A job of this process. Only the main process writes the `folder`."""

    cfg: Config
    dist: Distributed
    precision: Precision
    logger: Logger
    stop: StopRequest
    folder: RunFolder
    build_data: Callable[..., Data]
    is_dry: bool
    report: Callable[[Path], Path] | None = None  # makes a page of what is in a folder; raises a SwinError

    @property
    def is_fresh(self) -> bool:
        """Whether the run begins anew, whatever is in its folder."""
        return not self.cfg.MODEL.RESUME and (self.is_dry or not self.cfg.TRAIN.AUTO_RESUME)

    def make_data(self, **options: Any) -> Data:
        """Open the config's data as this process sees them, and say what is notable; `options` as for `build_data`."""
        dist, runs = self.dist, [] if self.is_fresh else [self.folder.path]
        if self.cfg.MODEL.RESUME:  # a checkpoint's own run knows which images it has never trained on
            runs.append(find_weight_file(self.cfg.MODEL.RESUME).parent.parent)
        elif self.cfg.EVAL_MODE and (file := self.cfg.MODEL.PRETRAINED) and Path(file).exists():
            runs.append(find_weight_file(file).parent.parent)
        options |= {"rank": dist.rank, "world_size": dist.world_size, "local_world_size": dist.local_world_size}
        what = "data" if self.cfg.DATA.FOLD is None else f"data of fold {self.cfg.DATA.FOLD}"
        data = dist.on_all(what, lambda: self.build_data(self.cfg, runs=runs, **options))
        for note in data.notes:
            self.logger.warning(note)
        return data

    def make_model(self, classes: Sequence[str] | None) -> Backbone:
        """Make the config's model on this process's device; where classes are not known, with MODEL.NUM_CLASSES."""
        model = build_model(self.cfg, self.cfg.MODEL.NUM_CLASSES if classes is None else len(classes))
        model.classes = list(classes) if classes else None
        self.logger.info(describe_model(self.cfg, model))
        return model.to(self.dist.device)

    def write_report(self, folder: Path) -> bool:
        """Make the page of a run or an evaluation, if the config asks for it; whatever fails, the results are there.

        Returns:
            Whether it was made.
        """
        if not self.cfg.REPORT or self.report is None:
            return False
        try:
            self.logger.info(f"report: {self.report(folder)}")
            return True
        except Exception as error:
            reason = str(error) if isinstance(error, SwinError) else repr(error)
            self.logger.warning(
                f"no report was written; to try again: python -m tools.report {folder}. The reason: {reason}"
            )
            return False


def build_precision(cfg: Config, dist: Distributed) -> Precision:
    """Choose the number format of the config on this device; TF32 is set for the whole process."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = cfg.TF32
    return choose_precision(dist.device, enabled=cfg.AMP_ENABLE, dtype=cfg.AMP_DTYPE)


def build_state(
    cfg: Config,
    model: Backbone,
    data: Data,
    precision: Precision,
    dist: Distributed,
    objective: Objective | None = None,
) -> TrainState:
    """Make a run's state before its first update, from a model on its device with its initial weights.

    What TRAIN.FREEZE names is frozen here, MODEL.LORA adds adapters, and the model is compiled as TRAIN.COMPILE says.
    Without an objective it is the config's loss on the labels.
    """
    if cfg.TRAIN.FREEZE:
        freeze(model, cfg.TRAIN.FREEZE)
    if (lora := cfg.MODEL.LORA).RANK:
        add_adapters(model, rank=lora.RANK, alpha=lora.ALPHA, modules=lora.MODULES, seed=cfg.SEED)
    objective = objective or Objective(build_loss(cfg, data.class_counts))
    for module in dict.fromkeys((model, objective.network(model))):
        compile_model(module, cfg.TRAIN.COMPILE, dist.device, accumulation=cfg.TRAIN.ACCUMULATION_STEPS)
    optimizer = build_optimizer(cfg, model, objective.auxiliary)
    ema = Ema(model, cfg.TRAIN.EMA.DECAY) if cfg.TRAIN.EMA.ENABLE else None
    return TrainState(
        model=model,
        optimizer=optimizer,
        scaler=precision.make_scaler(),
        ema=ScheduleFreeAverage(optimizer, model) if cfg.TRAIN.OPTIMIZER.NAME == SCHEDULE_FREE else ema,
        objective=objective,
        prepare=objective.prepare(data.prepare),
        precision=precision,
        dist=dist,
        clip_grad=cfg.TRAIN.CLIP_GRAD,
        seed=cfg.SEED,
    )


def compile_model(model: nn.Module, mode: str, device: torch.device, *, accumulation: int = 1) -> None:
    """Have calls of a model compiled, in place: parameters and their names stay as they are.

    The `mode` is as TRAIN.COMPILE; `accumulation` backward passes are added up to a gradient.

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


def describe_model(cfg: Config, model: Backbone) -> str:
    """Describe name, size and cost of the model."""
    height, width = model.img_size
    return (
        f"model {cfg.MODEL.NAME}: {count_parameters(model):,} parameters, "
        f"{count_flops(model, height, width) / 1e9:.2f} GFLOPs (multiply-adds) at {height} x {width}, "
        f"{model.num_classes} classes"
    )


def describe_frozen(model: Backbone, key: str = "TRAIN.FREEZE") -> str:
    """Describe how much of a model is trained, of which the config's key has frozen parts."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return f"frozen ({key}): {trained:,} of {count_parameters(model):,} parameters are trained"

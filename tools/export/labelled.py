"""Labelled images for an export to 8 bits: some to find the scales by, and others to say what it costs."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data import build_data
from swin.batches import Data
from swin.distributed import Distributed, setup_distributed
from swin.engine.evaluate import evaluate
from swin.engine.precision import choose_precision
from swin.engines import Description
from swin.errors import ConfigError
from swin.evaluation.predictions import EvalResult
from swin.preprocess import Normalise
from swin.weights import read_weights
from tools.evaluate import build_config
from tools.export.check import graph_input

_NUM_CALIBRATED = 128  # images that set the scales: more hardly move them


@dataclass(frozen=True)
class Labelled:
    """A data set with the classes of a checkpoint, whose images are prepared as its description says."""

    data: Data
    description: Description
    dist: Distributed

    def calibration(self) -> list[np.ndarray]:
        """Return some training images, evenly spread, as the graph takes them, in batches.

        Raises:
            ConfigError: there is no training part.
        """
        if self.data.view is None or self.data.train is None:
            raise ConfigError("the data set has no training part, whose images set the scales of 8 bits.")
        about, total = self.description, self.data.train.num_samples
        chosen = self.data.view(about.resize(), range(0, total, -(-total // _NUM_CALIBRATED)))
        return [graph_input(batch.images.contiguous(), about).numpy() for batch in chosen]

    def evaluate(self, model: nn.Module, *, takes_pixels: bool = False) -> EvalResult:
        """Evaluate a model on the validation part, in float32; one that `takes_pixels` normalises them itself."""
        precision = choose_precision(torch.device("cpu"), enabled=False, dtype="auto")
        used = _TakesPixels(model, self.data.normalise) if takes_pixels else model
        return evaluate(used, self.data, precision, self.dist)[0]


class _TakesPixels(nn.Module):
    """A model of pixels, given what has been normalised."""

    def __init__(self, model: nn.Module, normalise: Normalise) -> None:
        super().__init__()
        self.model, self.undo = model, normalise.undo

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model((self.undo(images) * 255).round().to(torch.uint8))
        return logits


def open_labelled(checkpoint: str, data_path: str | None, description: Description) -> Labelled:
    """Open the data set at a path, or else the one that the checkpoint was trained on.

    Raises:
        SwinError: it cannot be had, or has other classes.
    """
    weights = read_weights(checkpoint)
    options = argparse.Namespace(data_path=data_path, batch_size=8, workers=None, device="cpu", no_report=True, opts=[])
    cfg = build_config(weights, options, **{"DATA.IMG_SIZE": list(description.size)})
    if not cfg.DATA.DATA_PATH and cfg.DATA.DATASET != "digits":
        raise ConfigError("--precision int8 needs labelled images, to set scales by and to test it on: --data-path D.")
    dist = setup_distributed("cpu", cfg.DIST_TIMEOUT)
    data = build_data(cfg, classes=description.classes, origin=f"the classes of {Path(checkpoint).name}")
    return Labelled(data, description, dist)

"""The input pipeline: from files to batches of tensors."""

from data.build import build_data
from data.loaders import EvalLoader, TrainLoader
from data.prepare import Prepare

__all__ = ["EvalLoader", "Prepare", "TrainLoader", "build_data"]

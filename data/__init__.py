"""The input pipeline: from files to batches of tensors."""

from data.build import Data, build_data
from data.loaders import Batch, EvalLoader, TrainLoader
from data.prepare import Prepare

__all__ = ["Batch", "Data", "EvalLoader", "Prepare", "TrainLoader", "build_data"]

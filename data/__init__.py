"""The input pipeline: from files to batches of tensors."""

from data.build import Data, build_data
from data.loaders import Batch, EvalLoader, TrainLoader
from data.mixing import Mixer

__all__ = ["Batch", "Data", "EvalLoader", "Mixer", "TrainLoader", "build_data"]

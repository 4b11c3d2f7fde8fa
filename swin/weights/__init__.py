"""Weight files of the Swin family."""

from swin.weights.load import LoadReport, load_strictly, load_weights
from swin.weights.source import Weights, model_arguments, read_weights

__all__ = ["LoadReport", "Weights", "load_strictly", "load_weights", "model_arguments", "read_weights"]

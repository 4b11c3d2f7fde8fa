"""Weight files of the Swin family."""

from swin.weights.load import LoadReport, find_pretrained_windows, load_strictly, load_weights
from swin.weights.shapes import model_arguments
from swin.weights.source import Weights, read_weights

__all__ = [
    "LoadReport",
    "Weights",
    "find_pretrained_windows",
    "load_strictly",
    "load_weights",
    "model_arguments",
    "read_weights",
]

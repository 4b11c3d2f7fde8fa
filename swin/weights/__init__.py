"""Weight files of the Swin family."""

from swin.weights.load import LoadReport, load_weights

__all__ = ["LoadReport", "load_weights"]

"""What an evaluation yields, one row an image, and what is read off that."""

from swin.evaluation.predictions import EvalResult, Predictions

__all__ = ["EvalResult", "Predictions"]

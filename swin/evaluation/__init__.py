"""What an evaluation yields, one row an image, and what is read off that."""

from swin.evaluation.multilabel import LabelPredictions
from swin.evaluation.predictions import EvalResult, Predictions

__all__ = ["EvalResult", "LabelPredictions", "Predictions"]

"""Programs that show a run while it goes on: TensorBoard, Weights & Biases, MLflow."""

from swin.trackers.base import Run, Tracker
from swin.trackers.group import Trackers, require_packages

__all__ = ["Run", "Tracker", "Trackers", "require_packages"]

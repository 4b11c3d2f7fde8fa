"""Which evaluation of a run is its best: the figure that they are compared by, and when a better one is not awaited."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from swin.errors import ConfigError
from swin.evaluation.multilabel import DEFAULT_THRESHOLD


class Figure(NamedTuple):
    """A figure to compare evaluations by."""

    field: str  # its name among an evaluation's fields
    title: str  # of its column in a table
    best: str  # what the best value is called
    is_better_lower: bool = False


FIGURES = {
    "acc1": Figure("acc1", "Acc@1", "best accuracy"),
    "balanced_accuracy": Figure("balanced_accuracy", "balanced", "best balanced accuracy"),
    "macro_f1": Figure("macro_f1", "macro F1", "best macro F1"),
    "loss": Figure("loss", "loss", "lowest loss", is_better_lower=True),
    "mAP": Figure("mean_average_precision", "mAP", "best mean average precision"),
    "last": Figure("loss", "loss", "loss of the last weights"),  # each is better than the one before
}
_OF_SEVERAL_LABELS = ("mAP", "macro_f1", "loss", "last")


def choose_figure(monitor: str, *, multi_label: bool) -> str:
    """Return the figure that data can be compared by: acc1, the default, stands for mAP where images have many labels.

    Raises:
        ConfigError: the data do not have such a figure.
    """
    if multi_label and monitor == "acc1":
        return "mAP"
    if multi_label and monitor not in _OF_SEVERAL_LABELS:
        raise ConfigError(
            f"TRAIN.MONITOR is {monitor}, which images with several labels do not have; use one of "
            f"{', '.join(_OF_SEVERAL_LABELS)}."
        )
    if not multi_label and monitor == "mAP":
        others = ", ".join(name for name in FIGURES if name != "mAP")
        raise ConfigError(
            "TRAIN.MONITOR is mAP, which is for images with several labels (DATA.MULTI_LABEL), and these have one "
            f"each; use one of {others}."
        )
    return monitor


@dataclass
class Best:
    """The best evaluation so far.

    Attributes:
        monitor: one of `FIGURES`.
        patience: evaluations in a row without a better one after which none is awaited; 0 for no such end.
        value: the figure at the best evaluation; None before the first.
        waited: evaluations since then.
        threshold: of several labels an image, the probability from which on the last evaluation predicts a class.
    """

    monitor: str
    patience: int = 0
    value: float | None = None
    waited: int = 0
    threshold: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether a better evaluation is not awaited any more."""
        return 0 < self.patience <= self.waited

    def take(self, fields: Mapping[str, Any], *, is_saved: bool = True) -> bool:
        """Compare an evaluation with the best one; returns whether it is better.

        Args:
            fields: its figures by name; one that is not finite is never the best.
            is_saved: whether its weights will be saved; what is not is not the best to beat.
        """
        figure = FIGURES[self.monitor]
        value, self.threshold = float(fields.get(figure.field, math.nan)), fields.get("threshold")
        best, is_any = self.value, self.monitor == "last"
        is_better = best is None or is_any or (value < best if figure.is_better_lower else value > best)
        if is_better and is_saved and math.isfinite(value):
            self.value, self.waited = value, 0
            return True
        self.waited += 1
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return the entries of a checkpoint."""
        of_labels = {} if self.threshold is None else {"multi_label": True, "threshold": self.threshold}
        return {"monitor": self.monitor, "best": self.value, "waited": self.waited, **of_labels}

    def load_state_dict(self, content: Mapping[str, Any]) -> str:
        """Go on from a checkpoint; of one that was compared by another figure nothing is taken over.

        Returns:
            What a user should be told then; else nothing.
        """
        self.threshold = content.get("threshold", self.threshold)
        before = content.get("monitor", "acc1")
        if before != self.monitor:
            self.value, self.waited = None, 0
            return (
                f"the run was compared by {before} and is by {self.monitor} now (TRAIN.MONITOR): the comparison begins "
                "anew, and the next evaluation takes the place of best.pth"
            )
        # Earlier versions, and the official repository, have another name, and 0 before the first evaluation.
        self.value = content["best"] if "best" in content else float(content.get("max_accuracy", 0.0)) or None
        self.waited = content.get("waited", 0)
        return ""

    def describe(self, value: float | None) -> str:
        """Show a value of the figure."""
        return "-" if value is None else f"{value:.{3 if self.monitor == 'acc1' else 4}f}"

    def __str__(self) -> str:
        if self.value is None:
            return f"no evaluation was compared by {self.monitor} (TRAIN.MONITOR)"
        return f"{FIGURES[self.monitor].best} {self.describe(self.value)}"


def begin_best(monitor: str, patience: int, *, multi_label: bool) -> Best:
    """Begin to compare evaluations; raise a ConfigError where the data do not have the figure `monitor`."""
    figure = choose_figure(monitor, multi_label=multi_label)
    return Best(figure, patience, threshold=DEFAULT_THRESHOLD if multi_label else None)

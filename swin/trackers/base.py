"""What every tracker can show, and which numbers of the metrics are worth a curve."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swin.records import Row

_PLACES = ("epoch", "step", "samples", "position")  # fields that say where a row is, not how it went
_COUNTS = ("correct1", "correct5", "seen", "k")  # what accuracies are made of


@dataclass(frozen=True)
class Run:
    """The run that is tracked."""

    folder: Path
    name: str
    id: str | None = None  # under which a tracker already has it


class Tracker(ABC):
    """Shows a run, in the main process.

    Attributes:
        id: what the run is called there, to continue it by; None where its folder is enough.
        place: where it can be seen, in words; empty where docs/results.md says it.
    """

    id: str | None = None
    place: str = ""

    @abstractmethod
    def scalars(self, row: Row) -> None:
        """Draw the numbers of a row of the metrics, see `curves`, at its samples."""

    @abstractmethod
    def text(self, name: str, markdown: str, samples: int) -> None:
        """Show a text."""

    @abstractmethod
    def image(self, name: str, image_HWC: np.ndarray, samples: int) -> None:
        """Show a picture, uint8 with C = 3."""

    @abstractmethod
    def hparams(self, config: Mapping[str, Any], metrics: Mapping[str, float] | None) -> None:
        """Show the config, by dotted keys: at the start without `metrics`, at the end with the run's final ones."""

    @abstractmethod
    def go_back(self, samples: int, rows: Sequence[Row]) -> None:
        """Hide what was drawn from `samples` on, but for these rows. Services keep all that they were sent."""

    @abstractmethod
    def close(self) -> None:
        """Send what is left. A run is done there if its final metrics were shown, and else it has failed."""


def curves(row: Row) -> dict[str, float]:
    """Return the numbers of a row to draw, by tag: `kind/name`. `acc5` is top-k accuracy, and is called so."""
    names = {"acc5": f"acc{row.get('k', 5)}"}
    return {
        f"{row['kind']}/{names.get(name, name)}": value
        for name, value in row.items()
        if name not in (*_PLACES, *_COUNTS) and isinstance(value, int | float)
    }

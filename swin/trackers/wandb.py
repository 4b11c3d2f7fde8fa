"""Weights & Biases."""

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swin.records import Row
from swin.trackers.base import Run, Tracker, curves

# Seconds that the end of a run waits for a network that is gone; what was not sent is in the folder.
_FINISH_SEC = 300


class Wandb(Tracker):
    """A run of wandb. Its files are in wandb/ of the run's folder; without network or account they are all there is."""

    def __init__(self, run: Run) -> None:
        """Start or continue the run, without ever asking for a key: where none is known, nothing is sent."""
        import wandb

        is_online = wandb.setup().settings.mode == "online"
        is_stranger = is_online and "WANDB_MODE" not in os.environ and not wandb.login(prompt=False)
        self._wandb, self._is_done = wandb, False
        self._run = wandb.init(
            dir=run.folder,
            id=run.id,
            name=run.name,
            project=None if "WANDB_PROJECT" in os.environ else "swin-trainer",
            mode="offline" if is_stranger else None,
            resume="allow",
            # The console is the logger's own, and log.txt has it.
            settings=wandb.Settings(silent=True, console="off", finish_timeout=_FINISH_SEC),
        )
        self._run.define_metric("*", step_metric="samples")
        self.id = self._run.id
        why = " (no API key is set: `wandb login`, or WANDB_API_KEY)" if is_stranger else ""
        offline = f"offline{why}; `wandb sync {Path(self._run.dir).parent}` sends it"
        self.place = offline if self._run.offline else self._run.url or ""

    def scalars(self, row: Row) -> None:
        """Draw the numbers of a row."""
        self._run.log({**curves(row), "samples": row["samples"]})

    def text(self, name: str, markdown: str, samples: int) -> None:
        """Show a text as it is written."""
        self._run.log({name: self._wandb.Html(f"<pre>{html.escape(markdown)}</pre>"), "samples": samples})

    def image(self, name: str, image_HWC: np.ndarray, samples: int) -> None:
        """Show a picture."""
        self._run.log({name: self._wandb.Image(image_HWC), "samples": samples})

    def hparams(self, config: Mapping[str, Any], metrics: Mapping[str, float] | None) -> None:
        """Set the run's config and, at its end, its summary."""
        self._run.config.update(dict(config), allow_val_change=True)
        if metrics is not None:
            self._run.summary.update(dict(metrics))
            self._is_done = True

    def go_back(self, samples: int, rows: Sequence[Row]) -> None:
        """Leave it: what was sent stays, and is drawn a second time."""

    def close(self) -> None:
        """Wait until all is sent."""
        self._run.finish(exit_code=0 if self._is_done else 1)

"""TensorBoard: event files in the run's folder."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from swin.images import encode
from swin.records import RecordFile, Row, writing
from swin.trackers.base import Run, Tracker, curves


class TensorBoard(Tracker):
    """Writes a file of events. SummaryWriter would do so in a thread, which a full disk ends with a traceback."""

    def __init__(self, run: Run) -> None:
        """Start a new file in tensorboard/, which is made if absent."""
        folder = run.folder / "tensorboard"
        with writing(folder):
            folder.mkdir(exist_ok=True)
        # TensorBoard reads the files in the order of their names.
        self._file = RecordFile(folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}")
        self._writer = RecordWriter(self._file)
        self._samples = 0  # of the last row
        self._add(Event(file_version="brain.Event:2"))

    def scalars(self, row: Row) -> None:
        """Draw the numbers of a row."""
        self._samples = row["samples"]
        self._draw(curves(row))

    def text(self, name: str, markdown: str, samples: int) -> None:
        """Show a text."""
        from torch.utils.tensorboard.summary import text

        self._add(Event(step=samples, summary=text(name, markdown)))

    def image(self, name: str, image_HWC: np.ndarray, samples: int) -> None:
        """Show a picture."""
        height, width, channels = image_HWC.shape
        content = encode(Image.fromarray(image_HWC), "PNG")
        image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=content)
        self._add(Event(step=samples, summary=Summary(value=[Summary.Value(tag=name, image=image)])))

    def hparams(self, config: Mapping[str, Any], metrics: Mapping[str, float] | None) -> None:
        """Add the run to the table of runs, which is by final metrics; until there are some it is not in it."""
        if metrics is None:
            return
        from torch.utils.tensorboard.summary import hparams

        values = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in config.items()}
        for summary in hparams(values, dict(metrics)):
            self._add(Event(summary=summary))
        self._draw(metrics)

    def go_back(self, samples: int, rows: Sequence[Row]) -> None:
        """Have TensorBoard drop all from `samples` on, and draw again the rows there that are kept."""
        self._add(Event(step=samples, session_log=SessionLog(status=SessionLog.START)))
        for row in rows:
            self.scalars(row)

    def close(self) -> None:
        """Close the file; a network file system may report only now what it could not write."""
        self._file.close()

    def _draw(self, numbers: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]
        self._add(Event(step=self._samples, summary=Summary(value=values)))

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())

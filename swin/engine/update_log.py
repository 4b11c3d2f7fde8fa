"""What a run tells of its updates: a line of the log and a row of metrics for some of them at a time."""

import time
from dataclasses import replace

from swin.engine.progress import Progress
from swin.engine.step import StepTotals
from swin.engine.watch import DataWatch
from swin.logger import Logger


class UpdateLog:
    """Tells of updates, and counts those that were left out.

    Attributes:
        skipped: updates left out because loss or gradients were not finite.
    """

    def __init__(self, logger: Logger, watch: DataWatch, progress: Progress) -> None:
        self.logger, self.watch, self.skipped = logger, watch, 0
        self.begin(progress)

    def begin(self, progress: Progress) -> None:
        """Count updates and time from here on."""
        self._since, self._logged = time.perf_counter(), replace(progress)

    def tell(self, progress: Progress, totals: StepTotals, lr: float) -> None:
        """Tell of the updates since `begin`, of which `totals` has the sums, and begin anew; waits for the device."""
        elapsed_sec = time.perf_counter() - self._since
        loss_sum, samples, norm_sum, finite = totals.values.tolist()
        self.skipped += progress.step - self._logged.step - int(finite)
        if totals.asked[1] > 0:
            self.watch.report_failures()
        totals.reset()
        data_wait, self.watch.waited_sec = self.watch.waited_sec / elapsed_sec, 0.0
        self.watch.log_wait(data_wait)
        if finite:
            speed = (progress.samples - self._logged.samples) / elapsed_sec
            self._write(progress, loss_sum / samples, norm_sum / finite, lr, speed, data_wait)
        self.begin(progress)

    def _write(self, at: Progress, loss: float, norm: float, lr: float, speed: float, data_wait: float) -> None:
        num_unreadable = len(self.watch.unreadable)
        unreadable = f" unreadable {num_unreadable}" if num_unreadable else ""
        eta_min = max(0, at.total_samples - at.samples) / speed / 60  # a last update may go beyond the end
        self.logger.info(
            f"epoch {at.epoch} [{at.position}/{at.num_samples}] step {at.step} "
            f"loss {loss:.4f} lr {lr:.3e} grad_norm {norm:.3f} {speed:.0f} images/s "
            f"data_wait {data_wait:.0%} skipped {self.skipped}{unreadable} eta {eta_min:.1f} min"
        )
        where = {"epoch": at.epoch, "step": at.step, "samples": at.samples}
        more = {"images_per_sec": speed, "data_wait": data_wait, "skipped": self.skipped, "unreadable": num_unreadable}
        self.logger.metrics("train", **where, loss=loss, lr=lr, grad_norm=norm, **more)
        self.logger.progress(at.position, at.num_samples, f"epoch {at.epoch} loss {loss:.3f}")

"""What a run learned, as one page: figures with their intervals, curves, confusions, calibration and mistakes.

`python -m tools.report RUN` writes it, and so do training and tools.evaluate.
"""

from tools.report.folder import report_folder
from tools.report.page import write_report

__all__ = ["report_folder", "write_report"]

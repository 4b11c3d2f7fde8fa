"""The page about what is in a folder."""

from pathlib import Path

from swin.errors import SwinError
from swin.evaluation.predictions import Predictions
from tools.report.page import write_report
from tools.report.sources import open_cam, open_folder, open_images


def report_folder(folder: Path, page: Path | None = None) -> Path:
    """Write the page about the run or the evaluation in a folder: report.html in it, or `page`.

    Its figures and numbers go into a folder beside it, of its name without the ending.

    Returns:
        The page.

    Raises:
        SwinError: The folder holds neither, or the page cannot be written.
    """
    page = page or folder / "report.html"
    opened = open_folder(folder)
    notes, images, cam = list(opened.notes), None, None
    if opened.predictions is not None:
        try:
            images = open_images(opened)
        except SwinError as error:
            notes.append(f"There are no pictures of single images: {error}")
    if opened.folds:
        notes.append("The figures are of all images, each predicted by the fold that was not trained on it.")
    elif images is not None and isinstance(opened.predictions, Predictions):
        try:
            cam = open_cam(opened)
        except SwinError as error:
            notes.append(f"What the model looked at cannot be drawn: {error}")
    return write_report(
        opened.predictions,
        opened.metrics,
        page.with_suffix(""),
        page=page,
        run=opened.run,
        images=images,
        cam=cam,
        notes=notes,
        test=opened.test,
        folds=opened.folds,
    )

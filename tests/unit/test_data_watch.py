"""What a run says about its data: waiting, and images that were replaced."""

from types import SimpleNamespace

import pytest

from swin.engine.watch import DataWatch
from swin.errors import DataError


class Heard:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, message: str) -> None:
        self.warnings.append(message)


def make_watch(max_errors: int | None = None) -> tuple[DataWatch, Heard]:
    heard = Heard()
    return DataWatch(SimpleNamespace(num_workers=1, max_errors=max_errors), heard), heard


@pytest.mark.parametrize(("waits", "expected"), [([0.9, *[0.12] * 20], 1), ([0.9, *[0.08] * 20], 0), ([0.5] * 4, 0)])
def test_waiting_is_told_once_and_not_for_the_start(waits: list[float], expected: int) -> None:
    watch, heard = make_watch()
    for wait in waits:
        watch.log_wait(wait)
    assert len(heard.warnings) == expected
    if expected:
        assert heard.warnings[0].startswith("12% of the time went into waiting for data with 1 workers")
        assert "DATA.NUM_WORKERS" in heard.warnings[0] or "more CPUs" in heard.warnings[0]


def test_each_replaced_image_is_told_once() -> None:
    watch, heard = make_watch(max_errors=2)
    for failures in (["a.jpg: is empty"], ["a.jpg: is empty", "b.jpg: is empty"], ["b.jpg: is empty"]):
        watch.failures += failures
        watch.report_failures()
    assert heard.warnings == [f"skipped, and the next image taken: {name}.jpg: is empty" for name in "ab"]
    assert list(watch.unreadable) == ["a.jpg: is empty", "b.jpg: is empty"]


def test_too_many_unreadable_images_end_the_run() -> None:
    watch, _ = make_watch(max_errors=1)
    watch.failures += ["a.jpg: is empty", "b.jpg: is empty"]
    with pytest.raises(DataError, match=r"2 images cannot be read, more than DATA\.MAX_ERRORS 1; the last: b\.jpg"):
        watch.report_failures()

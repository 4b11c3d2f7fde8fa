"""What a run says about its data: waiting, and images that were replaced."""

from types import SimpleNamespace

import pytest

from swin.engine.train import _DataWatch


class Heard:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, message: str) -> None:
        self.warnings.append(message)


@pytest.mark.parametrize(("shares", "expected"), [([0.9, *[0.12] * 20], 1), ([0.9, *[0.08] * 20], 0), ([0.5] * 4, 0)])
def test_waiting_is_told_once_and_not_for_the_start(shares: list[float], expected: int) -> None:
    records = Heard()
    watch = _DataWatch(SimpleNamespace(num_workers=1, unreadable=[]), records)
    for share in shares:
        watch.log(share)
    assert len(records.warnings) == expected
    if expected:
        assert records.warnings[0].startswith("12% of the time went into waiting for data with 1 workers")
        assert "DATA.NUM_WORKERS" in records.warnings[0] or "more CPUs" in records.warnings[0]


def test_each_replaced_image_is_told_once() -> None:
    records, loader = Heard(), SimpleNamespace(num_workers=1, unreadable=[])
    watch = _DataWatch(loader, records)
    loader.unreadable.append("a.jpg: is empty")
    watch.log(0.0)
    loader.unreadable.append("b.jpg: is empty")
    watch.log(0.0)
    assert records.warnings == [f"skipped, and the next image taken: {name}.jpg: is empty" for name in "ab"]

"""Slowness at chosen places: Python runs this file at the start of processes that have its folder in PYTHONPATH.

SLOW_SYNC_SEC is added to each sync of a file, in all processes. Only the process of rank SLOW_RANK, at its start number
SLOW_ATTEMPT under torchrun, is late by SLOW_START_SEC, and by SLOW_LIST_SEC when it first lists a training folder.
"""

import os
import sys
import time


def given(name: str) -> float:
    return float(os.environ.get(name, 0))


_sync = os.fsync


def _slow_sync(descriptor: int) -> None:
    time.sleep(given("SLOW_SYNC_SEC"))
    _sync(descriptor)


def _wait_once(event: str, arguments: tuple[object, ...]) -> None:
    if event in ("os.scandir", "os.listdir") and str(arguments[0]).endswith("train") and _waits:
        time.sleep(_waits.pop())


_waits = [given("SLOW_LIST_SEC")]
os.fsync = _slow_sync
where = (os.environ.get("RANK"), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
if where == (os.environ.get("SLOW_RANK", ""), os.environ.get("SLOW_ATTEMPT", "0")):
    time.sleep(given("SLOW_START_SEC"))
    sys.addaudithook(_wait_once)

"""A disk that is slow to sync: Python runs this file at the start of processes that have its folder in PYTHONPATH."""

import os
import time

_sync = os.fsync


def _slow_sync(descriptor: int) -> None:
    time.sleep(float(os.environ.get("SLOW_SYNC_SEC", 0)))
    _sync(descriptor)


os.fsync = _slow_sync

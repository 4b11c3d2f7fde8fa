"""Runs on a CPU in processes apart, so that neither the allocator nor the caches of one serve another."""

import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch

from swin.cpu import keep_freed_memory
from swin.engine.throughput import peak_bytes
from tools.benchmark.timing import Run


class ProcessRun:
    """A run in another process, with as many threads as torch has in this one; its errors are raised here.

    Args:
        make: makes the run there; what it holds is copied.
        keep_memory: whether the process calls `keep_freed_memory`, as main.py does.
    """

    peak_bytes = 0  # greatest resident memory of the process up to its last run

    def __init__(self, make: Callable[[], Run], *, keep_memory: bool) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit the parent's memory and broken threads
        self._pool = ProcessPoolExecutor(1, context, _prepare, (torch.get_num_threads(), keep_memory))
        # Pickled here, since the pool would have the processes share the memory of tensors.
        self._start = self._pool.submit(_make_run, pickle.dumps(make))

    def __call__(self) -> float:
        """Run once; returns images per second."""
        self._start.result()
        speed, self.peak_bytes = self._pool.submit(_run_once).result()
        return speed

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


_run: Run  # of a process that serves a ProcessRun


def _prepare(threads: int, keep_memory: bool) -> None:
    if keep_memory:
        keep_freed_memory()
    torch.set_num_threads(threads)


def _make_run(pickled: bytes) -> None:
    global _run
    _run = pickle.loads(pickled)()


def _run_once() -> tuple[float, int]:
    return _run(), peak_bytes(torch.device("cpu"))

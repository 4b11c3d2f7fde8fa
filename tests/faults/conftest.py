"""Faults at chosen moments, made from outside the program."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def strike(runner, monkeypatch) -> Callable[..., tuple[int, str]]:
    """Run processes until a moment that `strike/sitecustomize.py` describes; returns exit status and output."""

    def run_until(
        tag: str,
        *more: str,
        at: tuple[str, str, int],
        number: int = signal.SIGKILL,
        processes: int = 0,
        timeout: float = 120,
    ) -> tuple[int, str]:
        with monkeypatch.context() as patch:
            patch.setenv("PYTHONPATH", str(Path(__file__).parent / "strike"))
            patch.setenv("STRIKE", "|".join(map(str, (*at, int(number)))))
            process = runner.start(tag, *more, processes=processes)
        return runner.finish(process, timeout)

    return run_until

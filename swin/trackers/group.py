"""The trackers that a config names, as one."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from swin.errors import ConfigError
from swin.records import write_json
from swin.trackers.base import Run, Tracker
from swin.trackers.mlflow import Mlflow
from swin.trackers.wandb import Wandb


def _tensorboard(run: Run) -> Tracker:
    from swin.trackers.tensorboard import TensorBoard  # its import takes PyTorch's, which the console need not wait for

    return TensorBoard(run)


_TRACKERS: dict[str, Callable[[Run], Tracker]] = {"tensorboard": _tensorboard, "wandb": Wandb, "mlflow": Mlflow}


def require_packages(names: Sequence[str]) -> None:
    """Refuse trackers whose package is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(
                f'LOGGERS names {name}, which is not installed: pip install "swin-trainer[trackers]", or leave it out.'
            )


class Trackers:
    """Trackers of a run. One that fails is left alone from then on, with one warning: it must not end the run.

    Only a ConfigError, of files in the run's own folder, is raised.
    """

    def __init__(self, names: Sequence[str], folder: Path, run_name: str, warn: Callable[[str], None]) -> None:
        """Open trackers, each continued under the id that trackers.json has for it."""
        self._warn = warn
        self._open: dict[str, Tracker] = {}
        path = folder / "trackers.json"
        ids: dict[str, str] = {}
        with suppress(OSError, ValueError):
            ids = json.loads(path.read_bytes())
        for name in names:
            self._attempt(name, partial(self._start, name, Run(folder, run_name, ids.get(name))))
        found = {name: tracker.id for name, tracker in self._open.items() if tracker.id}
        if found.items() - ids.items():
            write_json(path, {**ids, **found})

    @property
    def places(self) -> list[str]:
        """Where the run can be seen, a line for each service."""
        return [f"{name}: {tracker.place}" for name, tracker in self._open.items() if tracker.place]

    def each(self, do: Callable[[Tracker], None]) -> None:
        """Call a method of each of them."""
        for name, tracker in list(self._open.items()):
            self._attempt(name, partial(do, tracker))

    def close(self) -> None:
        """Close them, each whether or not another can be closed."""
        with ExitStack() as stack:
            for name, tracker in self._open.items():
                stack.callback(self._attempt, name, tracker.close)
            self._open = {}

    def _start(self, name: str, run: Run) -> None:
        self._open[name] = _TRACKERS[name](run)

    def _attempt(self, name: str, do: Callable[[], None]) -> None:
        try:
            do()
        except ConfigError:
            raise
        except Exception as error:  # networks, servers and accounts fail in ways of their own
            self._open.pop(name, None)
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self._warn(f"{name} has failed ({reason}); the run goes on without it.")

"""MLflow."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from swin.records import Row
from swin.trackers.base import Run, Tracker, curves

_MAX_VALUE_LENGTH = 6000  # MLflow's own limit of a parameter's text
_PARAMS_PER_CALL = 100  # likewise
_EXPERIMENT = "swin-trainer"


class Mlflow(Tracker):
    """A run of the server that MLFLOW_TRACKING_URI names, or of a database in mlflow/ of the run's folder."""

    def __init__(self, run: Run) -> None:
        """Start or continue the run."""
        # MLflow's own patience, four minutes a call, would hold up training where the server is gone.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient

        uri, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
        if not uri:
            folder = run.folder.resolve() / "mlflow"
            folder.mkdir(exist_ok=True)
            uri, artifacts = f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
        self._client = MlflowClient(uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(name, artifacts)
        if run.id and self._has(run.id):
            self._run_id = run.id
        else:
            self._run_id = self._client.create_run(experiment_id, run_name=run.name).info.run_id
        self.id = self._run_id
        self.place = f"{uri}, experiment {name}; `mlflow ui --backend-store-uri {uri}` shows it"
        self._is_done = False

    def _has(self, run_id: str) -> bool:
        """Go on with a run, if this server has it."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def scalars(self, row: Row) -> None:
        """Draw the numbers of a row."""
        self._log(curves(row), row["samples"])

    def text(self, name: str, markdown: str, samples: int) -> None:
        """Show a text as a file of the run; the last one of a name stays."""
        self._client.log_text(self._run_id, markdown, f"{name}.md")

    def image(self, name: str, image_HWC: np.ndarray, samples: int) -> None:
        """Show a picture."""
        self._client.log_image(self._run_id, image_HWC, key=name, step=samples)

    def hparams(self, config: Mapping[str, Any], metrics: Mapping[str, float] | None) -> None:
        """Add parameters that the run does not have yet, since none can be changed; at its end, final metrics."""
        from mlflow.entities import Param

        run = self._client.get_run(self._run_id)
        params = [
            Param(key, str(value)[:_MAX_VALUE_LENGTH]) for key, value in config.items() if key not in run.data.params
        ]
        for first in range(0, len(params), _PARAMS_PER_CALL):
            self._client.log_batch(self._run_id, params=params[first : first + _PARAMS_PER_CALL])
        if metrics is not None:
            self._log(metrics, 0)
            self._is_done = True

    def go_back(self, samples: int, rows: Sequence[Row]) -> None:
        """Leave it: what was sent stays, and is drawn a second time."""

    def close(self) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._run_id, "FINISHED" if self._is_done else "FAILED")

    def _log(self, numbers: Mapping[str, float], samples: int) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [Metric(tag, value, now_ms, samples) for tag, value in numbers.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

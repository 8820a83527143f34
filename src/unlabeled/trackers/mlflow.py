"""MLflow: a run in the experiment that MLFLOW_EXPERIMENT_NAME names, on the server of MLFLOW_TRACKING_URI."""

import importlib
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from unlabeled.trackers.tracker import PROJECT, About

__all__ = ["MLflow"]

LONGEST = 500
"""Characters of a parameter that every version of MLflow takes."""


class MLflow:
    """A run in MLflow, by its client, which leaves a run that the user has active as it is."""

    def __init__(self, about: About) -> None:
        self.client: Any = importlib.import_module("mlflow").MlflowClient()
        self.entities: Any = importlib.import_module("mlflow.entities")
        if about.identity is not None:
            self.identity = about.identity
            self.client.update_run(self.identity, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        experiment = self.client.get_experiment_by_name(name)
        number = self.client.create_experiment(name) if experiment is None else experiment.experiment_id
        self.identity = self.client.create_run(number, run_name=about.folder.name).info.run_id
        params = [self.entities.Param(name, str(value)[:LONGEST]) for name, value in about.config.items()]
        self.client.log_batch(self.identity, params=params)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        metrics = [self.entities.Metric(name, value, now, step) for name, value in values.items()]
        self.client.log_batch(self.identity, metrics=metrics)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        self.client.log_image(self.identity, pixels, artifact_file=f"{name}.png")

    def texts(self, name: str, texts: list[str], step: int) -> None:
        self.client.log_text(self.identity, "\n\n".join(texts), f"{name}.txt")

    def close(self, finished: bool) -> None:
        self.client.set_terminated(self.identity, "FINISHED" if finished else "KILLED")

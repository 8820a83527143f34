"""Measures beyond classes, each in a file of its own: tracking, retrieval, word similarity, perplexity and so on."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from unlabeled.evaluation import controls
from unlabeled.evaluation.scores import Measurement
from unlabeled.method import Method

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["TASKS", "Subject", "measure"]

TASKS = {
    "alignment": "alignment",
    "analogies": "words",
    "factors": "factors",
    "localisation": "localisation",
    "perplexity": "perplexity",
    "propagation": "propagation",
    "retrieval": "retrieval",
    "similarity": "words",
    "zones": "zones",
}
"""Tasks, and the module of each; its function is `measure`, or of the task's name where there are several."""


@dataclass
class Subject:
    """What is measured, copied and in evaluation mode.

    Attributes:
        encoder: The frozen encoder.
        method: The method around it, None where only an encoder was given.
        seed: Seed of its random twins.
    """

    encoder: "Encoder"
    method: Method | None
    seed: int = 0

    def untrained(self, data: "Data | None" = None) -> "Encoder":
        """The same encoder with random weights and the same input statistics.

        Args:
            data: What batch norms are calibrated on, as the encoder reads it; None leaves them as they start.
        """
        encoder = controls.untrained(self.encoder, self.seed)
        if data is not None:
            controls.calibrate_(encoder, data)
        return encoder

    def untrained_method(self, data: "Data") -> Method | None:
        """The same method with random weights in encoder and heads; None where there is no method.

        Args:
            data: What its norms and priors are taken from, as it was opened.
        """
        return None if self.method is None else controls.untrained_method(self.method, data, self.seed)


def measure(name: str, subject: Subject, data: Any, *, seed: int, device: torch.device) -> list[Measurement]:
    """Measure one task.

    Args:
        name: One of `TASKS`.
        subject: What is measured.
        data: What the user named: a path, a built-in name, or opened data.
        seed: Seed of every random choice.
        device: Where to compute.

    Returns:
        Ours and the task's own controls.
    """
    module = importlib.import_module(f"unlabeled.evaluation.tasks.{TASKS[name]}")
    function = getattr(module, name, None) or module.measure
    return function(subject, data, seed=seed, device=device)

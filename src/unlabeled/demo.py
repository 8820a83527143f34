"""The first minutes: learn from handwritten digits without labels, and see how few labels are enough then."""

import sys
import time
from pathlib import Path
from typing import Any

from unlabeled import evaluate, pretrain, report
from unlabeled.parts.augment import Views
from unlabeled.run import Run

__all__ = ["demo"]

LABELS_PER_CLASS = (1, 5, 10, 50, "all")
VIEWS: dict[str, Any] = {"crop": 0.4, "jitter": 0.5, "gray": 0.0, "flip": 0.0, "degrees": 15.0}
"""Digits have no colour and must not be mirrored; they may lean."""


def demo(out: Path, seed: int = 0) -> Run:
    """Pre-train on the built-in digits, compare the encoder with its controls, and write the report.

    Args:
        out: Folder of the run.
        seed: Seed of all random numbers.

    Returns:
        The run.
    """
    began = time.perf_counter()
    run = pretrain("simclr", "digits", out=out, epochs=150, lr=2e-3, seed=seed, **VIEWS)
    print("evaluating it: 5 draws of the labels for each column ...", file=sys.stderr)
    views = Views(run.encoder.config["image_size"], **VIEWS)
    scores = evaluate(
        run,
        "digits",
        probe="few",
        labels_per_class=LABELS_PER_CLASS,
        controls=("default", "dictionary", "supervised"),
        draws=5,
        seed=seed,
        augment=views,
    )
    run.add_evaluation(scores.about, scores.records)
    page = report(run, data="digits")
    print("accuracy on 500 test digits (chance 10 %), by labels per class")
    print(scores.table())
    print(scores.verdict())
    print(f"{time.perf_counter() - began:.0f} s; the report, with pictures: {page}")
    return run

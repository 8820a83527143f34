"""What the benchmarks of methods share: which methods there are, their recipes, their arguments and their budget."""

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import torch

from unlabeled import methods
from unlabeled.data import Data
from unlabeled.method import Method

__all__ = ["names", "parser", "recipe", "steps_within"]

TIMED = 5


def names(kind: str) -> list[str]:
    """Methods for a kind of data; those that bring an optimizer of their own aside."""
    described = map(methods.describe, methods.names())
    return [method.name for method in described if method.kind == kind and method.encoder_kind != "words"]


def recipe(name: str) -> dict[str, Any]:
    """Settings and options of a method for a small budget."""
    return {**methods.load(name).defaults, **methods.describe(name).recipe}


def parser(about: str, kind: str, *, out: Path | None = None, seconds: float | None = None) -> Any:
    """The arguments that all have: methods and threads, and where there are defaults a folder and processor seconds."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--methods", default=",".join(names(kind)))
    made.add_argument("--threads", type=int, default=1)
    if out is not None:
        made.add_argument("--out", type=Path, default=out)
    if seconds is not None:
        made.add_argument("--seconds", type=float, default=seconds, help="of a processor, for each training")
    return made


def steps_within(seconds: float, method: Method, data: Data, batch_size: int, fewest: int = 1) -> int:
    """Optimizer steps that take about so many processor seconds, from the time of a few, the first one aside."""
    method = copy.deepcopy(method)
    samples = method.training_view(data)
    method.prepare(samples)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-4)
    began = time.process_time()
    for step in range(TIMED + 1):
        if step == 1:
            began = time.process_time()
        loss = method(samples.sample(batch_size, seed=step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return max(fewest, int(seconds / ((time.process_time() - began) / TIMED)))

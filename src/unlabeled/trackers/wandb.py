"""Weights & Biases, and trackio, which has the same calls."""

import importlib
import os
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

from unlabeled.trackers.tracker import PROJECT, About

__all__ = ["Trackio", "Wandb"]


class Wandb:
    """A run in Weights & Biases; a run of the user's that is active already, as in a sweep, is used and left open."""

    package = "wandb"

    def __init__(self, about: About) -> None:
        self.module: Any = importlib.import_module(self.package)
        active = self.active()
        self.own = active is None
        self.run = self.begin(about) if active is None else active
        self.identity = self.name_of(self.run)

    def active(self) -> Any:
        """The run that the user has begun, None without one."""
        return getattr(self.module, "run", None)

    def begin(self, about: About) -> Any:
        """Begin a run, or go on with the one that was begun before."""
        run = self.module.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=about.folder.name,
            id=about.identity,
            resume="allow" if about.identity else None,
            config=dict(about.config),
            dir=str(about.folder),
        )
        # A resumed run may go back to steps before the last one logged, which W&B's own step cannot.
        run.define_metric("*", step_metric="step")
        return run

    def name_of(self, run: Any) -> str:
        """What finds a run again."""
        return str(run.id)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Log values of a step."""
        self.run.log({**values, "step": step})

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.log(values, step)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        self.log({name: self.module.Image(pixels)}, step)

    def texts(self, name: str, texts: list[str], step: int) -> None:
        self.log({name: self.module.Table(columns=[name], data=[[text] for text in texts])}, step)

    def close(self, finished: bool) -> None:
        if self.own:
            self.end(finished)

    def end(self, finished: bool) -> None:
        """End the run, as one that failed unless it is finished."""
        self.run.finish(exit_code=0 if finished else 1)


class Trackio(Wandb):
    """A run in trackio, which finds runs by their names only, so these get a few random digits."""

    package = "trackio"

    def active(self) -> Any:
        return None  # trackio's `run` is a module

    def begin(self, about: About) -> Any:
        name = about.identity or f"{about.folder.name}-{secrets.token_hex(2)}"
        resume = "allow" if about.identity else "never"
        return self.module.init(project=PROJECT, name=name, config=dict(about.config), resume=resume)

    def name_of(self, run: Any) -> str:
        return str(run.name)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        self.run.log(dict(values), step=step)

    def end(self, finished: bool) -> None:
        self.run.finish()

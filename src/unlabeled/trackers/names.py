"""The names of the trackers, and what each needs; importing this file imports no tracker."""

from collections.abc import Iterable

from unlabeled import check

__all__ = ["NONE", "TRACKERS", "parse"]

NONE = "none"
TRACKERS = {
    "tensorboard": ("tensorboard", "TensorBoard"),
    "wandb": ("wandb", "Wandb"),
    "trackio": ("wandb", "Trackio"),
    "mlflow": ("mlflow", "MLflow"),
}
"""Module of this package and class in it, by the name of the tracker, which is also that of the package to install."""


def parse(names: str | Iterable[str] | None) -> tuple[str, ...]:
    """Names of trackers, each once, from words separated by commas or a list; none for None, "" and "none".

    Raises:
        ValueError: A name is not one of `TRACKERS`.
    """
    words = names.split(",") if isinstance(names, str) else names or ()
    parsed = tuple(dict.fromkeys(word.strip() for word in words if word.strip()))
    for name in parsed:
        check.choice((*TRACKERS, NONE), track=name)
    return () if parsed == (NONE,) else tuple(name for name in parsed if name != NONE)

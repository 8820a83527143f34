"""Frozen features and labels become numbers, and no number stands without its controls."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlabeled.evaluation.embedding_shards import embed_shards
    from unlabeled.evaluation.embeddings import embed
    from unlabeled.evaluation.protocol import evaluate
    from unlabeled.evaluation.readouts import readout
    from unlabeled.evaluation.scores import Scores

__all__ = ["Scores", "embed", "embed_shards", "evaluate", "readout"]

_HOMES = {
    "Scores": "scores",
    "embed": "embeddings",
    "embed_shards": "embedding_shards",
    "evaluate": "protocol",
    "readout": "readouts",
}


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: names of probes and tasks are known without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

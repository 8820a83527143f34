"""Frozen features and labels become numbers, and no number stands without its controls."""

from unlabeled.evaluate.embed import embed
from unlabeled.evaluate.protocol import evaluate
from unlabeled.evaluate.scores import Scores

__all__ = ["Scores", "embed", "evaluate"]

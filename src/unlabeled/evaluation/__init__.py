"""Frozen features and labels become numbers, and no number stands without its controls."""

from unlabeled.evaluation.embed import embed
from unlabeled.evaluation.protocol import evaluate
from unlabeled.evaluation.scores import Scores

__all__ = ["Scores", "embed", "evaluate"]

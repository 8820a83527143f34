"""X."""

from unlabeled.data.trajectories.read import Spans, Walks, from_walks

__all__ = ["Spans", "Walks", "from_walks"]

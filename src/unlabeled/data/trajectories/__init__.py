"""Trajectories of an agent that knows where it is."""

from unlabeled.data.trajectories.data import Walks, from_walks

__all__ = ["Walks", "from_walks"]

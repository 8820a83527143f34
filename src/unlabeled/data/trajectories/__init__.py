"""Trajectories of an agent that knows where it is."""

from unlabeled.data.trajectories.data import Trajectories, from_trajectories

__all__ = ["Trajectories", "from_trajectories"]

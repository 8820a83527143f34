"""Built in."""

from unlabeled.data.trajectories.read import built_in

__all__ = ["built_in"]

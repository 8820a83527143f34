"""X."""

from unlabeled.data.cameras.read import Moments, Scenes, from_views

__all__ = ["Moments", "Scenes", "from_views"]

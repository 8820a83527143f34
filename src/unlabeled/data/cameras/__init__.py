"""Scenes that several cameras film at the same time."""

from unlabeled.data.cameras.data import Scenes, from_views

__all__ = ["Scenes", "from_views"]

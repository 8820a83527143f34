"""Scenes that several cameras film at the same time."""

from unlabeled.data.cameras.data import Scenes, Simulator, from_views

__all__ = ["Scenes", "Simulator", "from_views"]

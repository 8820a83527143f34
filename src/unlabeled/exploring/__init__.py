"""A page that searches data by similarity, with a map, and collects what is to be labelled."""

from unlabeled.exploring.exploration import Exploration, explore

__all__ = ["Exploration", "explore"]

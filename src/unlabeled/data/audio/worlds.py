"""Built in."""

from unlabeled.data.audio.data import built_in

__all__ = ["built_in"]

"""Built in."""

from unlabeled.data.video.data import built_in

__all__ = ["built_in"]

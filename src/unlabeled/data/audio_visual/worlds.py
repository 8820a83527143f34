"""Built in."""

from unlabeled.data.audio_visual.read import built_in

__all__ = ["built_in"]

"""Videos."""

from unlabeled.data.video.data import Videos, from_videos

__all__ = ["Videos", "from_videos"]

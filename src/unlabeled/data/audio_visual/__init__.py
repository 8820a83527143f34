"""X."""

from unlabeled.data.audio_visual.read import Clip, Pairs, from_pairs

__all__ = ["Clip", "Pairs", "from_pairs"]

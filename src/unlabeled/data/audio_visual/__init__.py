"""Pictures with their sound."""

from unlabeled.data.audio_visual.data import Pairs, from_pairs

__all__ = ["Pairs", "from_pairs"]

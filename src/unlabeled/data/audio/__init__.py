"""Sounds."""

from unlabeled.data.audio.data import Sounds, from_waveforms

__all__ = ["Sounds", "from_waveforms"]

"""Texts."""

from unlabeled.data.text.data import Texts

__all__ = ["Texts"]

"""Data of a kind that is decoded while training."""

import importlib
from typing import Any

from unlabeled import check
from unlabeled.data.streaming.data import Streamed

__all__ = ["KINDS", "open_streamed"]

KINDS = ("image", "audio", "text")
"""Kinds of data that can be streamed."""


def open_streamed(source: str, kind: str = "image", **reading: Any) -> Streamed:
    """Open samples to be decoded while training.

    Args:
        source: As in `find_shards`.
        kind: Kind of the data, one of those that can be streamed.
        **reading: As in `open_streamed` of `streamed.py` of the kind.

    Raises:
        ValueError: No shard is there, or a shard or too many samples cannot be read.
        ConnectionError: The server does not answer.
    """
    check.choice(KINDS, kind=kind)
    return importlib.import_module(f"unlabeled.data.{kind}.streamed").open_streamed(source, **reading)

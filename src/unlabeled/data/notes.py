"""What was read, guessed or converted on the way from files to data, said in one line."""

import logging
from functools import cache

__all__ = ["note"]

_log = logging.getLogger("unlabeled.data")


@cache
def note(text: str) -> None:
    """Say what was chosen for the user, once in a process however often the data is opened."""
    _log.warning("%s", text)

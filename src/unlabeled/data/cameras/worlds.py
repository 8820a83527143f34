"""Built in."""

from unlabeled.data.cameras.read import built_in

__all__ = ["built_in"]

"""A balanced part of data: copies, surplus and outliers by what features say, without labels."""

from unlabeled.curating.curate import Curation, curate

__all__ = ["Curation", "curate"]

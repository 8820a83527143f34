"""A balanced part of data: copies, surplus and outliers by what features say, without labels."""

from unlabeled.curating.curation import Curation, curate

__all__ = ["Curation", "curate"]

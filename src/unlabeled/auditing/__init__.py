"""Copies, near copies and disagreeing labels within and across parts of data."""

from unlabeled.auditing.audit import Audit, NearPair, Part, Sample, audit

__all__ = ["Audit", "NearPair", "Part", "Sample", "audit"]

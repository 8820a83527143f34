"""Copies, near-duplicates and disagreeing labels within and across parts of data."""

from unlabeled.auditing.compare import audit
from unlabeled.auditing.findings import Audit, NearPair, Sample
from unlabeled.auditing.parts import Part

__all__ = ["Audit", "NearPair", "Part", "Sample", "audit"]

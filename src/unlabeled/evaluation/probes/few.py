"""Linear probe with few labels: 1 and 10 of each class too, if no numbers are given and every class has as many."""

from unlabeled.evaluation.probe import Counts, Probe
from unlabeled.evaluation.probes import linear

__all__ = ["PROBE"]

FEW = (1, 10)


def counts(requested: Counts, rarest: int) -> Counts:
    """Labels per class: those requested, where these are not just all."""
    return requested if requested != ["all"] else [*(count for count in FEW if count <= rarest), "all"]


PROBE = Probe(linear.probe, records_as="linear", counts=counts)

"""Probes, which predict classes from features: each file is one, and adding a file adds a probe."""

from typing import TYPE_CHECKING

from unlabeled.evaluation.registry import Registry

if TYPE_CHECKING:
    from unlabeled.evaluation.probe import Probe

__all__ = ["PROBES"]

PROBES: "Registry[Probe]" = Registry(__name__, __file__, "PROBE")

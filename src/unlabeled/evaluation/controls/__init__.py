"""Controls, which learned features must beat: each file is one, and adding a file adds a control."""

from typing import TYPE_CHECKING

from unlabeled.evaluation.registry import Registry

if TYPE_CHECKING:
    from unlabeled.evaluation.control import Control

__all__ = ["CONTROLS"]

CONTROLS: "Registry[Control]" = Registry(__name__, __file__, "CONTROL")

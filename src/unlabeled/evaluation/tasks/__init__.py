"""Tasks, which measure more than classes: each file is one, and adding a file adds a task."""

from typing import TYPE_CHECKING

from unlabeled.evaluation.registry import Registry

if TYPE_CHECKING:
    from unlabeled.evaluation.task import Task

__all__ = ["TASKS"]

TASKS: "Registry[Task]" = Registry(__name__, __file__, "TASK")

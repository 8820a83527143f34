"""Learn an encoder from data that nobody labelled, and know whether it helped.

The public names are imported when they are first used, so that `import unlabeled` costs nothing.
"""

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlabeled.auditing import audit
    from unlabeled.data import open_data
    from unlabeled.evaluate import embed, evaluate
    from unlabeled.export import export
    from unlabeled.method import Method
    from unlabeled.report import report
    from unlabeled.run import load
    from unlabeled.train import pretrain

_WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
"""How long threads of OpenMP spin when they wait: rounds of GNU's, milliseconds of LLVM's and Intel's. By themselves
they spin for milliseconds, in which no other program gets the core: three trainings at once take many times as long as
one. It is read when torch is loaded, and processes that are started inherit it."""
if "torch" not in sys.modules and not any(name in os.environ for name in ("OMP_WAIT_POLICY", *_WAITING)):
    os.environ.update(_WAITING)

__version__ = "0.1.0"
__all__ = ["Method", "audit", "embed", "evaluate", "export", "load", "open_data", "pretrain", "report"]

_HOMES = {
    "Method": "method",
    "audit": "auditing",
    "embed": "evaluate",
    "evaluate": "evaluate",
    "export": "export",
    "load": "run",
    "open_data": "data",
    "pretrain": "train",
    "report": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unlabeled' has no attribute {name!r}")
    return getattr(importlib.import_module(f"unlabeled.{_HOMES[name]}"), name)


class _Package(ModuleType):
    """Keeps `unlabeled.evaluate` the function when the room of the same name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

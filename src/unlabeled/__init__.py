"""Learn an encoder from data that nobody labelled, and know whether it helped.

The public names are imported when they are first used, so that `import unlabeled` costs nothing.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from unlabeled.version import __version__ as __version__

if TYPE_CHECKING:
    from unlabeled.auditing import audit
    from unlabeled.curating import curate
    from unlabeled.data import open_data
    from unlabeled.evaluation import embed, evaluate
    from unlabeled.evaluation.bets import bet
    from unlabeled.evaluation.choosing import choose
    from unlabeled.exploring import explore
    from unlabeled.exporting import export
    from unlabeled.method import Method
    from unlabeled.publishing import publish
    from unlabeled.reporting import report
    from unlabeled.run import load
    from unlabeled.training.adapt import adapt
    from unlabeled.training.train import pretrain

_WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
"""How long threads of OpenMP spin when they wait: rounds of GNU's, milliseconds of LLVM's and Intel's. By themselves
they spin for milliseconds, in which no other program gets the core: three trainings at once take many times as long as
one. It is read when torch is loaded, and processes that are started inherit it."""
if "torch" not in sys.modules and not any(name in os.environ for name in ("OMP_WAIT_POLICY", *_WAITING)):
    os.environ.update(_WAITING)

__all__ = [
    "Method",
    "adapt",
    "audit",
    "bet",
    "choose",
    "curate",
    "embed",
    "evaluate",
    "explore",
    "export",
    "load",
    "open_data",
    "pretrain",
    "publish",
    "report",
]

_HOMES = {
    "Method": "method",
    "adapt": "training.adapt",
    "audit": "auditing",
    "bet": "evaluation.bets",
    "choose": "evaluation.choosing",
    "curate": "curating",
    "embed": "evaluation",
    "evaluate": "evaluation",
    "explore": "exploring",
    "export": "exporting",
    "load": "run",
    "open_data": "data",
    "pretrain": "training.train",
    "publish": "publishing",
    "report": "reporting",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unlabeled' has no attribute {name!r}")
    return getattr(importlib.import_module(f"unlabeled.{_HOMES[name]}"), name)

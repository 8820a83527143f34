"""Networks of the user's own that are named by the function that builds them, as in `mypackage.nets:make`."""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from unlabeled import check
from unlabeled.check import UserError

__all__ = ["imported", "is_named", "made"]


def is_named(name: Any) -> bool:
    """Whether the name of an encoder is that of a function: module:function."""
    return isinstance(name, str) and re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", name) is not None


def imported(name: str) -> Callable[..., Any]:
    """Import a function that the user named; modules in the working folder are found too.

    Only names that the user gives are imported, never those that stand in a file.

    Raises:
        ValueError: There is no such module or function, or importing it fails.
    """
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in function.split("."):
            found = getattr(found, part)
    except Exception as error:  # a module of the user's can fail in any way
        reason = f"{type(error).__name__}: {check.reason(error)}"
        raise UserError(
            f"encoder must be a module:function that can be imported, got {name} ({reason})"
        ) from error
    if isinstance(found, nn.Module) or not callable(found):
        kind = type(found).__name__
        raise UserError(f"encoder must name a function or class that builds a network, got {name}, a {kind}")
    return found


def made(function: Callable[..., Any], **facts: Any) -> nn.Module:
    """Call a function of the user's with those facts that it has parameters for.

    Args:
        function: Gives a network.
        **facts: What is known of the data, such as `in_channels` and `image_size`.

    Raises:
        ValueError: It needs anything else, fails, or gives no network.
    """
    name = f"{function.__module__}:{function.__qualname__}"
    parameters = inspect.signature(function).parameters
    try:
        network = function(**{fact: value for fact, value in facts.items() if fact in parameters})
    except Exception as error:
        reason = f"{type(error).__name__}: {check.reason(error)}"
        raise UserError(
            f"encoder must be built by {name}, given what it takes of {', '.join(facts)}; it failed ({reason})"
        ) from error
    if not isinstance(network, nn.Module):
        raise UserError(f"encoder must be a torch module, got a {type(network).__name__} from {name}")
    return network

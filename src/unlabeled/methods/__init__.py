"""The methods: one file each, and the folder is the registry.

Names, summaries and options are read from the source with `ast`, so that help never has to import torch.
"""

import ast
import difflib
import importlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlabeled.check import UserError

if TYPE_CHECKING:
    from unlabeled.method import Method

__all__ = ["Description", "Option", "arguments", "describe", "load", "names"]


@dataclass(frozen=True)
class Option:
    """One keyword of a method's constructor: its annotation as source text, its default and its help."""

    name: str
    annotation: str
    default: Any
    help: str


@dataclass(frozen=True)
class Description:
    """What a method file says of itself."""

    name: str
    class_name: str
    summary: str
    source: str
    options: tuple[Option, ...]
    kind: str
    """Kind of data that it learns from."""


@cache
def names() -> tuple[str, ...]:
    """Names of all methods, sorted."""
    return tuple(sorted(file.stem for file in Path(__file__).parent.glob("[a-z]*.py")))


@cache
def describe(name: str) -> Description:
    """Read a method's summary and options without importing it.

    Raises:
        ValueError: There is no method of this name; the nearest name is suggested.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}"
        raise UserError(f"no method is called {name}; {hint}")
    tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
    method = next(
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any(isinstance(b, ast.Name) and b.id == "Method" for b in node.bases)
    )
    constructor = next(
        node for node in method.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    helps = arguments(ast.get_docstring(method) or "")
    options = tuple(
        Option(
            argument.arg,
            ast.unparse(argument.annotation) if argument.annotation else "str",
            ast.literal_eval(default) if default else None,
            helps.get(argument.arg, ""),
        )
        for argument, default in zip(constructor.args.kwonlyargs, constructor.args.kw_defaults, strict=True)
    )
    head, _, rest = (ast.get_docstring(tree) or "").partition("\n")
    source = rest.partition("Source:")[2].partition("\n\n")[0]
    source = " ".join(source.partition("\nDiffers:")[0].partition("\nShortcut:")[0].split())
    kinds = [ast.literal_eval(value) for name_, value in _assigned(method) if name_ == "kind"]
    return Description(name, method.name, head.strip(), source, options, kinds[0] if kinds else "image")


def _assigned(class_: ast.ClassDef) -> list[tuple[str, ast.expr]]:
    """Names and values that are set in the body of a class."""
    plain = [(node.targets[0], node.value) for node in class_.body if isinstance(node, ast.Assign)]
    typed = [
        (node.target, node.value) for node in class_.body if isinstance(node, ast.AnnAssign) and node.value
    ]
    return [(target.id, value) for target, value in plain + typed if isinstance(target, ast.Name)]


def load(name: str) -> type["Method"]:
    """Import a method's class by the name of its file.

    Raises:
        ValueError: There is no method of this name; the nearest name is suggested.
    """
    class_name = describe(name).class_name
    return getattr(importlib.import_module(f"{__name__}.{name}"), class_name)


def arguments(docstring: str) -> dict[str, str]:
    """Help texts by name from the Args section of a Google docstring."""
    texts: dict[str, str] = {}
    name, inside = "", False
    for line in docstring.splitlines():
        if line.strip() == "Args:":
            inside = True
        elif inside and line.strip() and not line.startswith("    "):
            break
        elif inside and line.strip():
            if line[4] != " " and ":" in line:
                name, _, text = line.strip().partition(":")
                texts[name] = text.strip()
            else:
                texts[name] += " " + line.strip()
    return texts

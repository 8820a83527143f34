"""The methods: one file each, and the folder is the registry.

What a method file declares is read from its source with `ast`, so that help never has to import torch.
"""

import ast
import importlib
import inspect
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from unlabeled import check, options
from unlabeled.check import UserError
from unlabeled.options import ViewOptions

if TYPE_CHECKING:
    from unlabeled.method import Method

__all__ = ["Description", "Option", "arguments", "describe", "load", "names"]

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Option:
    """One keyword of a method's constructor: its type, which may carry a range, its default and its help."""

    name: str
    type: Any
    default: Any
    help: str

    @property
    def rule(self) -> str:
        """Which values are allowed, in words; empty where any of its type are."""
        _, range_, _ = options.resolve(self.type)
        return "" if range_ is None else str(range_)


@dataclass(frozen=True)
class Description:
    """What a method file declares; the fields from `kind` on are class variables of `Method`."""

    name: str
    class_name: str
    summary: str
    text: str
    source: str
    options: tuple[Option, ...]
    kind: str = "image"
    encoder_kind: str | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    smallest: dict[str, Any] = field(default_factory=dict)
    example: str | None = None
    most_epochs: int = 800


@cache
def names() -> tuple[str, ...]:
    """Names of all methods, sorted."""
    return tuple(sorted(file.stem for file in FOLDER.glob("[a-z]*.py")))


@cache
def describe(name: str) -> Description:
    """Read what a method declares without importing it.

    Raises:
        ValueError: There is no method of this name; the nearest name is suggested.
    """
    if name not in names():
        hint = check.nearest(name, names(), f"there are {', '.join(names())}")
        raise UserError(f"no method is called {name}; {hint}")
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    method = next(node for node in tree.body if isinstance(node, ast.ClassDef) and _is_method(node))
    declared = _declared(method)
    head, _, text = (ast.get_docstring(tree) or "").partition("\n")
    source = text.partition("Source:")[2].partition("\n\n")[0]
    source = " ".join(source.partition("\nDiffers:")[0].partition("\nShortcut:")[0].split())
    return Description(
        name,
        method.name,
        head.strip(),
        text.strip(),
        source,
        tuple(_options(method, declared.get("view_defaults", {}))),
        **{key: value for key, value in declared.items() if key in Description.__dataclass_fields__},
    )


def _is_method(class_: ast.ClassDef) -> bool:
    """Whether `Method` or `Method[...]` is a base."""
    bases = (base.value if isinstance(base, ast.Subscript) else base for base in class_.bases)
    return any(isinstance(base, ast.Name) and base.id == "Method" for base in bases)


def _declared(class_: ast.ClassDef) -> dict[str, Any]:
    """Class variables whose values are literals, or calls by keyword such as ViewOptions(crop=0.5)."""
    declared = {}
    for node in class_.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            try:
                declared[ast.unparse(target)] = (
                    {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.value.keywords}
                    if isinstance(node.value, ast.Call)
                    else ast.literal_eval(node.value)
                )
            except ValueError:  # not a literal, so known to the class alone
                continue
    return declared


def _options(class_: ast.ClassDef, view_defaults: dict[str, Any]) -> list[Option]:
    """Options in the order of the constructor, those of its views last."""
    helps = arguments(inspect.getdoc(ViewOptions) or "") | arguments(ast.get_docstring(class_) or "")
    types = vars(options) | {"Literal": Literal, "Annotated": Annotated}
    functions = (node for node in class_.body if isinstance(node, ast.FunctionDef))
    constructor = next((function.args for function in functions if function.name == "__init__"), None)
    own = [
        Option(
            argument.arg,
            eval(ast.unparse(argument.annotation), types) if argument.annotation else str,
            ast.literal_eval(default) if default else None,
            helps.get(argument.arg, ""),
        )
        for argument, default in (zip(constructor.kwonlyargs, constructor.kw_defaults) if constructor else ())
    ]
    views = [
        Option(name, ViewOptions.__annotations__[name], default, helps[name])
        for name, default in view_defaults.items()
    ]
    return own + views


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

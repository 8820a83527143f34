"""Formulas as MathML, which browsers show without a script: pages also work without a network."""

import re
from typing import Any

from latex2mathml.converter import convert

__all__ = ["mathml", "setup"]

PLAIN = {r"\lVert": r"\|", r"\rVert": r"\|", r"\lvert": "|", r"\rvert": "|", r"\arg": r"\operatorname{arg}"}
"""Commands that latex2mathml does not know, and others that look the same."""


def mathml(formula: str, block: bool) -> str:
    """A formula of TeX as a MathML element.

    Args:
        formula: Without dollars.
        block: Whether it stands in a line of its own.

    Raises:
        ValueError: A command in it is not known, which would be shown as it is.
    """
    for command, plain in PLAIN.items():
        formula = re.sub(re.escape(command) + r"(?![a-zA-Z])", lambda _, plain=plain: f"{plain} ", formula)
    element = convert(formula, display="block" if block else "inline")
    if unknown := re.search(r">(\\[a-zA-Z]+)<", element):
        raise ValueError(
            f"formulas must have commands that latex2mathml knows, got {unknown[1]} in {formula}"
        )
    return element


def _inline(writer: Any, node: Any) -> None:
    from docutils.nodes import SkipNode

    writer.body.append(mathml(node.astext(), block=False))
    raise SkipNode


def _block(writer: Any, node: Any) -> None:
    from docutils.nodes import SkipNode

    writer.body.append(f'<div class="math">{mathml(node.astext(), block=True)}</div>\n')
    raise SkipNode


def setup(app: Any) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

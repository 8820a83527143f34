"""How long the files of methods are, and how little they repeat of each other."""

import ast
import statistics
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "unlabeled"
METHODS = sorted((SOURCE / "methods").glob("[a-z]*.py"))
TREES = {file.stem: ast.parse(file.read_text()) for file in METHODS}
SHARED = 0.15


def length(file: Path) -> int:
    return len(file.read_text().splitlines())


def lines_by_statement(name: str) -> list[tuple[str, int]]:
    """Statements of a method file and their lines; imports, docstrings and calls of super aside."""
    found = []
    for node in ast.walk(TREES[name]):
        simple = isinstance(node, ast.stmt) and not hasattr(node, "body")
        if simple and not isinstance(node, ast.Import | ast.ImportFrom):
            text = ast.unparse(node)
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if not docstring and not text.startswith("super()"):
                found.append((text, (node.end_lineno or node.lineno) - node.lineno + 1))
    return found


def test_no_method_file_is_above_250_lines() -> None:
    assert [file.stem for file in METHODS if length(file) > 250] == []


def test_half_of_the_method_files_are_within_130_lines() -> None:
    assert statistics.median(map(length, METHODS)) <= 130


def test_method_files_share_few_lines() -> None:
    statements = {name: lines_by_statement(name) for name in TREES}
    total = shared = 0
    for name, own in statements.items():
        others = {text for other in statements if other != name for text, _ in statements[other]}
        total += sum(lines for _, lines in own)
        shared += sum(lines for text, lines in own if text in others)
    assert shared <= SHARED * total, f"{shared} of {total} lines of methods are in another method too"


SMALL_FAMILIES = {"OneView": 3, "NextToken": 2}
"""Bases of fewer than four methods, and of how many: as functions they would leave more repeated lines in them."""


def test_bases_of_families_of_methods_are_short_and_small_families_are_named() -> None:
    classes = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for file in (SOURCE / "parts").glob("*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    bases = [
        ast.unparse(base)
        for tree in TREES.values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(b).startswith("Method") for b in node.bases)
        for base in node.bases
    ]
    families = {base for base in bases if not base.startswith("Method")}
    assert families and {name: classes[name] for name in families if classes[name] > 80} == {}
    assert {name: bases.count(name) for name in families if bases.count(name) < 4} == SMALL_FAMILIES


@pytest.mark.parametrize("name", TREES)
def test_methods_have_typed_encoders_and_no_type_comments(name: str) -> None:
    text = (SOURCE / "methods" / f"{name}.py").read_text()
    assert not [word for word in ("encoder: Any", "Method):", "type: ignore") if word in text]


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_functions_are_within_60_lines(file: Path) -> None:
    room = file.relative_to(SOURCE).parts[0]
    for node in ast.walk(ast.parse(file.read_text())):
        # Kernels are compiled as one piece; the recipe of a procedural set reads best as one.
        if (
            isinstance(node, ast.FunctionDef)
            and room != "kernels"
            and (room, node.name) != ("worlds", "make")
        ):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name

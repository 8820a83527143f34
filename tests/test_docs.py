"""The documentation agrees with the code."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from unlabeled import methods

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def make() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "make.py"))


def test_methods_page_is_made_from_the_docstrings(make: dict[str, Any]) -> None:
    assert make["page"]() == (ROOT / "docs" / "methods.md").read_text(), "run make docs"


def test_readme_has_the_tables_made_from_the_docstrings(make: dict[str, Any]) -> None:
    assert make["readme"]() == (ROOT / "README.md").read_text(), "run make docs"


def test_readme_is_short_and_names_every_method() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 150
    for name in methods.names():
        assert f"`{name}`" in text


def test_numbers_of_the_readme_are_those_of_methods() -> None:
    numbers = json.loads((ROOT / "docs" / "cifar10.json").read_text())
    scores, controls = numbers["methods"], numbers["controls"]
    assert scores.keys() <= set(methods.names()) and {"raw", "random"} <= controls.keys()
    for values in [controls, *scores.values()]:
        assert all(0 <= value <= 1 for value in values.values())

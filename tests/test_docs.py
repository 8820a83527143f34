"""The documentation agrees with the code."""

import runpy
from pathlib import Path

from unlabeled import methods

ROOT = Path(__file__).parents[1]


def test_methods_page_is_made_from_the_docstrings() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "make_methods.py"))["page"]()
    assert page == (ROOT / "docs" / "methods.md").read_text(), "run python docs/make_methods.py"


def test_readme_is_short_and_names_every_method() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 150
    for name in methods.names():
        assert f"`{name}`" in text

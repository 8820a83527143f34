"""Settings of Sphinx: make docs."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pages

from unlabeled.version import __version__

pages.write()

project, author, release = "unlabeled", "the authors of unlabeled", __version__
extensions = ["myst_parser", "mathml"]
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
exclude_patterns = ["_build", "formulas", "methods.md"]
suppress_warnings = ["myst.header"]  # pages of results may skip a level

html_theme = "furo"
html_title = "unlabeled"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = html_show_copyright = False
pygments_style, pygments_dark_style = "friendly", "monokai"


def on_the_site(app, name: str, source: list[str]) -> None:
    """Links that hold on GitHub lead to pages of the site: a section of methods.md is a page here."""
    text = re.sub(r"\((\.\./)?methods\.md#\w+-(\w+)\)", r"(\1methods/\2.md)", source[0])
    text = re.sub(r"\((\.\./)?methods\.md\)", r"(\1methods/index.md)", text)
    # An interval stays in one line with its number: such tables scroll instead.
    text = re.sub(r"(?<=\d) \[([-+.\d]+), ([-+.\d]+)\]", "\u00a0[\\1,\u00a0\\2]", text)
    # Files of the repository that are no pages are named only.
    source[0] = re.sub(r"\[([^\]]+)\]\(\.\./(?:README|CONTRIBUTING|src/[^)]*)(?:\.md)?\)", r"\1", text)


def setup(app) -> None:
    app.connect("source-read", on_the_site)

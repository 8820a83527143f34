"""The page: templates filled into one HTML file that needs nothing else."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from unlabeled import __version__
from unlabeled.evaluation.verdict import counted
from unlabeled.files import atomic
from unlabeled.reporting import charts

__all__ = ["render", "write"]

TEMPLATES = Environment(
    loader=PackageLoader("unlabeled.reporting"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
TEMPLATES.filters |= {"counted": counted, "number": charts.number}
TEMPLATES.tests["finite"] = charts.finite
TEMPLATES.globals["mark"] = charts.mark


def render(template: str, **content: Any) -> str:
    """Fill a template; whatever is not `Markup` is escaped."""
    return TEMPLATES.get_template(template).render(version=__version__, **content)


def write(path: Path, template: str, **content: Any) -> Path:
    """Write a filled template to a file, whole or not at all; names that are not Unicode are written with backslashes.

    Returns:
        The file.
    """
    text = render(template, **content)
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path

"""The page: templates filled into one HTML file that needs nothing else."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from unlabeled.evaluation.verdict import counted
from unlabeled.files import atomic
from unlabeled.reporting import charts, pictures, sections, sounds
from unlabeled.version import __version__

__all__ = ["render", "write"]

TEMPLATES = Environment(
    loader=PackageLoader("unlabeled.reporting"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
TEMPLATES.filters |= {"counted": counted, "metric_title": sections.metric_title, "number": charts.number}
TEMPLATES.tests["finite"] = charts.finite
TEMPLATES.globals |= {
    "dots": charts.dots,
    "image": pictures.image,
    "lines": charts.lines,
    "longest_sound": sounds.LONGEST,
    "loss_chart": sections.loss_chart,
    "mark": charts.mark,
    "series": sections.series,
    "version": __version__,
}


def render(template: str, **content: Any) -> str:
    """Fill a template; whatever is not `Markup` is escaped."""
    return TEMPLATES.get_template(template).render(**content)


def write(path: Path, template: str, **content: Any) -> Path:
    """Write a filled template to a file, whole or not at all, and return the file.

    Names that are not Unicode are written with backslashes.
    """
    text = render(template, **content)
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path

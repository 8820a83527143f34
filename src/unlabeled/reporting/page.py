"""The page: one HTML file that needs nothing else."""

from html import escape
from importlib.resources import files

__all__ = ["document", "section"]

STYLE = files("unlabeled.reporting").joinpath("page.css")


def section(identifier: str, heading: str, sentence: str, content: str) -> str:
    """Put a heading and one sentence on what to look at beside the content; nothing without content.

    Args:
        identifier: Anchor of the section.
        heading: Plain text.
        sentence: Plain text.
        content: HTML.

    Returns:
        HTML.
    """
    if not content:
        return ""
    return (
        f'<section id="{identifier}"><div><h2>{escape(heading)}</h2><p>{escape(sentence)}</p></div>'
        f"<div>{content}</div></section>\n"
    )


def document(title: str, header: str, sections: list[str], footer: str) -> str:
    """Put the parts into one page.

    Args:
        title: Plain text.
        header: HTML.
        sections: HTML of each section.
        footer: Plain text.

    Returns:
        A whole HTML document.
    """
    style = STYLE.read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # says to the browser what we promise: nothing is loaded from anywhere
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body><main>\n<header>{header}</header>\n"
        f"{''.join(sections)}<footer>{escape(footer)}</footer>\n</main></body></html>\n"
    )

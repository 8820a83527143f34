"""Rows of pictures and panels, as several sections show them."""

from dataclasses import dataclass, field

from markupsafe import Markup

__all__ = ["COLUMNS", "Gallery", "Panel", "Strip", "text_tile"]

COLUMNS = 8


@dataclass
class Strip:
    """A named row of pictures or words, at most `columns` beside each other."""

    name: str
    tiles: list[Markup]
    columns: int = COLUMNS


@dataclass
class Gallery:
    """The strips of one run, and its texts: of each sample, pairs of a name and a text."""

    label: str
    strips: list[Strip] = field(default_factory=list)
    texts: list[list[tuple[str, str]]] = field(default_factory=list)


@dataclass
class Panel:
    """A large picture with its caption; None where there is nothing to show."""

    caption: str
    content: Markup | None


def text_tile(text: str, style: str = "") -> Markup:
    """A text in the place of a picture."""
    return Markup('<span class="{}">{}</span>').format(style, text)

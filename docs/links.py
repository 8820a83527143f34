"""Internal links: of the pages' sources, which takes a second, and of the built site: python docs/links.py FOLDER

Addresses of other sites are not fetched.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

MARKDOWN = MarkdownIt("commonmark").enable("table")
ADDRESSES = {"a": "href", "img": "src", "link": "href", "script": "src"}


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site have it."""
    return re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).strip().replace(" ", "-")


def dead(sources: Mapping[str, str], root: Path) -> list[str]:
    """Links of Markdown pages that lead nowhere.

    Args:
        sources: Text of each page by its path, relative to `root`, whether it is a file or not.
        root: Folder in which links to other files are looked up.

    Returns:
        A line for each, with page and link.
    """
    parsed = {path: MARKDOWN.parse(text) for path, text in sources.items()}
    anchors = {path: set(_anchors(tokens)) for path, tokens in parsed.items()}
    lines = []
    for path, tokens in parsed.items():
        for link in _links(tokens):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = _join(path, unquote(parts.path)) if parts.path else path
            if target not in sources and not (root / target).exists():
                lines.append(f"{path}: {link}: there is no {target}")
            elif parts.fragment and target in anchors and parts.fragment not in anchors[target]:
                lines.append(f"{path}: {link}: {target} has no such heading")
    return lines


def _join(page: str, link: str) -> str:
    """The path that a link on a page leads to."""
    parts: list[str] = []
    for part in (PurePosixPath(page).parent / link).parts:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def _links(tokens: list[Token]) -> Iterator[str]:
    for token in tokens:
        for child in token.children or ():
            link = child.attrGet("href") if child.type == "link_open" else child.attrGet("src")
            if child.type in ("link_open", "image") and isinstance(link, str):
                yield link


def _anchors(tokens: list[Token]) -> Iterator[str]:
    used: Counter[str] = Counter()
    for opened, inline in pairwise(tokens):
        if opened.type == "heading_open":
            name = slug(inline.content)
            yield f"{name}-{used[name]}" if used[name] else name
            used[name] += 1


class _Page(HTMLParser):
    """Links and anchors of a built page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = {"", "top"}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {name for name in (values.get("id"), values.get("name")) if name}
        if link := values.get(ADDRESSES.get(tag, "")):
            self.links.add(link)


def dead_in_site(folder: Path) -> list[str]:
    """Links of built pages that lead nowhere, a line for each, with page and link."""
    pages: dict[Path, _Page] = {}
    for file in folder.rglob("*.html"):
        pages[file.resolve()] = page = _Page()
        page.feed(file.read_text(encoding="utf-8"))
    lines = []
    for file, page in sorted(pages.items()):
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (
                target in pages and unquote(parts.fragment) not in pages[target].anchors
            ):
                lines.append(f"{file.relative_to(folder.resolve())}: {link}")
    return lines


if __name__ == "__main__":
    found = dead_in_site(Path(sys.argv[1]))
    print("\n".join(found) or "no dead internal links")
    sys.exit(bool(found))

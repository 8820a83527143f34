"""Sentences of a text.

One ends after `.`, `!` or `?` (with closing quotes and brackets) where white space and a capital letter or a digit
follow, after `。`, `！` or `？`, and at blank lines; not after initials and common abbreviations such as `Mr.` or
`e.g.`.
"""

import re

__all__ = ["sentences"]

_ABBREVIATIONS = {
    *("mr", "mrs", "ms", "dr", "st", "mt", "prof", "rev", "hon", "capt", "col", "gen", "lt", "jr", "sr"),
    *("vs", "no", "vol", "fig", "e.g", "i.e", "cf", "al"),
}
_LONGEST_ABBREVIATION = 8
_BORDER = re.compile(r"""\n\s*\n|[。！？]+|(?<![.!?])[.!?]++["'”’)\]_*]*+(?=\s+["'“‘(\[_*]*(\w))""")


def sentences(text: str) -> list[str]:
    """Sentences that joined are the text again; white space between two belongs to the second."""
    borders, end = [0], len(text.rstrip())
    for match in _BORDER.finditer(text):
        if following := match.group(1):
            if not (following.isupper() or following.isdigit()):
                continue
            before = text[max(0, match.start() - _LONGEST_ABBREVIATION) : match.start()]
            if match.group() == "." and _is_abbreviated(before):
                continue
        border = match.start() if match.group().isspace() else match.end()
        if border < end and text[borders[-1] : border].strip():
            borders.append(border)
    return [text[start:end] for start, end in zip(borders, [*borders[1:], len(text)])]


def _is_abbreviated(text: str) -> bool:
    """Whether a text ends with an initial or an abbreviation."""
    word = re.split(r"""[\s"'“‘(\[_*]""", text)[-1]
    return (len(word) == 1 and word.isupper()) or word.lower() in _ABBREVIATIONS

"""The page of an audit: what was found in data, with pictures of it."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import torch

from unlabeled.auditing import Audit, NearPair, Part
from unlabeled.data import Images
from unlabeled.data.text.data import Texts
from unlabeled.files import atomic
from unlabeled.reporting import page, pictures
from unlabeled.version import __version__

__all__ = ["write_page"]

GROUPS, MEMBERS, LINES = 24, 8, 200
"""Most groups or pairs of a finding that are shown, samples of each, and lines of a list."""
SIDE = 96
LETTERS = 300


def write_page(found: Audit, path: str | Path) -> Path:
    """Write one self-contained HTML page about an audit.

    Args:
        found: What was found.
        path: The file to write.

    Returns:
        The file that was written.
    """
    title = f"Audit of {' and '.join(dict.fromkeys(part.name.partition('/')[0] for part in found.parts))}"
    head = (
        f'<h1>{escape(title)}</h1><p class="lead">Copies, broken files, classes and labels, before anything is learned '
        f'from it.</p><div class="verdict">{_verdict(found)}</div>'
    )
    body = [
        page.section(
            "parts", "Parts", "What was read. Sizes are those of the decoded samples.", _parts(found.parts)
        ),
        page.section(
            "copies",
            "Copies by part",
            "Samples of the part in a row that have an equal sample in the part of a column, and beneath those that "
            "only have a near copy there. On the diagonal: another sample of the same part.",
            _copies(found),
        ),
        page.section(
            "disagreements",
            "Labels that disagree",
            "Equal samples of different classes: at most one of the labels is right.",
            _groups(found, found.disagreements),
        ),
        page.section(
            "near_disagreements",
            "Near copies, different classes",
            "One of the labels may be wrong, or the difference between both is what tells the classes apart.",
            _groups(found, found.near_disagreements),
        ),
        page.section(
            "equal",
            "Equal samples",
            "The same content, whatever the files are called. Groups across parts come first.",
            _groups(found, found.groups),
        ),
        page.section(
            "near",
            "Near copies",
            "Cropped, mirrored, resized or compressed again, or texts that have most in common; pairs across parts "
            "come first. Beneath each pair: how well its details agree, at most 1.",
            _groups(found, found.near_ordered),
        ),
        page.section("classes", "Classes", "Samples of each class in each part.", _classes(found)),
        page.section(
            "left_out", "Left out", "Files that are not in the data, and why.", _left_out(found.parts)
        ),
    ]
    path = Path(path)
    with atomic(path) as temporary:
        text = page.document(title, head, body, f"Written by unlabeled {__version__}.")
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def _verdict(found: Audit) -> str:
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in found.findings())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table; cells are HTML, the first of each row is its heading."""
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head[1:])
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr><td>{escape(head[0])}</td>{columns}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _parts(parts: Sequence[Part]) -> str:
    rows = []
    for part in parts:
        what, ends = part.size
        size = f"{' · '.join(f'{end:,g}' for end in ends)}<small>{escape(what)}</small>" if ends else "–"
        counts = (len(part), sum(1 for n in part.classes.values() if n), part.unlabelled, len(part.skipped))
        rows.append((part.name, *(f"{count:,}" for count in counts), size))
    return _table(
        ("part", "samples", "classes", "unlabelled", "left out", "size: least · median · greatest"), rows
    )


def _copies(found: Audit) -> str:
    if not (found.groups or found.near):
        return ""
    rows = []
    for part, cells in zip(found.parts, found.copies, strict=True):
        texts = [
            f"{equal:,}" + ("" if found.near is None else f"<small>+ {near:,} near</small>")
            for equal, near in cells
        ]
        rows.append((part.name, *texts))
    return _table(("of", *(f"in {part.name}" for part in found.parts)), rows)


def _groups(found: Audit, findings: Sequence[list[int] | NearPair]) -> str:
    """Pictures, or beginnings of texts, of groups or pairs, with paths and classes."""
    blocks = []
    for finding in findings[:GROUPS]:
        if isinstance(finding, NearPair):
            numbers = [finding.first, finding.second]
            note = f"{finding.score:.3f}{', mirrored' if finding.mirrored else ''}"
        else:
            numbers = finding
            note = f"{len(finding)} equal" if len(finding) > 2 else ""
        shown = "".join(_shown(found, number) for number in numbers[:MEMBERS])
        blocks.append(
            f'<figure class="copies"><div>{shown}</div><figcaption>{escape(note)}</figcaption></figure>'
        )
    more = len(findings) - GROUPS
    rest = f'<p class="note">… and {more:,} more, in the JSON.</p>' if more > 0 else ""
    return f'<div class="groups">{"".join(blocks)}</div>{rest}' if blocks else ""


def _shown(found: Audit, number: int) -> str:
    at, row = found.place(number)
    data, sample = found.parts[at].data, found.sample(number)
    content = ""
    if isinstance(data, Images):
        images = data.batch(torch.tensor([row]))["image"].float() / 255
        content = pictures.image(pictures.thumbnails(images, 1, SIDE**2, SIDE)[0], sample.path)
    elif isinstance(data, Texts):
        content = f'<p class="text">{escape(" ".join(data.texts[row][:LETTERS].split()))}</p>'
    label = "" if sample.label is None else f" · <b>{escape(sample.label)}</b>"
    return f'<div class="copy">{content}<small>{escape(sample.part)}{label}<br>{escape(sample.path)}</small></div>'


def _classes(found: Audit) -> str:
    names = dict.fromkeys(name for part in found.parts for name in part.classes)
    if not names:
        return ""
    rows = [
        (name, *(f"{part.classes.get(name, 0):,}" for part in found.parts)) for name in list(names)[:LINES]
    ]
    lonely = ", ".join(f"{name} (only in {part})" for name, part in found.lonely_classes.items())
    note = f'<p class="note">In one part only: {escape(lonely)}.</p>' if lonely else ""
    return note + _table(("class", *(part.name for part in found.parts)), rows)


def _left_out(parts: Sequence[Part]) -> str:
    skipped = [skip for part in parts for skip in part.skipped]
    if not skipped:
        return ""
    rows = [(skip.path, escape(skip.reason)) for skip in skipped[:LINES]]
    more = f'<p class="note">… and {len(skipped) - LINES:,} more.</p>' if len(skipped) > LINES else ""
    return _table(("file", "reason"), rows).replace("<table>", '<table class="summary">') + more

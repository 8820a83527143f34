"""The page of an audit: what is wrong with data, with pictures of it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from markupsafe import Markup

from unlabeled.auditing import Audit, NearPair, Sample
from unlabeled.auditing.parts import parts_table
from unlabeled.data import Images
from unlabeled.data.text.data import Texts
from unlabeled.reporting import page, pictures

__all__ = ["write_page"]

Copies = tuple[list[tuple[Sample, Markup]], str]
"""Samples that are equal or nearly so, each with its picture or the beginning of its text, and a note about them."""

GROUPS, MEMBERS, LINES = 24, 8, 200
"""Most groups or pairs of a finding that are shown, samples of each, and lines of a list."""
SIDE = 96
LETTERS = 300
"""Longest side of a picture in pixels, and characters of a text."""


def write_page(audit: Audit, path: str | Path, *, json: str | Path | None = None) -> Path:
    """Write one self-contained HTML page about an audit.

    Args:
        audit: What was found.
        path: The file to write.
        json: File of all findings, which the page names where it omits some.

    Returns:
        The file that was written.
    """

    def copies(findings: Sequence[list[int] | NearPair]) -> tuple[list[Copies], int]:
        return [_copies(audit, finding) for finding in findings[:GROUPS]], len(findings) - GROUPS

    classes = dict.fromkeys(name for part in audit.parts for name in part.classes)
    class_rows = [(name, *(f"{part.classes.get(name, 0):,}" for part in audit.parts)) for name in classes]
    lonely = ", ".join(f"{name} (only in {part})" for name, part in audit.lonely_classes.items())
    skipped = [(skip.path, skip.reason) for part in audit.parts for skip in part.skipped]
    sources = dict.fromkeys(part.name.partition("/")[0] for part in audit.parts)
    return page.write(
        Path(path),
        "audit.html",
        title=f"Audit of {' and '.join(sources)}",
        findings=audit.findings(),
        parts=parts_table(audit.parts),
        copies=audit.copies_table(),
        disagreements=copies(audit.disagreements),
        near_disagreements=copies(audit.near_disagreements),
        equal=copies(audit.groups),
        near=copies(audit.near_ordered),
        classes=[("class", *(part.name for part in audit.parts)), *class_rows] if classes else [],
        lonely=f"In one part only: {lonely}." if lonely else "",
        skipped=[("file", "reason"), *skipped] if skipped else [],
        lines=LINES,
        json=None if json is None else Path(json).name,
    )


def _copies(audit: Audit, finding: list[int] | NearPair) -> Copies:
    if isinstance(finding, NearPair):
        numbers = [finding.first, finding.second]
        note = f"{finding.score:.3f}{', mirrored' if finding.mirrored else ''}"
    else:
        numbers = finding
        note = f"{len(finding)} equal" if len(finding) > 2 else ""
    return [(audit.sample(number), _content(audit, number)) for number in numbers[:MEMBERS]], note


def _content(audit: Audit, number: int) -> Markup:
    """A picture of a sample or the beginning of its text; empty where it has neither."""
    part, row = audit.place(number)
    data = audit.parts[part].data
    if isinstance(data, Images):
        images = data.batch(torch.tensor([row]))["image"].float() / 255
        return pictures.image(pictures.thumbnails(images, 1, SIDE**2, SIDE)[0], data.paths[row])
    if isinstance(data, Texts):
        return Markup('<p class="text">{}</p>').format(" ".join(data.texts[row][:LETTERS].split()))
    return Markup()

"""The page of a curation: which clusters the pool has, and how much was taken of each."""

from pathlib import Path

import torch
from markupsafe import Markup
from torch import Tensor

from unlabeled.curating import Curation
from unlabeled.data import Data, Images
from unlabeled.data.text.data import Texts
from unlabeled.reporting import page, pictures

__all__ = ["write_page"]

CLUSTERS, MEMBERS, FAR = 30, 8, 24
"""Most clusters that are shown, samples of each, and outliers."""
SIDE, LETTERS = 72, 160
"""Longest side of a picture in pixels, and characters of a text."""


def write_page(curation: Curation, path: str | Path) -> Path:
    """Write one self-contained HTML page about a curation.

    Args:
        curation: What `curate` returns.
        path: The file to write.

    Returns:
        The file that was written.
    """
    sizes, selection_sizes = curation.sizes()
    largest = sizes.argsort(descending=True, stable=True)
    largest = largest[sizes[largest] > 0]
    rows = [_cluster(curation, number, sizes, selection_sizes) for number in largest[:CLUSTERS].tolist()]
    far = curation.outliers[:FAR].tolist()
    return page.write(
        Path(path),
        "curation.html",
        title=f"Curation of {curation.name}",
        sentences=curation.summary(),
        clusters=rows,
        widest=max((share for _, *shares, _ in rows for share in shares), default=1),
        more=len(largest) - len(rows),
        outliers=[(f"{curation.isolation[row]:.3f}", show(curation.data, row)) for row in far],
        more_outliers=len(curation.outliers) - len(far),
    )


def _cluster(
    curation: Curation, number: int, sizes: Tensor, selection_sizes: Tensor
) -> tuple[str, float, float, list[Markup]]:
    """Words on a cluster of the last level, its share of the pool and of what was taken in percent, and samples."""
    members = (curation.levels[-1] == number).nonzero().flatten()
    generator = torch.Generator().manual_seed(number)
    some = members[torch.randperm(len(members), generator=generator)[:MEMBERS]]
    before, after = (
        100 * float(part[number]) / max(float(part.sum()), 1) for part in (sizes, selection_sizes)
    )
    words = f"{int(selection_sizes[number]):,} of {int(sizes[number]):,}"
    return words, before, after, [show(curation.data, row) for row in some.tolist()]


def show(data: Data, row: int) -> Markup:
    """A picture of a sample, the beginning of its text, or its path."""
    if isinstance(data, Images):
        images = data.batch(torch.tensor([row]))["image"].float() / 255
        return pictures.image(pictures.thumbnails(images, 1, SIDE**2, SIDE)[0], data.paths[row])
    if isinstance(data, Texts):
        return Markup('<span class="text">{}</span>').format(" ".join(data.texts[row][:LETTERS].split()))
    return Markup("<span>{}</span>").format(data.paths[row].rpartition("/")[2])

"""Small pictures of samples on sheets, which a page loads as it needs them."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unlabeled.evaluation.embeddings import as_picture
from unlabeled.files import atomic
from unlabeled.progress import watched
from unlabeled.reporting.samples import pixels

if TYPE_CHECKING:
    from PIL.Image import Image

    from unlabeled.data import Data

__all__ = ["COLUMNS", "PER_SHEET", "side_for", "thumbnails", "write_sheets"]

COLUMNS = 16
"""Pictures in a row of a sheet, and rows of one."""
PER_SHEET = COLUMNS**2
LARGE, SMALL, FEW = 64, 48, 30_000
"""Side in pixels of the pictures of up to so many samples, and of more."""
QUALITY = 82


def side_for(samples: int, largest: int) -> int:
    """Side of a picture on a sheet: none is enlarged.

    Args:
        samples: How many there are.
        largest: Longest side in pixels of the pictures.
    """
    return min(LARGE if samples <= FEW else SMALL, largest)


def thumbnails(samples: Iterable[tuple["Data", int]], total: int, encoder: Any) -> Iterator["Image"]:
    """A picture of each sample: images as they are, videos by a frame, sounds as spectrograms.

    Args:
        samples: Data as it was opened, and a row of it, of each sample.
        total: How many there are.
        encoder: Encoder of them.
    """
    for data, row in watched(samples, total, "drawing", "pictures"):
        batch = data.batch(torch.tensor([row]))
        if "image" in batch:
            picture = batch["image"][0].cpu()
        else:
            picture = (pixels(encoder, batch)[0] * 255).round().clamp(0, 255).to(torch.uint8).cpu()
        yield as_picture(picture)


def write_sheets(pictures: Iterable["Image"], folder: Path, side: int) -> int:
    """Write pictures on sheets of 16 by 16, each in the middle of a square on a transparent ground.

    Args:
        pictures: In their order.
        folder: Where sheets 0.webp, 1.webp and so on are written.
        side: Side of a square in pixels; larger pictures are shrunk to it.

    Returns:
        How many sheets there are.
    """
    from PIL import Image as images

    folder.mkdir(parents=True, exist_ok=True)
    sheet, count = None, 0

    def save() -> None:
        nonlocal sheet
        if sheet is not None:
            with atomic(folder / f"{(count - 1) // PER_SHEET}.webp") as temporary:
                sheet.save(temporary, "webp", quality=QUALITY, method=4)
            sheet = None

    for picture in pictures:
        place = count % PER_SHEET
        if place == 0:
            save()
            sheet = images.new("RGBA", (COLUMNS * side, COLUMNS * side))
        assert sheet is not None
        small = picture.convert("RGB")
        small.thumbnail((side, side))
        left, top = (place % COLUMNS) * side, (place // COLUMNS) * side
        sheet.paste(small, (left + (side - small.width) // 2, top + (side - small.height) // 2))
        count += 1
    save()
    return -(-count // PER_SHEET)

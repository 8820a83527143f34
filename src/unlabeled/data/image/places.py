"""Places: groups of images that show the same, such as a place at several times; a sample is the whole group."""

from collections.abc import Iterator

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.digests import digest
from unlabeled.data.image.data import Images
from unlabeled.data.notes import note
from unlabeled.data.samples import Batch, Data

__all__ = ["Places", "places_of"]


class Places(Data):
    """Groups of images, of which a batch shows some images each.

    Args:
        images: The images of all groups.
        rows: Images in the order of their groups, int64, shape (images,).
        starts: Where each group starts in `rows`, int64, shape (places,).
        counts: Images of each group, int64, at least 2, shape (places,).
        draws: Images of each group that a batch shows.
    """

    kind = "image"
    unit = "places"
    per_sample = ("starts", "counts")

    def __init__(self, images: Images, rows: Tensor, starts: Tensor, counts: Tensor, draws: int) -> None:
        super().__init__(name=images.name, paths=[images.paths[row] for row in rows[starts].tolist()])
        self.images, self.rows, self.draws = images, rows, draws
        self.starts, self.counts = starts, counts
        self.skipped = images.skipped

    @property
    def shape(self) -> dict[str, int]:
        return self.images.shape

    def batch(self, index: Tensor) -> Batch:
        """Give out random images of places, all different where a place has enough.

        Args:
            index: Rows, int64, shape (batch,).

        Returns:
            `video` uint8 (batch, draws, channels, height, width), in random order; `index` int64 (batch,); where
            the images of the data differ in size also `size` int64 (batch, draws, 2). The first image of a place
            is never shown twice.
        """
        place = index.cpu()
        counts, number = self.counts[place][:, None], torch.arange(self.draws)
        # Past the last image those after the first come again.
        again = 1 + (number - 1).remainder(counts - 1)
        order = distinct(counts[:, 0], self.draws).gather(1, torch.where(number < counts, number, again))
        rows = self.rows[self.starts[place][:, None] + order]
        batch = self.images.batch(rows.flatten())
        pictures = {"video": batch["image"]} | {key: batch[key] for key in ("size",) if key in batch}
        pictures = {key: values.unflatten(0, rows.shape) for key, values in pictures.items()}
        return self.on_device({**pictures, "index": index})

    def to(self, device: torch.device | str) -> "Places":
        """The same data giving its batches on a device."""
        moved = super().to(device)
        moved.images = self.images.to(device)
        return moved

    def _contents(self) -> Iterator[int]:
        digests = self.images.digests()
        for start, count in zip(self.starts.tolist(), self.counts.tolist()):
            yield digest(digests[self.rows[start : start + count]].sort().values)


def distinct(counts: Tensor, draws: int) -> Tensor:
    """Random numbers below counts, in random order, all different up to the count.

    Args:
        counts: int64, shape (batch,).
        draws: Numbers for each.

    Returns:
        int64, shape (batch, draws); what is beyond a count does not matter.
    """
    drawn = torch.zeros(len(counts), 0, dtype=torch.int64)
    for number in range(draws):
        new = (torch.rand(len(counts)) * (counts - number).clamp(min=1)).long()
        for earlier in drawn.sort(1).values.unbind(1):  # the numbers that are left, counted from 0
            new = new + (new >= earlier)
        drawn = torch.cat([drawn, new[:, None]], 1)
    return drawn


def places_of(images: Images, draws: int, method: str) -> Places:
    """Images by their groups, each a place.

    Args:
        images: Images with groups; groups of one image are left out, which is said.
        draws: Images of each place that a batch shows, at least 2.
        method: What needs them, for messages.

    Raises:
        ValueError: There are no groups, or all have one image only.
    """
    check.at_least(2, draws=draws)
    if images.groups is None:
        raise UserError(
            f"images must have groups for {method}, those of one place at several times, got {images.name} without "
            "any; --group folder takes the images of a folder as one place, such as place/time.png"
        )
    _, numbers, counts = images.groups.unique(return_inverse=True, return_counts=True)
    several = counts >= 2
    if not several.any():
        raise UserError(
            f"groups must have at least 2 images for {method}, got {len(counts)} groups of 1 in {images.name}"
        )
    if alone := int((~several).sum()):
        note(f"{images.name}: {alone} of {len(counts)} groups are left out, as they have one image only")
    rows = numbers.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    return Places(images, rows, starts[several], counts[several], draws)

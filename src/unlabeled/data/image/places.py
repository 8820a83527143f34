"""Places: groups of images of the same thing, such as a place at several times; a sample is a whole group."""

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
    """Groups of images, of each of which a batch has several images.

    Args:
        images: The images of all groups.
        rows: Images in the order of their groups, int64, shape (images,).
        starts: Where each group starts in `rows`, int64, shape (places,).
        counts: Images of each group, int64, at least 2, shape (places,).
        draws: Number of images of each group in a batch.
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
        """Random images of some places, all different if a place has enough.

        Args:
            index: Rows, int64, shape (batch,).

        Returns:
            `video` uint8 (batch, draws, channels, height, width), in random order; `index` int64 (batch,); where
            the images of the data differ in size also `size` int64 (batch, draws, 2). The first image drawn of a
            place is never repeated.
        """
        place = index.cpu()
        counts, number = self.counts[place][:, None], torch.arange(self.draws)
        # A place with too few images repeats them, except for the first one.
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
    """Distinct random numbers below each count, in random order.

    Args:
        counts: int64, shape (batch,).
        draws: How many numbers for each count.

    Returns:
        int64, shape (batch, draws); the first `count` of a row are distinct, and the others meaningless.
    """
    numbers = torch.zeros(len(counts), 0, dtype=torch.int64)
    for number in range(draws):
        new = (torch.rand(len(counts)) * (counts - number).clamp(min=1)).long()
        for earlier in numbers.sort(1).values.unbind(1):  # skip the numbers that are already taken
            new = new + (new >= earlier)
        numbers = torch.cat([numbers, new[:, None]], 1)
    return numbers


def places_of(images: Images, draws: int, method: str) -> Places:
    """Images as places, one for each group.

    Args:
        images: Images with groups; groups of one image are skipped, with a note.
        draws: Number of images of each place in a batch, at least 2.
        method: Method that needs them, for messages.

    Raises:
        ValueError: There are no groups, or all have only one image.
    """
    check.at_least(2, draws=draws)
    if images.groups is None:
        raise UserError(
            f"images must have groups for {method}, each with the images of one place at several times, got "
            f"{images.name} without any; --group folder makes each folder a place, as in place/time.png"
        )
    _, numbers, counts = images.groups.unique(return_inverse=True, return_counts=True)
    several = counts >= 2
    if not several.any():
        raise UserError(
            f"groups must have at least 2 images for {method}, got {len(counts)} groups of 1 in {images.name}"
        )
    if alone := int((~several).sum()):
        note(f"{images.name}: {alone} of {len(counts)} groups are skipped, as they have only one image")
    rows = numbers.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    return Places(images, rows, starts[several], counts[several], draws)

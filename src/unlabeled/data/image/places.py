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
        rows: Images of each group, as many as the largest has, int64, shape (places, images); what is beyond `counts`
            does not matter.
        counts: Images of each group, int64, at least 2, shape (places,).
        draws: Images of each group that a batch shows.
    """

    kind = "image"
    unit = "places"
    per_sample = ("rows", "counts")

    def __init__(self, images: Images, rows: Tensor, counts: Tensor, draws: int) -> None:
        super().__init__(name=images.name, paths=[images.paths[row] for row in rows[:, 0].tolist()])
        self.images, self.rows, self.counts, self.draws = images, rows, counts, draws
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
        order = torch.rand(len(place), self.rows.shape[1])
        order = order.masked_fill(torch.arange(order.shape[1]) >= counts, 2.0).argsort(1)
        # Past the last image those after the first come again.
        again = 1 + (number - 1).remainder(counts - 1)
        rows = self.rows[place].gather(1, order.gather(1, torch.where(number < counts, number, again)))
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
        for rows, count in zip(self.rows, self.counts.tolist()):
            yield digest(digests[rows[:count]].sort().values)


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
    starts = (counts.cumsum(0) - counts)[several, None]
    table = (starts + torch.arange(int(counts.max()))).clamp(max=len(rows) - 1)
    return Places(images, rows[table], counts[several], draws)

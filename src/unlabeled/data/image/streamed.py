"""Images of shards, decoded while training instead of once: what is too large to be kept decoded.

A source is what `streaming.addresses` finds: tar or parquet files, local or at any address that fsspec knows.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.image.data import Images, with_channels
from unlabeled.data.image.decode import SUFFIXES, read
from unlabeled.data.image.levels import Levels, kind_of, parsed, to_uint8
from unlabeled.data.image.tables import images_of
from unlabeled.data.notes import note
from unlabeled.data.options import Progress
from unlabeled.data.samples import Batch, Skipped
from unlabeled.data.streaming.data import Decoder, Streamed, first_rows, open_shards
from unlabeled.data.streaming.shards import Content, ShardRows
from unlabeled.data.tables import open_table

__all__ = ["ImageDecoder", "StreamedImages", "open_streamed"]


def table_images(path: Path) -> Iterator[bytes]:
    """Encoded images of a parquet file; what is none is empty.

    Raises:
        ValueError: It has no column of images.
    """
    table = open_table(path)
    if (images := images_of(table, path.parent)) is None or not images.sure:
        raise UserError(f"{path} must hold images, got the columns {', '.join(table.schema.names)}")
    if images.refers:
        raise UserError(f"{path} must hold images to be streamed, got names of files in {images.image}")
    return (content if isinstance(content, bytes) else b"" for _, _, content in images.rows(path.parent))


IMAGES = Content("images", SUFFIXES, table_images)


class ImageDecoder(Decoder):
    """Decodes images.

    Args:
        source: The shards.
        counts: Images of each that are used, its first ones, int64, shape (shards,).
        side: Shorter side in pixels to which larger images are shrunk.
        channels: Channels of every image; None keeps those of the files.
        levels: Values of images of more than 8 bits that become 0 and 255.
    """

    def __init__(
        self, source: ShardRows, counts: np.ndarray, side: int, channels: int | None, levels: Levels
    ) -> None:
        super().__init__(source, counts)
        self.side, self.channels, self.levels = side, channels, levels

    def decoded(self, content: bytes) -> np.ndarray | str:
        """An image, uint8, shape (channels, height, width), or the reason why there is none."""
        try:
            pixels = read(content, self.side)[0].pixels
            if (kind := kind_of(pixels)) is not None and kind not in self.levels:
                raise _Deep
            pixels, _ = to_uint8(pixels, self.levels)
            return pixels if self.channels is None else with_channels(pixels, self.channels)
        except _Deep:
            raise UserError(
                "levels must be given to stream images of more than 8 bits, as LOW,HIGH, got none"
            ) from None
        except ValueError as error:
            return check.reason(error)

    def joined(self, samples: list[np.ndarray]) -> Batch:
        """As `Images.batch`; `size` is left out where all images have one."""
        if len({image.shape[1:] for image in samples}) == 1:
            # A worker collates straight into shared memory.
            return {"image": default_collate([torch.from_numpy(image) for image in samples])}
        sizes = torch.tensor([image.shape[1:] for image in samples])
        height, width = sizes.amax(0).tolist()
        pixels = torch.zeros(len(samples), len(samples[0]), height, width, dtype=torch.uint8)
        for place, image in zip(pixels.numpy(), samples):
            place[:, : image.shape[1], : image.shape[2]] = image
        return {"image": pixels, "size": sizes}


class _Deep(Exception):
    """An image of more than 8 bits whose range is not known."""


class StreamedImages(Streamed):
    """Images that are decoded while training.

    Args:
        decoder: What decodes them.
        name: What the data is called in reports.
        image_size: Suggested side of training images in pixels.
        workers: Processes that read ahead, 0 for none.
        max_broken: Largest fraction of the images that may be unreadable, in 0..1, once 1,000 were read.
        skipped: What is known to be unreadable.
    """

    kind = "image"
    unit = "images"

    def __init__(
        self,
        decoder: ImageDecoder,
        *,
        name: str,
        image_size: int,
        workers: int,
        max_broken: float,
        skipped: Sequence[Skipped] = (),
    ) -> None:
        super().__init__(decoder, name=name, workers=workers, max_broken=max_broken, skipped=skipped)
        assert decoder.channels is not None
        self.channels, self.image_size = decoder.channels, image_size
        self.levels = decoder.levels or None

    @property
    def shape(self) -> dict[str, int]:
        return {"channels": self.channels, "image_size": self.image_size}

    def gathered(self, samples: list[np.ndarray], paths: list[str]) -> Images:
        data = Images(
            torch.cat([torch.from_numpy(image).flatten() for image in samples]),
            torch.tensor([image.shape[1:] for image in samples]),
            channels=self.channels,
            name=self.name,
            paths=paths,
        )
        data.levels = self.levels
        return data


def open_streamed(
    source: str,
    *,
    side: int,
    workers: int,
    cache_size: str | None = None,
    levels: Any = None,
    channels: int | None = None,
    max_broken: float = 0.1,
    progress: Progress | None = None,
) -> StreamedImages:
    """Open images to be decoded while training.

    Args:
        source: As in `find_shards`.
        side: Shorter side in pixels to which larger images are shrunk.
        workers: Processes that read ahead of the training, 0 for none.
        cache_size: Bytes that shards may take on the disk, such as 200GB; None for half of what is free.
        levels: Values of images of more than 8 bits that become 0 and 255, as in `open_data`.
        channels: Channels of every image; None for those of the first images.
        max_broken: Largest fraction of the images that may be unreadable, in 0..1.
        progress: Called with the shards done so far and their number, while they are counted.

    Raises:
        ValueError: No shard is there, or a shard or too many images cannot be read.
        ConnectionError: The server does not answer.
    """
    opened = open_shards(source, IMAGES, cache_size, progress)
    decoder = ImageDecoder(opened.rows, opened.lengths.counts, side, None, parsed(levels))
    images, _ = decoder.samples(first_rows(decoder.counts))
    numbers = [len(image) for image in images]
    several = channels or (max(numbers) if {*numbers} <= {1, 3} else max({*numbers}, key=numbers.count))
    whole = ImageDecoder(decoder.source, decoder.counts, side, several, decoder.levels)
    data = StreamedImages(
        whole,
        name=opened.name,
        image_size=int(np.median([min(image.shape[1:]) for image in images])),
        workers=workers,
        max_broken=max_broken,
        skipped=opened.lengths.skipped,
    )
    if several == 1 and not channels:
        note(f"{data.name}: images are grey, as the first {len(images)} are; colours become grey")
    opened.divided(data)
    return data

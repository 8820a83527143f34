"""The audit of images: time and memory, and which planted copies it finds.

    python benchmarks/audit.py [--images 100000] [--side 64] [--planted 100] [--data FOLDER]

Without --data the images are made here: colours at several scales with a shape on top. Copies of some images are
planted, of each kind so many: crops of at least 80 % of each side at any place, crops of exactly 80 %, JPEG of quality
60, mirrored, resized by half, and mirrored crops as JPEG. A pair that is no copy of the same image counts against the
precision, unless it is found without the planted copies, too (real data hold copies of their own).
"""

import argparse
import io
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unlabeled.auditing import near_images
from unlabeled.data import open_data
from unlabeled.data.opening import parts

Change = Callable[[Tensor, np.random.Generator], Tensor]


def made(count: int, side: int, seed: int = 0) -> Tensor:
    """Images, uint8, shape (count, 3, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.empty(count, 3, side, side, dtype=torch.uint8)
    across = torch.linspace(-1, 1, side)
    for rows in torch.arange(count).split(1000):
        block = torch.zeros(len(rows), 3, side, side)
        for cells in (2, 4, 8, 16):
            noise = torch.rand(len(rows), 3, cells, cells, generator=generator)
            block += F.interpolate(noise, (side, side), mode="bicubic") / cells**0.5
        middle = torch.rand(len(rows), 2, 1, 1, generator=generator) - 0.5
        size = 0.2 + 0.4 * torch.rand(len(rows), 1, 1, generator=generator)
        disc = (across[:, None] - middle[:, 0]).square() + (across - middle[:, 1]).square() < size.square()
        colour = 2 * torch.rand(len(rows), 3, 1, 1, generator=generator)
        block = torch.where(disc[:, None], 0.3 * block + 0.7 * colour, block)
        low, high = block.amin((1, 2, 3), keepdim=True), block.amax((1, 2, 3), keepdim=True)
        images[rows] = ((block - low) / (high - low) * 255).to(torch.uint8)
    return images


def crop(image: Tensor, numbers: np.random.Generator, least: float = 0.8, most: float = 1.0) -> Tensor:
    """A part of each side, at any place."""
    height, width = image.shape[-2:]
    rows, columns = (int(np.ceil(side * numbers.uniform(least, most))) for side in (height, width))
    top, left = numbers.integers(height - rows + 1), numbers.integers(width - columns + 1)
    return image[:, top : top + rows, left : left + columns]


def compressed(image: Tensor) -> Tensor:
    """JPEG of quality 60."""
    pixels = image.permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(stream, "jpeg", quality=60)
    pixels = np.array(Image.open(stream))
    return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None]).permute(2, 0, 1)


def halved(image: Tensor) -> Tensor:
    """Half of each side."""
    small = F.interpolate(image[None].float(), scale_factor=0.5, mode="bicubic", antialias=True)
    return small[0].round().clamp(0, 255).to(torch.uint8)


CHANGES: dict[str, Change] = {
    "crop of 80 to 100 %": crop,
    "crop of 80 %": lambda image, numbers: crop(image, numbers, 0.8, 0.8),
    "JPEG of quality 60": lambda image, _: compressed(image),
    "mirrored": lambda image, _: image.flip(-1),
    "half the size": lambda image, _: halved(image),
    "mirrored crop as JPEG": lambda image, numbers: compressed(crop(image.flip(-1), numbers)),
}


def opened(folder: str) -> Iterator[Tensor]:
    """All images of a source, one by one."""
    for split in parts(folder, kind="image"):
        data = open_data(folder, split=split, kind="image")
        for row in range(len(data)):
            yield data.batch(torch.tensor([row]))["image"][0]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--images", type=int, default=100_000)
    words.add_argument("--side", type=int, default=64)
    words.add_argument("--planted", type=int, default=100)
    words.add_argument("--data")
    options = words.parse_args()
    numbers = np.random.default_rng(0)
    images = list(opened(options.data)) if options.data else made(options.images, options.side)
    if isinstance(images, list) and len(images) > options.images:
        images = [images[row] for row in numbers.choice(len(images), options.images, replace=False)]
    count, copies, planted = len(images), [], {}
    for name, change in CHANGES.items():
        for row in numbers.choice(count, options.planted, replace=False).tolist():
            planted[row, count + len(copies)] = name
            copies.append(change(images[row], numbers))

    before, processor = time.perf_counter(), time.process_time()
    blocks = images.split(256) if isinstance(images, Tensor) else (image[None] for image in images)
    small = torch.cat(
        [near_images.thumbnails(block) for block in [*blocks, *(copy[None] for copy in copies)]]
    )
    duplicates = near_images.near_pairs(small)
    seconds, used = time.perf_counter() - before, time.process_time() - processor
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{len(small):,} images: {seconds:.0f} s ({used:.0f} s of processors, {torch.get_num_threads()} threads), "
        f"at most {memory:.1f} GiB with the images themselves; threshold {duplicates.threshold:.3f}"
    )
    reported = {tuple(pair) for pair in duplicates.pairs.tolist()}
    source = {copy: row for row, copy in planted}
    alone = (
        {tuple(pair) for pair in near_images.near_pairs(small[:count]).pairs.tolist()}
        if options.data
        else set()
    )
    right = {pair for pair in reported if source.get(pair[0], pair[0]) == source.get(pair[1], pair[1])}
    real = {
        pair for pair in reported if (source.get(pair[0], pair[0]), source.get(pair[1], pair[1])) in alone
    }
    totals, hits = Counter(planted.values()), Counter(planted[pair] for pair in planted.keys() & reported)
    for name, total in totals.items():
        print(f"{name:<22} recall {hits[name] / total:.4f}")
    print(f"recall {len(planted.keys() & reported) / len(planted):.4f} of {len(planted):,} planted copies")
    wrong = len(reported) - len(right) - len(real - right)
    print(
        f"{len(right):,} pairs of one image, {wrong:,} of two: precision {len(right) / (len(right) + wrong):.4f}"
    )
    if options.data:
        print(
            f"{len(alone):,} pairs are found without planted copies, and are not counted here: look at them"
        )


if __name__ == "__main__":
    main()

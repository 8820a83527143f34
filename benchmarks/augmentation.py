"""Views of SimCLR per CPU-second, ours beside those of the libraries that are installed:

    python benchmarks/augmentation.py [--sizes 32 64 224] [--rounds 7] [--seconds 0.2]

Crop of 8 to 100 % of the area, flip, colour jitter of strength 0.5 at 32 pixels and 1 above, gray, and above 32 pixels
blur with probability 0.5, from random bytes of the size of the views, in one thread. All take turns; the median of the
rounds counts, in seconds of the process. lightly and torchvision get PIL images or tensors, albumentations arrays, one
by one, kornia and ours a batch. The results are floats, but albumentations' bytes are left as they are.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from unlabeled.parts import augment
from unlabeled.parts.augment import Views

BATCH = {32: 256, 64: 256, 224: 64}
CROP, GRAY, FLIP, JITTERED, SIGMAS = (0.08, 1.0), 0.2, 0.5, 0.8, (0.1, 2.0)
Act = Callable[[], Any]
"""Makes one view of each image of the batch; lightly makes two."""


def strengths(size: int) -> tuple[float, float, float, float]:
    """Of brightness, contrast, saturation and hue."""
    jitter = 0.5 if size == 32 else 1.0
    return 0.8 * jitter, 0.8 * jitter, 0.8 * jitter, 0.2 * jitter


def blur(size: int) -> float:
    """Probability of the blur."""
    return 0.0 if size == 32 else 0.5


def kernel(size: int) -> int:
    """Pixels that the blur spans."""
    return 2 * max(size // 20, 1) + 1


def ours(images: Tensor, size: int) -> dict[str, Act]:
    """The compiled loop and the tensor form, drawing included."""
    views, batch = (
        Views(size, jitter=0.5 if size == 32 else 1.0, gray=GRAY, blur=blur(size)),
        {"image": images},
    )
    return {
        "ours, fused": lambda: views(batch),
        "ours, tensor form": lambda: augment.apply_tensors(images, views.draw(batch)),
    }


def lightly(images: Tensor, size: int) -> dict[str, Act]:
    """Its SimCLRTransform without the normalisation."""
    from lightly.transforms import SimCLRTransform

    strength = 0.5 if size == 32 else 1.0
    make = SimCLRTransform(size, cj_strength=strength, gaussian_blur=blur(size), normalize=None)
    pictures = pil(images)
    return {"lightly": lambda: [make(picture) for picture in pictures]}


def torchvision(images: Tensor, size: int) -> dict[str, Act]:
    """Version 2 of its transforms, on PIL images and on tensors of bytes."""
    changes: list[Any] = [
        v2.RandomResizedCrop(size, CROP, antialias=True),
        v2.RandomHorizontalFlip(FLIP),
        v2.RandomApply([v2.ColorJitter(*strengths(size))], JITTERED),
        v2.RandomGrayscale(GRAY),
    ]
    if blur(size):
        changes.append(v2.RandomApply([v2.GaussianBlur(kernel(size), SIGMAS)], blur(size)))
    make = v2.Compose([*changes, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    pictures = pil(images)
    return {
        "torchvision v2, PIL": lambda: [make(picture) for picture in pictures],
        "torchvision v2, uint8": lambda: [make(image) for image in images],
    }


def kornia(images: Tensor, size: int) -> dict[str, Act]:
    """A batch of floats at once; all of its images change their colours in the same order."""
    import kornia.augmentation as kornia

    changes: list[Any] = [
        kornia.RandomResizedCrop((size, size), CROP),
        kornia.RandomHorizontalFlip(p=FLIP),
        kornia.ColorJitter(*strengths(size), p=JITTERED),
        kornia.RandomGrayscale(p=GRAY),
    ]
    if blur(size):
        changes.append(kornia.RandomGaussianBlur((kernel(size),) * 2, SIGMAS, p=blur(size)))
    make = kornia.AugmentationSequential(*changes, data_keys=["input"])
    return {"kornia": lambda: make(images / 255)}


def albumentations(images: Tensor, size: int) -> dict[str, Act]:
    """Arrays of bytes, one by one."""
    import albumentations as album
    import cv2

    cv2.setNumThreads(0)
    bright, contrast, saturation, hue = strengths(size)
    changes: list[Any] = [
        album.RandomResizedCrop((size, size), CROP),
        album.HorizontalFlip(p=FLIP),
        album.ColorJitter(
            (1 - bright, 1 + bright),
            (1 - contrast, 1 + contrast),
            (1 - saturation, 1 + saturation),
            (-hue, hue),
            JITTERED,
        ),
        album.ToGray(p=GRAY),
    ]
    if blur(size):
        changes.append(album.GaussianBlur(0, SIGMAS, blur(size)))
    make = album.Compose(changes)
    arrays = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in images]
    return {"albumentations": lambda: [make(image=array)["image"] for array in arrays]}


def pil(images: Tensor) -> list[Image.Image]:
    """The batch as PIL images."""
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def rate(act: Act, views: int, seconds: float) -> float:
    """Views per CPU-second, of at least that many seconds."""
    made, began = 0, time.process_time()
    while (cpu_seconds := time.process_time() - began) < seconds or not made:
        act()
        made += views
    return made / cpu_seconds


def measure(size: int, rounds: int, seconds: float) -> dict[str, float]:
    """Median rate of each, in turns."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (BATCH.get(size, 64), 3, size, size), dtype=torch.uint8)
    acts: dict[str, Act] = {}
    for library in (ours, lightly, torchvision, kornia, albumentations):
        try:
            acts |= library(images, size)
        except ImportError as error:
            print(f"{library.__name__} is left out: {error}")
    for act in acts.values():
        act()  # the first call compiles or fills caches
    rates: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(rounds):
        for name, act in acts.items():
            rates[name].append(rate(act, len(images) * (1 + (name == "lightly")), seconds))
    return {name: median(values) for name, values in rates.items()}


def agreement(size: int) -> float:
    """Largest difference of our two forms, in gray levels of 255."""
    images = torch.randint(0, 256, (64, 3, size, size), dtype=torch.uint8)
    parameters = Views(size, jitter=1.0, blur=blur(size)).draw({"image": images})
    return (
        255
        * (augment.apply(images, parameters) - augment.apply_tensors(images, parameters)).abs().max().item()
    )


def processor() -> str:
    """What the system calls it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 224])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tables = {size: measure(size, arguments.rounds, arguments.seconds) for size in arguments.sizes}
    names = list(dict.fromkeys(name for table in tables.values() for name in table))
    heads = [f"{size} px{' + blur' if blur(size) else ''}" for size in tables]
    print("\nViews per CPU-second; in brackets, how many times as many the fused form of ours makes.")
    print(f"\n| | {' | '.join(heads)} |")
    print("|---" * (len(heads) + 1) + "|")
    for name in names:
        cells = [
            f"{table[name]:,.0f} ({table['ours, fused'] / table[name]:.1f})" for table in tables.values()
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    differences = ", ".join(f"{agreement(size):.5f} at {size} px" for size in tables)
    print(f"\nLargest difference of our two forms, in gray levels of 255: {differences}.")
    print(
        f"{processor()}, {os.cpu_count()} cores, one thread, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, torch {torch.__version__}; median of {arguments.rounds} rounds."
    )


if __name__ == "__main__":
    main()

"""Folders of image files beside torchvision's ImageFolder: python benchmarks/folders.py [--photos 2000] [--tiny 200000]

Photos are made once, 500 x 375 pixels of coloured noise as smooth as photos are, in ten class folders. An epoch gives
out each photo once in batches of 128 as a random crop of 128 pixels: by `open_data` and `Views`, with its cache empty
before the first epoch, and by `ImageFolder` and a `DataLoader` with as many workers. A first epoch begins with opening
the folder, after all imports but those that are put off until they are needed. A second run is a new process that finds
the cache. Tiny files are grey PNGs of 8 x 8 pixels: what it takes to start on a folder with very many. Seconds on the
clock, in brackets those of processors, workers' included; memory is the most that the process itself held.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PROGRAM = """
import json, resource, sys, time
import torch
name, folder, size, epochs, workers = *sys.argv[1:3], *map(int, sys.argv[3:])
torch.set_num_threads(1)
def read(batches, images):
    count = sum(len(batch) for batch in batches)
    assert count == images, (count, images)
if name == "unlabeled":
    from unlabeled.data import open_data
    from unlabeled.parts.augment import Views
    views = Views(size, jitter=0, gray=0)
    opened = lambda: open_data(folder, workers=workers)
    batches = lambda data: (views(data.batch(rows)) for rows in torch.randperm(len(data)).split(128))
else:
    from torchvision import transforms
    from torchvision.datasets import ImageFolder
    steps = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    opened = lambda: ImageFolder(folder, transforms.Compose(steps))
    load = lambda data: torch.utils.data.DataLoader(data, 128, shuffle=True, num_workers=workers)
    batches = lambda data: (images for images, _ in load(data))
def times():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter(), sum(each.ru_utime + each.ru_stime for each in used)
marks = [times()]
data = opened()
for _ in range(epochs):
    read(batches(data), len(data))
    marks.append(times())
if not epochs:
    next(batches(data))
    marks.append(times())
seconds = [[after - before for before, after in zip(*pair)] for pair in zip(marks, marks[1:])]
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "memory": memory}))
"""


def make(folder: Path, count: int, height: int, width: int, suffix: str) -> None:
    """Write images in ten class folders, grey ones where they are PNG."""
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / str(number % 10) / f"{number:06}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (height // 4, width // 4, 3) if suffix == "jpg" else (height, width)
        image = Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))
        image.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)


def run(name: str, folder: Path, size: int, epochs: int, workers: int, cache: Path) -> dict[str, Any]:
    environment = os.environ | {"UNLABELED_CACHE": str(cache)}
    words = [sys.executable, "-c", PROGRAM, name, str(folder), *map(str, (size, epochs, workers))]
    return json.loads(
        subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Folders of image files beside torchvision's ImageFolder.")
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--tiny", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as below:
        photos, tiny = Path(below) / "photos", Path(below) / "tiny"
        make(photos, chosen.photos, 375, 500, "jpg")
        rows: dict[str, list[list[list[float]]]] = {"unlabeled": [], "ImageFolder": []}
        for number in range(chosen.rounds):
            for name, times in rows.items():
                cache = Path(below) / f"cache{number}"
                seconds = run(name, photos, 128, 2, chosen.workers, cache)["seconds"]
                again = run(name, photos, 128, 1, chosen.workers, cache)["seconds"]
                times.append(seconds + again)
        print(
            f"{chosen.photos:,} photos, {chosen.workers} workers, medians of {chosen.rounds} rounds in turns\n"
        )
        print("| | first epoch, s | later epochs, s | first epoch of a second run, s |\n|---|---|---|---|")
        middle = {name: np.median(times, axis=0) for name, times in rows.items()}
        middle["ratio"] = middle["ImageFolder"] / middle["unlabeled"]
        for name, values in middle.items():
            print(
                f"| {name} | {' | '.join(f'{clock:.2f} ({used:.2f})' for clock, used in values)} |",
                flush=True,
            )
        if chosen.tiny:
            make(tiny, chosen.tiny, 8, 8, "png")
            cache = Path(below) / "cache"
            print(f"\n{chosen.tiny:,} files of 8 x 8 pixels: seconds to the first batch, most memory in MiB")
            for name in ("unlabeled", *("unlabeled", "ImageFolder") * chosen.rounds):
                record = run(name, tiny, 8, 0, chosen.workers, cache)
                clock, used = record["seconds"][0]
                print(f"{name}: {clock:.1f} ({used:.1f}) s, {record['memory']:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()

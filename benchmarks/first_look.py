"""Three first figures of speed, medians of five: python benchmarks/first_look.py PATH/TO/cifar10

Views of SimCLR made by one thread; a data set opened the first time, decoding everything, and again, from the cache.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from unlabeled.parts.augment import Views

OPEN = """
import sys, time
from unlabeled.data import open_data
began = time.perf_counter()
data = open_data(sys.argv[1])
print(len(data), time.perf_counter() - began)
"""


def seconds(act: Callable[[], Any]) -> float:
    """Median duration of five calls after one to warm up."""
    act()
    durations = []
    for _ in range(5):
        began = time.process_time()
        act()
        durations.append(time.process_time() - began)
    return median(durations)


def opened(path: str, cache: str) -> tuple[int, float]:
    """Samples, and seconds to open them in a process of its own."""
    environment = {**os.environ, "UNLABELED_CACHE": cache}
    text = subprocess.run(
        [sys.executable, "-c", OPEN, path], env=environment, capture_output=True, text=True
    ).stdout
    samples, duration = text.split()
    return int(samples), float(duration)


def main() -> None:
    torch.set_num_threads(1)
    batch = {"image": torch.randint(0, 256, (256, 3, 32, 32), dtype=torch.uint8)}
    views = Views(32, crop=0.08, jitter=0.5, gray=0.2)
    print(f"{256 / seconds(lambda: views(batch)):,.0f} views per CPU-second at 32 px")
    first, later = [], []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as cache:
            first.append(opened(sys.argv[1], cache)[1])
            samples, duration = opened(sys.argv[1], cache)
            later.append(duration)
    print(f"{samples:,} images opened in {median(first):.1f} s the first time, {median(later):.2f} s after")


if __name__ == "__main__":
    main()

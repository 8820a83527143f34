"""Images decoded per second alone and beside busy programs: python benchmarks/decoding.py [--photos 2000] [--repeats 3]

Photos are made once: JPEG files of 500 x 375 pixels of coloured noise as smooth as photos are. Each measurement is a
new process that opens the folder without a cache, by as many threads as there are processors; its imports and its first
call, on a folder of ten photos, are not counted. The busy programs are two loops of Python that never wait. Alone and
beside them take turns, so that what else the machine does meets both. Images per second on the clock: medians over the
repeats, and every single one.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

BUSY = 2
PROGRAM = """
import sys, time
from unlabeled.data import open_data
warm, folder = sys.argv[1:]
open_data(warm, cache=False)
began = time.perf_counter()
print(len(open_data(folder, cache=False)) / (time.perf_counter() - began))
"""


def make(folder: Path, count: int) -> None:
    """Write photos of coloured noise."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        image = Image.fromarray(generator.integers(0, 256, (93, 125, 3), dtype=np.uint8))
        image.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{number:06}.jpg", quality=90)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Programs that take all they get of a core each."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def rate(warm: Path, folder: Path) -> float:
    """Images per second."""
    words = [sys.executable, "-c", PROGRAM, str(warm), str(folder)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rates: dict[int, list[float]] = {0: [], BUSY: []}
    with tempfile.TemporaryDirectory() as root:
        warm, folder = Path(root) / "warm", Path(root) / "photos"
        make(warm, 10)
        make(folder, arguments.photos)
        for _ in range(arguments.repeats):
            for count, measured in rates.items():
                with busy(count):
                    measured.append(rate(warm, folder))
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {arguments.photos:,} photos of 500 x 375 pixels"
    )
    for count, measured in rates.items():
        where = f"beside {count} busy loops" if count else "alone"
        each = ", ".join(f"{value:,.0f}" for value in measured)
        print(f"{where}: {statistics.median(measured):,.0f} images/s ({each})")


if __name__ == "__main__":
    main()

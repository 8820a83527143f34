"""Streamed images per second beside a loader of files: python benchmarks/streaming.py [--images 8000] [--repeats 3]
[--engines folder,tar,parquet,http]

JPEG files of 160 x 120 pixels, coloured noise as smooth as photos, are made once: as files in folders, and as 20 shards
of tar and of parquet. The loader of files is what trainings usually have, torch's DataLoader on torchvision's
ImageFolder, here with the decoder of streaming, so that only the engines differ. All have two worker processes, batches
of 256 in random order, and read all images once. Every measurement is a new process, and the engines take turns.
Reported are images per second on the clock behind the first 8 batches, seconds to the first batch, which for streaming
include opening the shards, and how many of these the process itself computed, and CPU seconds of all processes for
1,000 images: medians over the repeats; and of each engine the ratio to the loader of files in the same round, as
machines are busy now and then. Files, shards, indices and unpacked tables are in the page cache, and counted and
unpacked before; streaming from a server on this machine (http.server, a cache of a third) fetches every shard anew.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SHARDS, BATCH, WORKERS, WARM = 20, 256, 2, 8
PROGRAM = """
import itertools, json, resource, sys, time
import torch
engine, source, batch, workers, warm, cache = sys.argv[1:]
batch, workers, warm = int(batch), int(workers), int(warm)
if engine == "folder":
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
from unlabeled.data.image.decode import decode
from unlabeled.data.image.streamed import open_streamed
torch.set_num_threads(1)
usage = lambda: sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
spent, began = usage(), time.perf_counter()

def load(path):
    with open(path, "rb") as file:
        return decode(file.read(), 160, 3)

if engine == "folder":
    folder = ImageFolder(source, loader=load, transform=torch.from_numpy)
    coming = iter(DataLoader(folder, batch, shuffle=True, num_workers=workers, drop_last=True))
else:
    data = open_streamed(source, side=160, workers=workers, cache_size=cache or None)
    order = data.order(0, batch, data.pieces(batch, 1))
    batches = order[:].split(batch)
    data.announce(iter(batches), further=8)
    coming = map(data.batch, batches)
next(coming)
first, first_cpu = time.perf_counter() - began, sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - spent
for _ in range(warm - 1):
    next(coming)
start, count = time.perf_counter(), 0
for _ in coming:
    count += batch
seconds = time.perf_counter() - start
if engine != "folder":
    data.announce(iter(()))
del coming
cpu = 1000 * (usage() - spent) / (count + warm * batch)
print(json.dumps({"images/s": count / seconds, "first": first, "first cpu": first_cpu, "cpu": cpu}))
"""


def make(root: Path, count: int) -> dict[str, str]:
    """Write the images in three ways; sources by engine."""
    generator = np.random.default_rng(0)
    for name in ("files", "tar", "parquet"):
        (root / name).mkdir()
    for shard in range(SHARDS):
        rows = []
        (root / "files" / f"{shard:02}").mkdir()
        with tarfile.open(root / "tar" / f"{shard:02}.tar", "w") as archive:
            for row in range(count // SHARDS):
                noise = Image.fromarray(generator.integers(0, 256, (30, 40, 3), dtype=np.uint8))
                stream = io.BytesIO()
                noise.resize((160, 120), Image.Resampling.BICUBIC).save(stream, "jpeg", quality=85)
                content = stream.getvalue()
                (root / "files" / f"{shard:02}" / f"{row:05}.jpg").write_bytes(content)
                member = tarfile.TarInfo(f"{row:05}.jpg")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
                rows.append({"bytes": content, "path": None})
        pq.write_table(pa.table({"image": rows}), root / "parquet" / f"{shard:02}.parquet")
    return {
        "folder": str(root / "files"),
        "tar": str(root / "tar"),
        "parquet": str(root / "parquet" / "*.parquet"),
    }


def measure(engine: str, source: str, cache: str = "") -> dict[str, float]:
    words = [sys.executable, "-c", PROGRAM, engine, source, str(BATCH), str(WORKERS), str(WARM), cache]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engines", default="folder,tar,parquet,http")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["UNLABELED_CACHE"] = str(root / "cache")
        sources = make(root, arguments.images)
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root / "tar")))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sources["http"] = f"http://127.0.0.1:{server.server_address[1]}/{{00..{SHARDS - 1}}}.tar"
        sources = {engine: sources[engine] for engine in arguments.engines.split(",")}
        size = sum(path.stat().st_size for path in (root / "tar").iterdir())
        caches = {"http": str(size // 3)}
        print(
            f"{os.cpu_count()} cores, {arguments.images:,} images of {size / arguments.images / 1000:.1f} kB"
        )
        for engine, source in sources.items():  # which counts and unpacks
            measure(engine, source, caches.get(engine, ""))
        measured: dict[str, list[dict[str, float]]] = {engine: [] for engine in sources}
        for number in range(arguments.repeats):
            for engine, source in sources.items():
                measured[engine].append(measure(engine, source, caches.get(engine, "")))
                print(f"round {number + 1}, {engine}: {measured[engine][-1]}", flush=True)
        server.shutdown()
    for engine, runs in measured.items():
        rate, first, own, cpu = (
            statistics.median(run[key] for run in runs) for key in ("images/s", "first", "first cpu", "cpu")
        )
        line = f"{engine:8} {rate:7,.0f} images/s, first batch {first:.2f} s ({own:.2f} CPU s of the process itself)"
        line += f", {cpu:.2f} CPU s / 1,000"
        if "folder" in measured:
            rounds = [one["images/s"] / other["images/s"] for one, other in zip(runs, measured["folder"])]
            ratios = [other["cpu"] / one["cpu"] for one, other in zip(runs, measured["folder"])]
            each = ", ".join(f"{ratio:.2f}" for ratio in rounds)
            line += f", {statistics.median(rounds):.2f} times folder ({each}), by CPU {statistics.median(ratios):.2f}"
        print(line)


if __name__ == "__main__":
    main()

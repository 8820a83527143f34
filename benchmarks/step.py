"""One step of training, in processor seconds: how much of it is the pretext, and what the loop adds.

    python benchmarks/step.py DATA [--rounds 5] [--steps 5]

DATA is a folder with CIFAR-10 as parquet. SimCLR with batches of 256 images of 32 pixels, in memory as bytes. Taking
turns, in one thread: `unlabeled.pretrain`; the same method, data and optimizer in a bare loop of torch; and lightly's
documented loop (its transform of PIL images one by one in a `DataLoader` without workers, its head and loss, one pass
for each view, SGD) with the same network, in a process of its own, where torch gets its memory as it does without us.
A step lasts from the start of one forward pass to that of the next. The pretext is both views and the loss with its
gradient, each timed alone.

The tiny nets show what the loop adds: SimCLR with the smallest encoder on images of 8 pixels, and two linear layers
with a loss of one operation.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

import unlabeled
from unlabeled import encoders
from unlabeled.data import Data, open_data, open_splits
from unlabeled.method import Batch, Method
from unlabeled.methods.simclr import SimCLR
from unlabeled.parts.info_nce import nt_xent

RATE, DECAY, SKIPPED = 1e-3, 0.05, 2
starts: list[float] = []
"""Processor time at the start of each forward pass."""


class Timed(SimCLR):
    def forward(self, batch: Batch) -> Tensor:
        starts.append(time.process_time())
        return super().forward(batch)


class Square(Method):
    """Next to nothing to compute."""

    def forward(self, batch: Batch) -> Tensor:
        starts.append(time.process_time())
        return self.encoder(self.encoder.inputs(batch)).square().mean()


def linear() -> nn.Module:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 32))
    return encoders.wrap(layers, in_channels=3, image_size=8)


def durations() -> list[float]:
    """Of the steps since the last call, without the first ones."""
    times = [after - before for before, after in pairwise(starts)]
    starts.clear()
    return times[SKIPPED:]


def ours(method: Method, data: Data, batch: int, steps: int) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        unlabeled.pretrain(
            method, data, out=Path(folder) / "run", steps=steps, batch_size=batch, lr=RATE, weight_decay=DECAY,
            quiet=True,
        )  # fmt: skip
    return durations()


def bare(method: Method, data: Data, batch: int, steps: int) -> list[float]:
    method.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    matrices = [
        parameter for parameter in method.parameters() if parameter.requires_grad and parameter.ndim > 1
    ]
    others = [
        parameter for parameter in method.parameters() if parameter.requires_grad and parameter.ndim < 2
    ]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    for rows in torch.randperm(len(data))[: steps * batch].view(steps, batch):
        loss = method(data.batch(rows))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return durations()


def lightly(name: str, data: Data, batch: int, steps: int) -> list[float]:
    """Its documented loop, with the network of an encoder of ours."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    images = data.batch(torch.arange(batch * (steps + 1)))["image"]
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    samples: Any = Pictures(pictures, SimCLRTransform(input_size=32, gaussian_blur=0.0))
    loader = torch.utils.data.DataLoader(samples, batch_size=batch, shuffle=True, drop_last=True)
    network = encoders.fitted(name, data).trunk
    head = SimCLRProjectionHead(network.dim, network.dim, 128)  # type: ignore[arg-type]
    model, criterion = nn.Sequential(network, head), NTXentLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)
    for (first, second), _ in loader:
        starts.append(time.process_time())
        loss = criterion(model(first), model(second))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return durations()


def lightly_alone(name: str, folder: str, steps: int) -> list[float]:
    """The same in a process that never imports our training loop."""
    command = [sys.executable, __file__, folder, "--steps", str(steps), "--lightly-alone", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


class Pictures(torch.utils.data.Dataset[Any]):
    """PIL images as torchvision's data sets give them out."""

    def __init__(self, pictures: list[Image.Image], transform: Callable[[Image.Image], Any]) -> None:
        self.pictures, self.transform = pictures, transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.pictures[index]), 0


def pretext(method: SimCLR, batch: Batch) -> float:
    """Processor seconds of both views and of the loss with its gradient."""
    began = time.process_time()
    method.views(batch), method.views(batch)
    views = [torch.randn(len(batch["image"]), 128, requires_grad=True) for _ in range(2)]
    nt_xent(*views, method.temperature).backward()
    return time.process_time() - began


def compare(name: str, folder: str, data: Data, rounds: int, steps: int) -> str:
    """A row of the table of one encoder."""

    def fresh() -> Timed:
        return Timed(encoders.fitted(name, data))

    turns: dict[str, Callable[[], list[float]]] = {
        "ours": lambda: ours(fresh(), data, 256, steps + SKIPPED + 1),
        "bare": lambda: bare(fresh(), data, 256, steps + SKIPPED + 1),
        "pretext": lambda: [pretext(method, batch) for _ in range(steps)],
    }
    if importlib.util.find_spec("lightly"):
        turns["lightly"] = lambda: lightly_alone(name, folder, steps)
    method, batch = fresh(), data.batch(torch.arange(256))
    pretext(method, batch)  # the first call compiles
    times: dict[str, list[float]] = {turn: [] for turn in turns}
    for _ in range(rounds):
        for turn, act in turns.items():
            times[turn] += act()
    middle = {turn: 1000 * median(values) for turn, values in times.items()}
    row = f"| {name} | {middle['ours']:.0f} | {middle['pretext']:.0f} | {middle['pretext'] / middle['ours']:.1%} "
    row += f"| {middle['bare']:.0f} | {middle['ours'] / middle['bare']:.2f} "
    if "lightly" in middle:
        row += f"| {middle['lightly']:.0f} | {middle['lightly'] / middle['ours']:.2f} |"
    return row


def added(
    build: Callable[[], Method], data: Data, batch: int, rounds: int, steps: int
) -> tuple[float, float]:
    """Median microseconds of a step in our loop and in a bare one."""
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(rounds):
        times["ours"] += ours(build(), data, batch, steps)
        times["bare"] += bare(build(), data, batch, steps)
    return 1e6 * median(times["ours"]), 1e6 * median(times["bare"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--encoders", nargs="*", default=["conv4", "resnet10"])
    parser.add_argument("--lightly-alone", metavar="ENCODER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if arguments.lightly_alone:
        train = open_splits(arguments.data)[0]
        print(json.dumps(lightly(arguments.lightly_alone, train, 256, arguments.steps + SKIPPED + 1)))
        return
    generator = torch.Generator().manual_seed(0)
    small = open_data(torch.randint(0, 256, (256 * 64, 3, 8, 8), dtype=torch.uint8, generator=generator))
    print("| tiny net, batch | ours, us | bare torch, us | ratio |\n|---|---|---|---|")
    tiny: dict[str, tuple[Callable[[], Method], int]] = {
        "two linear layers, 64": (lambda: Square(linear()), 64),
        "SimCLR, conv4 at 8 pixels, 64": (lambda: Timed(encoders.build("conv4", image_size=8)), 64),
    }
    for name, (build, batch) in tiny.items():
        mine, theirs = added(build, small, batch, arguments.rounds, 20 * arguments.steps)
        print(f"| {name} | {mine:.0f} | {theirs:.0f} | {mine / theirs:.2f} |", flush=True)
    train = open_splits(arguments.data)[0]
    print(
        "\n| encoder | our step, ms | pretext, ms | its share | bare torch, ms | ours / bare | lightly, ms "
        "| lightly / ours |\n|---|---|---|---|---|---|---|---|"
    )
    for name in arguments.encoders:
        print(compare(name, arguments.data, train, arguments.rounds, arguments.steps), flush=True)
    print(
        f"\nOne thread, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, {arguments.rounds} rounds."
    )


if __name__ == "__main__":
    main()

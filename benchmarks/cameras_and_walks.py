"""Several cameras and walks: what time-contrastive networks and environment predictive coding learn in a given time.

    python benchmarks/cameras_and_walks.py [--seconds 150] [--parts multi,single,poses] [--threads 1] [--out FILE]

Seconds are processor seconds of training, for each part:

- multi, single: the built-in `orbit`, 120 scenes; alignment on 20 others with other cameras (guessing: 0.333);
- poses, time: the built-in `rooms`, 64 walks; hidden zones of 16 others are found with poses, and by time alone;
- vizdoom: the same two on walks in ViZDoom, recorded once below runs/vizdoom (needs the package `vizdoom`);
- motion, motion-vizdoom: egomotion on the same walks; motions of unseen walks are put into 20 bins, beside the answer
  that is the most frequent in training.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unlabeled import encoders, methods
from unlabeled.data import Data, open_data
from unlabeled.evaluation.measurement import Measurement, interval_of
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.tasks import alignment, factors, zones
from unlabeled.method import Method
from unlabeled.methods.egomotion import NAMES, Egomotion

WALKS, STEPS = {"train": 48, "test": 12}, 120
FRAMES_APART = 8
"""Of so many frames one is used to probe factors: the others look like it."""
PARTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "multi": ("time_contrastive", "orbit", {}),
    "single": ("time_contrastive", "orbit", {"views": "single"}),
    "poses": ("trajectory_unmasking", "rooms", {}),
    "time": ("trajectory_unmasking", "rooms", {"pose": False}),
    "vizdoom": ("trajectory_unmasking", "runs/vizdoom", {}),
    "vizdoom-time": ("trajectory_unmasking", "runs/vizdoom", {"pose": False}),
    "motion": ("egomotion", "rooms", {}),
    "motion-vizdoom": ("egomotion", "runs/vizdoom", {}),
}
PAIRS = 8
"""How often pairs are drawn from each trajectory, to recognise motions."""


def trained(name: str, data: Data, seconds: float, options: dict[str, Any]) -> tuple[Method, int]:
    """A method after so many processor seconds of training, and its steps; the rate falls as half a cosine."""
    kind = methods.load(name)
    torch.manual_seed(0)
    method = kind(encoders.build("conv4", image_size=data.shape["image_size"]), **options)
    read = method.training_view(data)
    method.prepare(read)
    rates = {key: kind.defaults[key] for key in ("lr", "weight_decay")}
    optimizer = torch.optim.AdamW(method.parameters(), **rates)
    began, step, cpu_seconds = time.process_time(), 0, 0.0
    while cpu_seconds < seconds:
        torch.manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = rates["lr"] * (1 + math.cos(math.pi * cpu_seconds / seconds)) / 2
        optimizer.zero_grad()
        method.train()(read.batch(torch.randperm(len(read))[: kind.defaults["batch_size"]])).backward()  # type: ignore[union-attr]
        optimizer.step()
        step, cpu_seconds = step + 1, time.process_time() - began
    return method.eval(), step


def judged(name: str, method: Method, train: Data, test: Data) -> list[Measurement]:
    """What the tasks say of a method, and how well the factors can be read from its encoder."""
    model, encoder = EvaluatedModel(method.encoder, method), EvaluatedModel(method.encoder)
    frames = (method.encoder.evaluation_view(data) for data in (train, test))
    some = tuple(images.subset(torch.arange(0, len(images), FRAMES_APART)) for images in frames)
    if isinstance(method, Egomotion):
        return motions(method, train, test) + factors.TASK(encoder, some)
    task = alignment if name == "time_contrastive" else zones
    return task.TASK(model, test) + factors.TASK(encoder, some)


@torch.no_grad()
def motions(method: Egomotion, train: Data, test: Data) -> list[Measurement]:
    """How many motions of unseen walks are put into the right bin, by component; walks are the independent units."""
    method.eval()
    bins = torch.cat([method.bin(moved) for _, moved in motion_pairs(method, train)])
    frequent = torch.stack([part.mode().values for part in bins.unbind(1)])
    right: dict[str, list[Tensor]] = {"unlabeled": [], "most frequent": []}
    for images, moved in motion_pairs(method, test):
        right["unlabeled"].append((method.logits(images).argmax(2) == method.bin(moved)).float())
        right["most frequent"].append((frequent == method.bin(moved)).float())
    walks = method.training_view(test).groups  # type: ignore[arg-type]
    groups = (
        (torch.arange(len(test)) if walks is None else walks).repeat(PAIRS).repeat_interleave(method.pairs)
    )
    return [
        Measurement(
            "motions",
            features,
            torch.cat(hits)[None, :, part],
            unit=f"{name}, bins",
            groups=groups,
            bounds=(0.0, 1.0),
        )
        for part, name in enumerate(NAMES)
        for features, hits in right.items()
    ]


def motion_pairs(method: Egomotion, data: Data) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of images and their motions, the same number from each trajectory, the same in each call."""
    view = method.training_view(data)  # type: ignore[arg-type]
    torch.manual_seed(0)
    for rows in torch.arange(len(view)).repeat(PAIRS).split(16):
        yield method.draw(view.batch(rows))


def record_vizdoom(folder: Path) -> None:
    from unlabeled.worlds.vizdoom_walks import record

    for split, count in WALKS.items():
        if not (folder / split).is_dir():
            began = time.perf_counter()
            record(folder / split, count, STEPS, ("train", "test").index(split), size=32)
            print(
                f"recorded {count} walks of {STEPS} steps in {time.perf_counter() - began:.0f} s", flush=True
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="a file for the numbers, as JSON")
    parser.add_argument(
        "--images", default="digits", help="folder of images for motion-pans [default: digits]"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    records = []
    for part in arguments.parts.split(","):
        name, source, options = PARTS[part]
        if source == "runs/vizdoom":
            try:
                record_vizdoom(Path(source))
            except ValueError as error:
                print(f"{part}: left out, {error}")
                continue
        kind = methods.load(name).kind
        train, test = (open_data(source, split=split, kind=kind) for split in ("train", "test"))
        method, steps = trained(name, train, arguments.seconds, options)
        print(f"\n{part}: {name} on {source}, {steps} steps in {arguments.seconds:g} processor seconds")
        for measurement in judged(name, method, train, test):
            whole = interval_of(measurement)
            value, low, high = whole.value, whole.low, whole.high
            layer = measurement.layer or "encoder"
            print(
                f"  {measurement.unit:32} {layer:10} {measurement.features:18} {value:7.3f} "
                + ("no interval" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"),
                flush=True,
            )
            records.append(
                {
                    "part": part,
                    "steps": steps,
                    "seconds": arguments.seconds,
                    "unit": measurement.unit,
                    "layer": layer,
                }
                | {"features": measurement.features, "value": value, "low": low, "high": high}
            )
    if arguments.out:
        arguments.out.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()

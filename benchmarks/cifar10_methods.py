"""Every image method on CIFAR-10 with one small budget, beside its controls.

    python benchmarks/cifar10_methods.py DATA --out runs/benchmark [--methods simclr,byol] [--threads 1]
    python benchmarks/cifar10_methods.py DATA --out runs/benchmark --table      # only print what is there

DATA is a folder with CIFAR-10 as parquet. Every method trains the same ResNet-10 on the same 10,000 training images
for about the same processor time, at most 10 minutes. Probes use those 10,000
images with their labels, and are measured on all 10,000 test images.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import unlabeled
from unlabeled import evaluate
from unlabeled.data import open_splits

IMAGES = 10_000
CONTROLS = ("raw", "random", "rescaled")
VIEWS = {"crop": 0.2, "jitter": 0.5, "gray": 0.2}
RECIPES: dict[str, dict[str, Any]] = {
    "autoencoder": {"epochs": 24},
    "denoising": {"epochs": 24},
    "context_encoder": {"epochs": 20},
    "colorization": {"epochs": 17, "grid": 20},
    "rotnet": {"epochs": 11},
    "jigsaw": {"epochs": 40},
    "simclr": {"epochs": 22, **VIEWS},
    "moco": {"epochs": 32, "queue": 2048, "momentum": 0.99, **VIEWS},
    "byol": {"epochs": 18, "momentum": 0.97, **VIEWS},
    "swav": {"epochs": 15, "prototypes": 128},
    "deepcluster": {"epochs": 36},
}
"""Epochs are chosen so that every run costs about as much: an image is one pass here, two to eight views there."""


def train_and_judge(name: str, train: Any, test: Any, out: Path) -> None:
    """One run and its scores, as JSON beside it."""
    began = time.process_time()
    run = unlabeled.pretrain(
        name, train, out=out / name, encoder="resnet10", batch_size=256, lr=2e-3, **RECIPES[name]
    )
    trained = time.process_time() - began
    scores = evaluate(run, (train, test), probe=("knn", "linear"), controls=CONTROLS)
    scores.to_json(run.path / "scores.json")
    about = {"seconds": round(trained), "epochs": RECIPES[name]["epochs"], "verdict": scores.verdict()}
    (run.path / "about.json").write_text(json.dumps(about))
    print(name, about, flush=True)


def cell(record: dict[str, Any]) -> str:
    return f"{100 * record['value']:.1f} [{100 * record['low']:.1f}, {100 * record['high']:.1f}]"


def table(out: Path) -> str:
    """Markdown table of all runs found, best linear probe first."""
    rows, controls = [], {}
    for folder in sorted(path.parent for path in out.glob("*/about.json")):
        records = unlabeled.load(folder).scores
        about = json.loads((folder / "about.json").read_text())
        found = {
            (record["features"], record["probe"]): record for record in records if record["layer"] is None
        }
        for control in CONTROLS:
            controls.setdefault(control, (found[control, "knn"], found[control, "linear"]))
        beaten = tuple(
            all(found[c, probe]["margin_low"] > 0 for c in CONTROLS) for probe in ("knn", "linear")
        )
        words = {
            (True, True): "both",
            (True, False): "kNN only",
            (False, True): "linear only",
            (False, False): "no",
        }
        line = (
            f"| {folder.name} | {about['epochs']} | {about['seconds']} | {cell(found['unlabeled', 'knn'])} | "
        )
        line += f"{cell(found['unlabeled', 'linear'])} | {words[beaten]} |"
        rows.append((found["unlabeled", "linear"]["value"], line))
    lines = [
        "| method | epochs | CPU seconds | kNN-20 | linear | beats all controls |",
        "|---|---|---|---|---|---|",
    ]
    lines += [line for _, line in sorted(rows, reverse=True)]
    names = {"raw": "*raw pixels*", "random": "*random weights*", "rescaled": "*rescaled random weights*"}
    lines += [
        f"| {names[c]} | - | - | {cell(knn)} | {cell(linear)} | |" for c, (knn, linear) in controls.items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--methods", default=",".join(RECIPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the table of the runs that are there")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.table:
        train, test = open_splits(arguments.data)
        chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:IMAGES]
        for name in arguments.methods.split(","):
            train_and_judge(name, train.subset(chosen), test, arguments.out)
    print(table(arguments.out))


if __name__ == "__main__":
    main()

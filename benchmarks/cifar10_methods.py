"""Every image method on CIFAR-10 with one small budget, beside its controls.

    python benchmarks/cifar10_methods.py DATA --out runs/benchmark [--methods simclr,byol] [--threads 1]
    python benchmarks/cifar10_methods.py DATA --out runs/benchmark --table      # only print what is there

DATA is a folder with CIFAR-10 as parquet. Of 10,000 training images every method trains on 8,000, twice for the same
number of epochs: with its plain defaults, and with the options in `OPTIONS`. The linear probe on the other 2,000, which
no training saw, chooses between the two; the 10,000 test images choose nothing. Probes learn from the labels of the
8,000. Both runs are judged on the test images, and both are printed.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import unlabeled
from unlabeled.data import Data, open_splits
from unlabeled.evaluation import evaluate

IMAGES, CHOOSING = 10_000, 2_000
CONTROLS = ("raw", "random", "rescaled")
VIEWS = {"crop": 0.2, "jitter": 0.5, "gray": 0.2}
EPOCHS = {
    "autoencoder": 18,
    "denoising": 18,
    "context_encoder": 15,
    "colorization": 13,
    "rotnet": 8,
    "simclr": 16,
    "moco": 24,
    "byol": 13,
    "swav": 11,
    "deepcluster": 27,
    "jigsaw": 30,
}
"""Chosen so that every run costs about as much: an image is one pass here, two to eight views there."""
OPTIONS: dict[str, dict[str, Any]] = {
    "colorization": {"grid": 20},
    "simclr": VIEWS,
    "moco": {"queue": 2048, "momentum": 0.99, **VIEWS},
    "byol": {"momentum": 0.97, **VIEWS},
    "swav": {"prototypes": 128},
}
"""What is tried instead of the plain defaults, beside a learning rate of 2e-3 for every method."""


def settings(name: str, variant: str) -> dict[str, Any]:
    """What differs from the plain defaults."""
    return {} if variant == "defaults" else {"lr": 2e-3, **OPTIONS.get(name, {})}


def train(name: str, variant: str, images: Data, out: Path) -> None:
    """One run; its processor time is written beside it."""
    folder = out / name / variant
    if (folder / "seconds.json").exists():
        return
    began = time.process_time()
    unlabeled.pretrain(name, images, out=folder, epochs=EPOCHS[name], **settings(name, variant))
    (folder / "seconds.json").write_text(json.dumps(round(time.process_time() - began)))


def judge(folder: Path, images: Data, choosing: Data, test: Data) -> None:
    """Accuracy on the images that choose, and scores on the test images."""
    run = unlabeled.load(folder)
    held_out = evaluate(run, (images, choosing), probe="linear", controls=())
    (folder / "choosing.json").write_text(json.dumps(held_out.best["value"]))
    scores = evaluate(run, (images, test), probe=("knn", "linear"), controls=CONTROLS)
    scores.to_json(folder / "test.json")
    print(folder, held_out.best["value"], scores.verdict(), flush=True)


def cell(record: dict[str, Any]) -> str:
    return f"{100 * record['value']:.1f} [{100 * record['low']:.1f}, {100 * record['high']:.1f}]"


def of_run(folder: Path) -> tuple[dict[tuple[str, str], dict[str, Any]], float]:
    """Records on the test images by features and probe, and the accuracy on those that choose."""
    from unlabeled.evaluation import Scores

    records = {
        (record["features"], record["probe"]): record for record in Scores.from_json(folder / "test.json")
    }
    return records, json.loads((folder / "choosing.json").read_text())


def table(out: Path) -> str:
    """Markdown table of all methods, best linear probe of the chosen options first."""
    rows, controls = [], {}
    for folder in sorted(path.parent.parent for path in out.glob("*/tuned/test.json")):
        plain, plain_choice = of_run(folder / "defaults")
        tuned, tuned_choice = of_run(folder / "tuned")
        options = ", ".join(f"{key} {value:g}" for key, value in settings(folder.name, "tuned").items())
        best, words = (tuned, options) if tuned_choice > plain_choice else (plain, "defaults")
        for control in CONTROLS:
            controls.setdefault(control, (best[control, "knn"], best[control, "linear"]))
        won = {p: all(best[c, p]["margin_low"] > 0 for c in CONTROLS) for p in ("knn", "linear")}
        beaten = " and ".join(probe for probe, better in won.items() if better) or "no"
        seconds = json.loads((folder / "defaults" / "seconds.json").read_text())
        line = (
            f"| {folder.name} | {EPOCHS[folder.name]} | {seconds} | {cell(plain['unlabeled', 'knn'])} | "
            f"{cell(plain['unlabeled', 'linear'])} | {100 * plain_choice:.1f} / {100 * tuned_choice:.1f}: {words} | "
            f"{cell(best['unlabeled', 'knn'])} | {cell(best['unlabeled', 'linear'])} | {beaten} |"
        )
        rows.append((best["unlabeled", "linear"]["value"], line))
    lines = [
        "| method | epochs | CPU seconds | defaults: kNN-20 | defaults: linear | "
        "held-out images choose (defaults / other) | chosen: kNN-20 | chosen: linear | beats all controls |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [line for _, line in sorted(rows, reverse=True)]
    names = {"raw": "*raw pixels*", "random": "*random weights*", "rescaled": "*rescaled random weights*"}
    lines += [
        f"| {names[c]} | - | - | {cell(knn)} | {cell(linear)} | - | {cell(knn)} | {cell(linear)} | |"
        for c, (knn, linear) in controls.items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--methods", default=",".join(EPOCHS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--train-only", action="store_true", help="judge nothing yet")
    parser.add_argument("--table", action="store_true", help="print the table of the runs that are there")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.table:
        everything, test = open_splits(arguments.data)
        rows = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))[:IMAGES]
        images, choosing = everything.subset(rows[CHOOSING:]), everything.subset(rows[:CHOOSING])
        for name in arguments.methods.split(","):
            for variant in ("defaults", "tuned"):
                train(name, variant, images, arguments.out)
                if not arguments.train_only:
                    judge(arguments.out / name / variant, images, choosing, test)
    print(table(arguments.out))


if __name__ == "__main__":
    main()

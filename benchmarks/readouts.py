"""Which features of a trained network are best: maps, grids and scalings, judged on training images that were held out.

    python benchmarks/readouts.py PATH/TO/cifar10 --out runs/readouts [--methods simclr,rotnet] [--minutes 2]
    python benchmarks/readouts.py PATH/TO/cifar10 --out runs/readouts --table

Methods train with their plain defaults on 8,000 training images; probes learn from the labels of the same images and
are scored on 2,000 other training images. The test images are never read, so that these numbers may choose defaults.
"""

import argparse
import json
from pathlib import Path

import torch

import unlabeled
from unlabeled.data import open_data
from unlabeled.evaluation import evaluate

METHODS = "simclr,moco,byol,barlow_twins,rotnet,jigsaw,colorization,autoencoder"
MAPS = ("output", "layer1:2x2", "layer2:2x2", "layer3:2x2", "layer4:2x2")
SCALINGS = ("none", "standardize", "whiten", "views")
COLUMNS = (("knn", "all"), ("linear", "all"), ("linear", 10))


def judge(method: str, data: Path, out: Path, minutes: float) -> None:
    """Train one method and score all its features; what is there already stays."""
    train = open_data(data, kind="image", split="train")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    learned, held_out = train.subset(order[:8000]), train.subset(order[8000:10_000])
    target = out / f"{method}.json"
    scores = json.loads(target.read_text()) if target.exists() else {}
    wanted = [f"{one}:{scaling}" for one in MAPS for scaling in SCALINGS]
    if all(features in scores for features in wanted):
        return
    run = unlabeled.pretrain(
        method, learned, encoder="resnet10", minutes=minutes, out=out / method, quiet=True, resume=True
    )
    for features in wanted:
        if features not in scores:
            columns = evaluate(
                run, (learned, held_out), labels_per_class=("all", 10), controls="none", features=features
            )
            scores[features] = {
                f"{record['probe']} {record['labels_per_class']}": record["value"]
                for record in columns.records
            }
            target.write_text(json.dumps(scores, indent=1))
            print(method, features, scores[features], flush=True)


def table(out: Path) -> str:
    """For each method its output and the three features with the highest mean of the columns."""
    lines = ["| method | features | kNN | linear | linear, 10 labels per class |", "|---|---|---|---|---|"]
    for file in sorted(out.glob("*.json")):
        scores = json.loads(file.read_text())
        ranked = sorted(scores, key=lambda features: -sum(scores[features].values()))
        for features in dict.fromkeys(["output:none", *ranked[:3]]):
            cells = " | ".join(
                f"{100 * scores[features][f'{probe} {labels}']:.1f}" for probe, labels in COLUMNS
            )
            lines.append(f"| `{file.stem}` | `{features.removesuffix(':none')}` | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/readouts"))
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for method in () if options.table else options.methods.split(","):
        judge(method, options.data, options.out, options.minutes)
    print(table(options.out))


if __name__ == "__main__":
    main()

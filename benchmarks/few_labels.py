"""Few labels, four kinds of learning: unsupervised, self-supervised, semi-supervised and supervised.

    python benchmarks/few_labels.py digits PATH/TO/cifar10 PATH/TO/kmnist10k --out runs/few_labels
    python benchmarks/few_labels.py --print --out runs/few_labels

Each data set has a network that SimCLR trains without labels, and everything else learns from the same images and the
same draws of labels. What is finished is in --out: the same command continues after an interruption. The table is
printed as markdown.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch

import unlabeled
from unlabeled.data import Data, open_splits
from unlabeled.evaluation import evaluate
from unlabeled.evaluation.scores import Scores

IMAGES, TESTED, COUNTS, DRAWS = 5000, 2000, (1, 10, 100), 3
"""Most training and test images, labels per class, and draws of these."""
CHARACTERS: dict[str, Any] = {"crop": 0.4, "jitter": 0.5, "gray": 0.0, "flip": 0.0, "degrees": 15.0}
VIEWS = {"digits": CHARACTERS, "kmnist10k": CHARACTERS}
"""Options of SimCLR's views: characters have no colour and must not be mirrored."""
STEPS = {"digits": 500}
TRAINING: dict[str, Any] = {"encoder": "conv4", "batch_size": 128, "lr": 2e-3, "quiet": True}
PARTS: dict[str, dict[str, Any]] = {
    "linear": {"probe": "linear", "controls": ("raw", "baselines", "random", "supervised")},
    "others": {"probe": ("mahalanobis", "semi_supervised"), "controls": "pca"},
}
"""What is measured together, and kept together."""
ROWS = [
    ("unsupervised", "PCA, linear classifier", "linear", "pca"),
    ("unsupervised", "Gaussian mixture, linear classifier", "linear", "gaussian_mixture"),
    ("unsupervised", "K-means codes, linear classifier", "linear", "kmeans_codes"),
    ("self-supervised", "SimCLR, linear classifier", "linear", "unlabeled"),
    ("self-supervised", "SimCLR, Mahalanobis distance", "mahalanobis", "unlabeled"),
    ("semi-supervised", "label propagation on PCA", "label_propagation", "pca"),
    ("semi-supervised", "pseudo-labels on PCA", "pseudo_labels", "pca"),
    ("self- and semi-supervised", "label propagation on SimCLR", "label_propagation", "unlabeled"),
    ("self- and semi-supervised", "pseudo-labels on SimCLR", "pseudo_labels", "unlabeled"),
    ("supervised", "the same network, trained on the labels only", "linear", "supervised"),
    ("*control*", "*raw pixels, linear classifier*", "linear", "raw"),
    ("*control*", "*random weights, linear classifier*", "linear", "random"),
]
"""Kind of learning, its row, and where the record is: probe and features."""


def some(data: Data, most: int) -> Data:
    """A random part of data, drawn with seed 0; all of it where there is no more."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    return data.subset(order[:most].msort()) if len(data) > most else data


def measure(source: str, out: Path) -> None:
    """Train and score what is not in the folder of a data set yet."""
    name, folder = Path(source).name, out / Path(source).name
    missing = [part for part in PARTS if not (folder / f"{part}.json").is_file()]
    if not missing:
        return
    train, test = (some(data, most) for data, most in zip(open_splits(source), (IMAGES, TESTED)))
    views = VIEWS.get(name, {})
    began = time.process_time()
    run = unlabeled.pretrain(
        "simclr", train, out=folder / "simclr", resume=(folder / "simclr").exists(),
        steps=STEPS.get(name, 250), **TRAINING, **views,
    )  # fmt: skip
    print(f"{name}: SimCLR, {run.step} steps, {time.process_time() - began:.0f} CPU seconds", flush=True)
    for part in missing:
        began = time.process_time()
        words = {"labels_per_class": COUNTS, "draws": DRAWS, "device": "cpu"}
        scores = evaluate(run, (train, test), **PARTS[part], **words)
        scores.to_json(folder / f"{part}.json")
        print(f"{name}: {part}, {time.process_time() - began:.0f} CPU seconds", flush=True)


def cells(folder: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Records of a data set by probe, features and labels per class."""
    records = [record for part in PARTS for record in Scores.from_json(folder / f"{part}.json")]
    return {(one["probe"], one["features"], one["labels_per_class"]): one for one in records}


def table(out: Path) -> str:
    """All data sets that are finished, side by side, as markdown."""
    folders = [
        one for one in sorted(out.iterdir()) if all((one / f"{part}.json").is_file() for part in PARTS)
    ]
    results = {folder.name: cells(folder) for folder in folders}
    heads = [f"{name}, {count} {'label' if count == 1 else 'labels'}" for name in results for count in COUNTS]
    lines = [f"| learning | features and classifier | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    for kind, row, probe, features in ROWS:
        values = [_cell(own.get((probe, features, count))) for own in results.values() for count in COUNTS]
        lines.append(f"| {kind} | {row} | {' | '.join(values)} |")
    about = {folder.name: Scores.from_json(folder / "linear.json").about for folder in folders}
    sizes = [
        f"{name}: {one['training_samples']:,} and {one['test_samples']:,}" for name, one in about.items()
    ]
    return "\n".join([*lines, "", f"Training and test images: {'; '.join(sizes)}."])


def _cell(record: dict[str, Any] | None) -> str:
    if record is None:
        return "-"
    value = f"{100 * record['value']:.1f}"
    if record["std"] is not None:
        return f"{value} ± {100 * record['std']:.1f}"
    return f"{value} [{100 * record['low']:.1f}, {100 * record['high']:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="*", help="digits, or folders of labelled images")
    parser.add_argument("--out", type=Path, default=Path("runs/few_labels"))
    parser.add_argument("--print", action="store_true", help="print the table of what is finished")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for source in () if arguments.print else arguments.data:
        measure(source, arguments.out)
    print(table(arguments.out))


if __name__ == "__main__":
    main()

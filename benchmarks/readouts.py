"""Which features of trained networks are best: maps, grids and scalings, judged on training images that were held out.

    python benchmarks/tables.py image_methods PATH/TO/cifar10 --out runs/tables     # trains the networks
    python benchmarks/readouts.py PATH/TO/cifar10 --out runs/tables [--methods simclr,rotnet]
    python benchmarks/readouts.py --print

Probes learn from the labels of the images that the networks were trained on and are scored on 2,000 other training
images. The test images are never read, so that these numbers may choose defaults.
"""

import argparse
from pathlib import Path

import torch
from tables import parts, read, results

from unlabeled.data import Data
from unlabeled.evaluation import evaluate

NAME, SOURCE = "readouts", "image_methods"
COLUMNS = ("knn", "linear")
FEATURES = (
    "output",
    "output:whiten",
    "layer2:2x2:whiten",
    "layer3:2x2:whiten",
)


def judge(method: str, run: Path, pair: tuple[Data, Data]) -> None:
    """Score all features of a trained network; what is there already stays."""
    with results(NAME) as done:
        missing = [features for features in FEATURES if features not in done.get(method, {})]
    for features in missing:
        scores = evaluate(run, pair, controls="none", features=features)
        columns = {record["probe"]: record["value"] for record in scores.records}
        with results(NAME) as done:
            done.setdefault(method, {})[features] = columns
        print(method, features, columns, flush=True)


def table() -> str:
    """For each method its output and the two features with the highest mean of the columns."""
    lines = ["| method | features | kNN | linear |", "|---|---|---|---|"]
    with results(NAME) as done:
        for method, scores in sorted(done.items()):
            ranked = sorted(scores, key=lambda features: -sum(scores[features].values()))
            for features in dict.fromkeys([FEATURES[0], *ranked[:2]]):
                cells = [f"{100 * scores[features][probe]:.1f}" for probe in COLUMNS]
                lines.append(f"| `{method}` | `{features}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=Path("runs/tables"))
    parser.add_argument("--methods", help="separated by commas [default: all that are trained]")
    parser.add_argument("--print", action="store_true", help="only print what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.print:
        pair = parts(read(SOURCE) | {"score": "choosing"}, options.data)
        with results(SOURCE) as trained:
            methods = options.methods.split(",") if options.methods else list(trained)
        for method in methods:
            judge(method, options.out / SOURCE / method / "run", pair)
    print(table())


if __name__ == "__main__":
    main()

"""Patch dictionaries of one and two layers, scored on training images that no training saw.

    python benchmarks/two_layers.py PATH/TO/cifar10 --out runs/two_layers

Both learn from 8,000 training images, or four fifths of a smaller set, whose labels only the probes see, and are scored
on a quarter as many other training images. The test images are not read.
"""

import argparse
import time
from pathlib import Path

import torch

import unlabeled
from unlabeled.data import open_data
from unlabeled.evaluation import evaluate

ENCODERS = "dictionary-400-mirror,dictionary2-400-mirror"
FEATURES = "standardize,views"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/two_layers"))
    parser.add_argument("--encoders", default=ENCODERS, help="separated by commas")
    parser.add_argument("--features", default=FEATURES, help="separated by commas")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = open_data(options.data, kind="image", split="train")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    scored = min(2000, len(images) // 5)
    held_out, train = images.subset(order[:scored]), images.subset(order[scored : 5 * scored])
    for encoder in options.encoders.split(","):
        began = time.process_time()
        out = options.out / encoder
        run = unlabeled.pretrain("patch_dictionary", train, encoder=encoder, out=out, quiet=True, resume=True)
        print(f"{encoder}: {time.process_time() - began:.0f} CPU s of training", flush=True)
        for features in options.features.split(","):
            began = time.process_time()
            scores = evaluate(
                run, (train, held_out), labels_per_class=("all", 10), controls="none", features=features
            )
            print(f"{features}: {time.process_time() - began:.0f} CPU s\n{scores.table()}", flush=True)


if __name__ == "__main__":
    main()

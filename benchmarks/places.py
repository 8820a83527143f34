"""Places at several times: whether features know a place again at another date, on real satellite images.

    python benchmarks/places.py PATH/TO/modis_sinop_stack.npz --out runs/places [--minutes 3]

The file holds one vegetation index of a region at 12 dates. The region is cut into squares of 16 pixels, the left two
thirds to train on and the rest to test, each written to OUT/PART/PLACE/DATE.png. For every test square and pair of
dates the nearest square of the other date is looked up, by cosine of features standardised on the training squares.
Intervals resample squares. Nothing is chosen on the test squares.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import unlabeled
from unlabeled.data import Data, open_data
from unlabeled.evaluation.features import Representation, of_encoder
from unlabeled.evaluation.intervals import interval
from unlabeled.training import duration

SIDE = 16
METHODS: dict[str, dict[str, Any]] = {"seco": {"queue": 64}, "simclr": {}, "moco": {"queue": 256}}


def write(stack: np.ndarray, out: Path) -> None:
    """Squares as images of places at dates; grey values span the percentiles 1 to 99 of the training part."""
    border = stack.shape[2] * 2 // 3 // SIDE * SIDE
    low, high = np.percentile(stack[:, :, :border], [1, 99])
    grey = (np.clip((stack - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    for top in range(0, grey.shape[1] - SIDE + 1, SIDE):
        for left in range(0, grey.shape[2] - SIDE + 1, SIDE):
            folder = out / ("train" if left < border else "test") / f"{top:03d}-{left:03d}"
            folder.mkdir(parents=True, exist_ok=True)
            for date, picture in enumerate(grey[:, top : top + SIDE, left : left + SIDE]):
                Image.fromarray(picture).save(folder / f"{date:02d}.png")


def same_place(features: Tensor, places: Tensor, dates: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the nearest square of another date is the same place, for all pairs of dates, and the places."""
    features, hits, groups = F.normalize(features), [], []
    for first in dates.unique():
        for second in dates.unique():
            if first != second:
                here, there = dates == first, dates == second
                nearest = (features[here] @ features[there].T).argmax(1)
                hits.append(places[there][nearest] == places[here])
                groups.append(places[here])
    return torch.cat(hits).float(), torch.cat(groups)


def score(representation: Representation, train: Data, test: Data) -> None:
    """Print one row."""
    mean, scale = representation.statistics(train)
    dates = torch.tensor([int(Path(file).stem) for file in test.paths])
    hits, groups = same_place((representation.features(test) - mean) / scale, test.groups, dates)
    result = interval(hits[None], groups, bounds=(0.0, 1.0))
    scores = f"{100 * result.value:.1f} [{100 * result.low:.1f}, {100 * result.high:.1f}]"
    print(f"| {representation.name} | {scores} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stack", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/places"))
    parser.add_argument("--minutes", type=float, default=3.0, help="of a processor, for each training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    write(np.load(options.stack)["ndvi"], options.out)
    train, test = (open_data(options.out / part, kind="image", group="folder") for part in ("train", "test"))
    print(f"{len(train)} training images, {len(test)} test images of {len(test.groups.unique())} places")
    duration.clock = time.process_time
    for name, settings in METHODS.items():
        run = unlabeled.pretrain(
            name,
            train,
            out=options.out / name,
            encoder="conv4",
            minutes=options.minutes,
            quiet=True,
            **settings,
        )
        score(Representation(name, of_encoder(run.encoder)), train, test)
    untrained = unlabeled.encoders.fitted("conv4", train)
    score(Representation("random weights", of_encoder(untrained)), train, test)
    score(Representation("pixels", lambda batch, _: untrained.raw(batch)), train, test)


if __name__ == "__main__":
    main()

"""Actions by an LSTM with and without what it learned before from the same videos without labels.

    python benchmarks/recognition.py [moving_digits:direction] [--labels 10,50,200] [--steps 600] [--out FOLDER]

The table of Srivastava, Mansimov and Salakhutdinov (2015) on a built-in set: a classifier of single frames, an LSTM
from random weights, and the same LSTM after `frame_prediction` on the training videos: reconstruction alone, prediction
alone, and both, each for so many steps. Then everything is trained on the labels as the task `recognition` does, with
so many labels of a class and 300 steps for every row, and tested on all test videos: accuracy in percent with its 95 %
interval over the videos. The rows "frozen" are linear probes on the features, before anything is fine-tuned.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

import unlabeled
from unlabeled import encoders, methods
from unlabeled.data import Data, open_data
from unlabeled.evaluation import subsets
from unlabeled.evaluation.measurement import interval_of
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.evaluation.tasks import recognition
from unlabeled.progress import telling

ENCODER = "lstm-256"
BATCH = 64
VARIANTS = {"reconstruction": ("past", 0), "prediction": (0, "future"), "both": ("past", "future")}
"""Frames that are reconstructed and predicted."""
OURS, TUNING = "unlabeled", 300


def pretrain(name: str, data: Data, frames: int, steps: int, folder: Path) -> Any:
    """The encoder after a training without labels on clips of so many frames and as many that follow.

    A training that is in the folder is taken from there.
    """
    if not (folder / "encoder.safetensors").is_file():
        counts = {"past": frames, "future": frames, 0: 0}
        reconstructed, future = (counts[word] for word in VARIANTS[name])
        options = {"past": frames, "reconstructed": reconstructed, "future": future}
        torch.manual_seed(0)
        encoder = encoders.fitted(ENCODER, data, kind="video", frames=frames)
        method = methods.load("frame_prediction")(encoder, **options)
        settings = {"steps": steps, "batch_size": BATCH, "lr": 2e-3, "clip": 5.0}
        unlabeled.pretrain(method, data, out=folder, quiet=True, **settings)
    return unlabeled.load(folder).encoder.eval()


def measured(encoder: Any, train: Data, test: Data, controls: bool) -> dict[str, str]:
    """Top-1 accuracy with its interval by row; controls are measured where asked for."""
    rows: dict[str, str] = {}
    for one in recognition.measure(EvaluatedModel(encoder, steps=TUNING), Parts(Source(train), train, test)):
        if one.layer == "fine-tuned" and one.features != OURS and not controls:
            break
        if one.unit == "accuracy" and (controls or one.features == OURS):
            own = interval_of(one)
            value, low, high = (100 * (number or 0) for number in (own.value, own.low, own.high))
            row = f"{one.features}, {one.layer}"
            rows[row] = f"{value:.1f} [{low:.1f}, {high:.1f}]"
            print(f"  {row}: {rows[row]} ({one.detail})", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", default="moving_digits:direction")
    parser.add_argument("--labels", default="10,50,200")
    parser.add_argument("--steps", type=int, default=600, help="of each training without labels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/recognition"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train, test = (open_data(arguments.data, split=split) for split in ("train", "test"))
    frames = train.shape["frames"] // 2
    trained = {
        name: pretrain(name, train, frames, arguments.steps, arguments.out / name) for name in VARIANTS
    }
    assert train.labels is not None
    rows: dict[str, list[str]] = {}
    for count in map(int, arguments.labels.split(",")):
        (chosen,) = subsets.draw(train.labels, count, classes=train.classes or [], draws=1, seed=0)
        for place, (name, encoder) in enumerate(trained.items()):
            print(f"{count} labels per class, {name}", flush=True)
            with telling(lambda line: print("   ", line, flush=True)):
                scores = measured(encoder, train.subset(chosen), test, controls=not place)
            for row, value in scores.items():
                rows.setdefault(row.replace(OURS, name), []).append(value)
    counts = arguments.labels.split(",")
    print(f"\n| {arguments.data} | " + " | ".join(f"{count} labels per class" for count in counts) + " |")
    print("|---|" + "---|" * len(counts))
    for row, values in rows.items():
        print(f"| {row} | " + " | ".join(values) + " |")


if __name__ == "__main__":
    main()

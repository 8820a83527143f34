"""How good the method is that `unlabeled choose` picks, and for what share of the cost of training all candidates.

    python benchmarks/choose.py DATA... --out runs/choose [--seconds 30] [--budget 0.175]
    python benchmarks/choose.py DATA... --out runs/choose --print      # only print what is there

DATA are folders or names of labelled images. Of each, 4,000 training images at most are used at 32 pixels, with the
same network for all. Every candidate is trained for so many seconds of a processor; `choose` has this fraction of their
sum, and sees one in ten labels of the training images, or all of them (2,000 at most). What it chose is then judged by
the run of full length, which it has not seen: a linear probe on at most 2,000 training labels, tested on at most 2,000
test images. Beside it stands what criteria without labels would choose among the runs of full length, which costs as
much as training all. Brackets are 95 % intervals over test images. What was interrupted goes on.
"""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from label_free import CRITERIA, LABELLED, MANY, SIZE, TESTED, judged, some, value
from torch import Tensor

import unlabeled
from methods import parser
from unlabeled.data import Data, open_splits
from unlabeled.evaluation import candidates, choosing
from unlabeled.evaluation.choice import Choice
from unlabeled.evaluation.features import of_encoder, read
from unlabeled.evaluation.intervals import interval
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.logistic import fit
from unlabeled.files import locked
from unlabeled.training import duration

IMAGES = 4_000
METHODS = (
    "simclr:recipe",
    "moco:recipe",
    "byol:recipe",
    "barlow_twins:recipe",
    "vicreg:lr=0.002",
    "rotnet:recipe",
    "denoising:recipe",
    "autoencoder:recipe",
)
SHARED: dict[str, Any] = {"encoder": "resnet10", "image_size": SIZE, "batch_size": 64}


def answers(encoder: Any, data: Labelled) -> Tensor:
    """Which test images a linear probe gets right, float, shape (images,)."""
    train, test = (
        read(lambda batch: of_encoder(encoder)(batch, None), part) for part in (data.train, data.test)
    )
    mean, scale = train.mean(0), train.std(0).clamp_min(1e-6)
    classifier = fit((train - mean) / scale, data.labels, len(data.classes), seed=0)
    return (classifier((test - mean) / scale).argmax(1) == data.answers).float()


def play(images: Data, data: Labelled, out: Path, seconds: float, budget: float, amounts: list[str]) -> None:
    """Train all for the full time and judge them, and let `choose` choose; what is there already stays."""
    for one in candidates.parse(METHODS, "image", False, SHARED):
        file = out / f"{one.folder}.json"
        if file.exists():
            continue
        began = time.process_time()
        run = unlabeled.pretrain(
            one.method, images, out=out / "all" / f"{one.folder}-{time.time():.0f}", minutes=seconds / 60,
            holdout=0.0, quiet=True, **SHARED, **one.settings,
        )  # fmt: skip
        spent, encoder = time.process_time() - began, run.encoder.eval()
        right, criteria = answers(encoder, data), judged(encoder, images, MANY)
        file.write_text(
            json.dumps(
                {
                    "seconds": spent,
                    "steps": run.history[-1]["step"],
                    "right": right.tolist(),
                    "many": criteria,
                }
            )
        )
        print(file, f"{spent:.0f} s", f"{float(right.mean()):.3f}", flush=True)
    for labels in amounts:
        print(chosen(images, out, labels, seconds, budget, progress=partial(print, flush=True)), flush=True)


def folder_of(out: Path, labels: str) -> Path:
    """Where `choose` works with these labels."""
    return out / f"choose-{labels.rstrip('%')}"


def chosen(images: Data, out: Path, labels: str, seconds: float, budget: float, **words: Any) -> Choice:
    """What `choose` chooses by these labels, once it has."""
    return choosing.choose(
        images, labels_per_class=labels, minutes=budget * len(METHODS) * seconds / 60, methods=METHODS,
        out=folder_of(out, labels), **words, **SHARED,
    )  # fmt: skip


def points(first: Tensor, best: Tensor) -> str:
    """How far below the best one lies, with its interval."""
    one = interval((best - first)[None].double(), bounds=(-1, 1), difference=True)
    return f"{100 * one.value:.1f} [{100 * (one.low or 0):.1f}, {100 * (one.high or 0):.1f}]"


def row(out: Path, labels: str) -> str:
    """The row of a set and of how many labels choose."""
    field = candidates.parse(METHODS, "image", False, SHARED)
    runs = [json.loads((out / f"{one.folder}.json").read_text()) for one in field]
    right = torch.tensor([run["right"] for run in runs])
    order = right.mean(1).argsort(descending=True).tolist()
    choice = json.loads((folder_of(out, labels) / choosing.RESULT).read_text())
    pick = [one.title for one in field].index(choice["winner"])
    total, spent = sum(run["seconds"] for run in runs), 60 * choice["minutes"]
    picks = {
        title: max(range(len(runs)), key=lambda index: value(runs[index], "many", criterion))
        for title, criterion in CRITERIA.items()
    }
    cells = [
        out.name,
        labels,
        f"{field[order[0]].method}, {100 * float(right[order[0]].mean()):.1f} %",
        f"{100 * float(right[order[0]].mean() - right.mean()):.1f}",
        field[pick].method,
        points(right[pick], right[order[0]]),
        f"{100 * choice['probability']:.0f} %",
        f"{100 * spent / total:.0f} %",
        f"{100 * (spent + runs[pick]['seconds']) / total:.0f} %",
        ", ".join(
            f"{title.split(',')[0]} {100 * float(right[order[0]].mean() - right[one].mean()):.1f}"
            for title, one in picks.items()
            if title != "alpha-ReQ, the lower the better"
        ),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    words = parser(__doc__ or "", "image", out=Path("runs/choose"), seconds=30.0)
    words.add_argument("data", nargs="+")
    words.add_argument("--budget", type=float, default=0.175, help="of choose, as a fraction of training all")
    words.add_argument("--print", action="store_true", help="print the table of what is there")
    words.add_argument("--labels", default="10%,all", help="by how many labels, separated by commas")
    arguments = words.parse_args()
    amounts = arguments.labels.split(",")
    torch.set_num_threads(arguments.threads)
    duration.clock = choosing.clock = time.process_time  # whatever else the machine does
    for source in () if arguments.print else arguments.data:
        train, test = open_splits(source, store_size=SIZE)
        images = some(train, IMAGES)
        data = Labelled.of(some(images, LABELLED, 2), some(test, TESTED))
        folder = arguments.out / Path(source).name
        with locked(folder, "benchmark.lock", wait=True):
            play(images, data, folder, arguments.seconds, arguments.budget, amounts)
    head = "best of all, one at random below it, chosen, chosen below the best, sure, cost, with its training"
    titles = ["data", "labels", *head.split(", "), "points below the best by criteria"]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for source in arguments.data:
        for labels in amounts:
            if (folder_of(arguments.out / Path(source).name, labels) / choosing.RESULT).exists():
                print(row(arguments.out / Path(source).name, labels))


if __name__ == "__main__":
    main()

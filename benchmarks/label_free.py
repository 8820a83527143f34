"""Whether criteria without labels go along with the accuracy of probes, over checkpoints of methods and settings.

    python benchmarks/label_free.py DATA... --out runs/label_free [--runs simclr,byol] [--seconds 30]
    python benchmarks/label_free.py DATA... --out runs/label_free --print      # only print what is there

DATA are folders or names of labelled images. Each run trains a small network on 4,000 training images for so many
seconds of a processor, and is measured at one third, two thirds and the end. The criteria see the images that it was
trained on, as the log of a run does (512 images; for LiDAR 8 views of 64 of them) and with more (2,000 images; 16 views
of 128). The linear probe and kNN learn from the labels of 2,000 of these images and are tested on 2,000 test images.
Brackets are 95 % intervals by bootstrap over runs, whose checkpoints stay together. A run that was interrupted is
begun anew.
"""

import fcntl
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import unlabeled
from methods import parser, recipe, steps_within
from unlabeled import encoders, methods
from unlabeled.data import Data, open_splits
from unlabeled.encoders import Encoder
from unlabeled.evaluation.features import of_encoder, read
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.logistic import fit
from unlabeled.evaluation.probes import knn
from unlabeled.training import criteria, judge, metrics

IMAGES, LABELLED, TESTED, SIZE, BATCH = 4_000, 2_000, 2_000, 32, 128
LOGGED, MANY = (512, 64, 8), (2_000, 128, 16)
"""Images, images of which views are drawn, and views of each: in the log of a run, and here."""
RESAMPLES = 2_000

WEAK: dict[str, Any] = {"crop": 0.6, "jitter": 0.0, "gray": 0.0}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "simclr": ("simclr", {}),
    "simclr, weak views": ("simclr", WEAK),
    "simclr, temperature 1": ("simclr", {"temperature": 1.0}),
    "simclr, low rate": ("simclr", {"lr": 1e-4}),
    "moco": ("moco", {}),
    "moco, weak views": ("moco", WEAK),
    "byol": ("byol", {}),
    "byol, high rate": ("byol", {"lr": 2e-2}),
    "simsiam": ("simsiam", {}),
    "barlow_twins": ("barlow_twins", {}),
    "barlow_twins, weak views": ("barlow_twins", WEAK),
    "vicreg": ("vicreg", {"lr": 2e-3}),
    "vicreg, no covariance": ("vicreg", {"lr": 2e-3, "covariance": 0.0}),
    "lejepa": ("lejepa", {"lr": 2e-3}),
    "triplet": ("triplet", {"lr": 2e-3}),
    "swav": ("swav", {"local_crops": 0}),
    "rotnet": ("rotnet", {}),
    "autoencoder": ("autoencoder", {}),
    "denoising": ("denoising", {}),
    "context_encoder": ("context_encoder", {}),
    "super_resolution": ("super_resolution", {"lr": 2e-3}),
}
CRITERIA = {
    "RankMe": "rank",
    "alpha-ReQ, nearness to 1": "alpha",
    "alpha-ReQ, the lower the better": "decay",
    "LiDAR": "lidar",
    "silhouette": "silhouette",
}
SCORES = {"linear": "linear probe", "knn": "kNN"}


def some(data: Data, most: int, seed: int = 0) -> Data:
    """At most so many samples, always the same."""
    return data.subset(torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:most])


def judged(encoder: Encoder, images: Data, amounts: tuple[int, int, int]) -> dict[str, float]:
    """The criteria of a network on some images."""
    count, viewed, views = amounts
    features = read(lambda batch: of_encoder(encoder)(batch, None), some(images, count, 1))
    batch = some(images, viewed, 1).batch(torch.arange(min(viewed, len(images))))
    return {
        "rank": metrics.rank(features),
        "alpha": criteria.alpha(features),
        "lidar": criteria.lidar(judge.view_features(encoder, batch, views)),
        "silhouette": criteria.cluster_silhouette(features),
    }


def probed(encoder: Encoder, data: Labelled) -> dict[str, float]:
    """Accuracies on the test images."""
    train, test = (
        read(lambda batch: of_encoder(encoder)(batch, None), part) for part in (data.train, data.test)
    )
    mean, scale = train.mean(0), train.std(0).clamp_min(1e-6)
    train, test, classes = (train - mean) / scale, (test - mean) / scale, len(data.classes)
    answers = {
        "linear": fit(train, data.labels, classes, seed=0)(test).argmax(1),
        "knn": knn.predict(train, data.labels, test, classes),
    }
    return {name: float((answer == data.answers).double().mean()) for name, answer in answers.items()}


def play(name: str, images: Data, data: Labelled, seconds: float, out: Path) -> None:
    """Train a run, measure it on its way, and write down what was measured once it has ended."""
    began, (method, options) = time.process_time(), RUNS[name]
    plain = ("epochs", "batch_size", "encoder", "lr")
    settings = {key: value for key, value in recipe(method).items() if key not in plain} | options
    lr = settings.pop("lr", 2e-3)
    torch.manual_seed(0)
    encoder = encoders.build("resnet10", image_size=SIZE, in_channels=images.shape["channels"])
    built = methods.load(method)(encoder, **settings)
    steps = steps_within(seconds, built, images, BATCH, fewest=6)
    checkpoints: list[dict[str, Any]] = []

    def measure(step: int) -> None:
        encoder.eval()
        checkpoints.append(
            {
                "step": step,
                "logged": judged(encoder, images, LOGGED),
                "many": judged(encoder, images, MANY),
                "scores": probed(encoder, data),
            }
        )
        encoder.train()

    def on_step(step: int) -> None:
        if step in (steps // 3, 2 * steps // 3):
            with torch.random.fork_rng():
                measure(step)

    folder = out.with_suffix("")
    run = unlabeled.pretrain(
        built, images, out=folder / f"{time.time():.0f}", quiet=True, on_step=on_step, steps=steps, lr=lr,
        batch_size=BATCH, holdout=0.0,
    )  # fmt: skip
    measure(steps)
    spent = time.process_time() - began
    out.write_text(
        json.dumps({"seconds": spent, "verdict": run.history[-1]["verdict"], "checkpoints": checkpoints})
    )
    last = checkpoints[-1]
    print(out, f"{spent:.0f} s", steps, {**last["scores"], **last["many"]}, flush=True)


def value(checkpoint: dict[str, Any], amount: str, criterion: str) -> float:
    """A criterion of a checkpoint, the higher the better by what its authors say."""
    values = checkpoint[amount]
    if criterion == "alpha":
        return -abs(values["alpha"] - 1)
    return -values["alpha"] if criterion == "decay" else values[criterion]


def ranks(values: Tensor) -> Tensor:
    """Ranks from 0; equal values share their mean rank."""
    below = (values[:, None] > values).sum(1)
    return below + ((values[:, None] == values).sum(1) - 1) / 2


def spearman(first: Tensor, second: Tensor) -> float:
    """Correlation of the ranks; NaN where all values of one are equal."""
    pair = torch.stack([ranks(first), ranks(second)]).double()
    return float(torch.corrcoef(pair)[0, 1])


def resampled(first: Tensor, second: Tensor) -> tuple[float, float, float]:
    """Spearman's correlation of values, shape (runs, checkpoints), with its 95 % interval over runs."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(len(first), (RESAMPLES, len(first)), generator=generator)
    values = torch.tensor([spearman(first[rows].flatten(), second[rows].flatten()) for rows in draws])
    low, high = torch.nanquantile(values, torch.tensor([0.025, 0.975])).tolist()
    return spearman(first.flatten(), second.flatten()), low, high


def cell(first: Tensor, second: Tensor) -> str:
    known = first.isfinite().all(1)
    if known.sum() < 3:
        return "-"
    middle, low, high = resampled(first[known], second[known])
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def table(source: str, files: list[Path]) -> str:
    """Correlations of one set, and how far below the best run the run lies that a criterion would choose."""
    runs = [json.loads(file.read_text()) for file in files]
    count, seconds = sum(len(run["checkpoints"]) for run in runs), sum(run["seconds"] for run in runs)
    lines = [
        f"{Path(source).name}: {len(runs)} runs, {count} checkpoints, {seconds / 60:.0f} CPU minutes",
        "",
        "| criterion | linear probe | kNN | linear probe, ends | linear probe, as logged | points below the best |",
        "|---|---|---|---|---|---|",
    ]
    scores = {
        key: torch.tensor([[one["scores"][key] for one in run["checkpoints"]] for run in runs])
        for key in SCORES
    }
    for title, criterion in CRITERIA.items():
        values = {
            amount: torch.tensor(
                [[value(one, amount, criterion) for one in run["checkpoints"]] for run in runs]
            )
            for amount in ("many", "logged")
        }
        many, last = values["many"], scores["linear"][:, -1]
        choice = int(many[:, -1].nan_to_num(-math.inf).argmax())
        cells = [
            *(cell(many, scores[key]) for key in SCORES),
            cell(many[:, -1:], last[:, None]),
            cell(values["logged"], scores["linear"]),
            f"{100 * float(last.max() - last[choice]):.1f} ({files[choice].stem.replace('-', ' ')})",
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    best, mean = scores["linear"][:, -1].max(), scores["linear"][:, -1].mean()
    name = files[int(scores["linear"][:, -1].argmax())].stem.replace("-", " ")
    lines += [
        "",
        f"Best run: {name}, {100 * best:.1f} %; one at random: {100 * (best - mean):.1f} points below it.",
    ]
    return "\n".join(lines)


def file_of(out: Path, source: str, name: str) -> Path:
    return out / Path(source).name / f"{name.replace(', ', '-').replace(' ', '-')}.json"


def main() -> None:
    words = parser(__doc__ or "", "image", out=Path("runs/label_free"), seconds=30.0)
    words.add_argument("data", nargs="+")
    words.add_argument("--runs", help="of the list, separated by semicolons")
    words.add_argument("--print", action="store_true", help="print the tables of what is there")
    arguments = words.parse_args()
    torch.set_num_threads(arguments.threads)
    chosen = arguments.runs.split(";") if arguments.runs else list(RUNS)
    for source in () if arguments.print else arguments.data:
        train, test = open_splits(source, store_size=SIZE)
        images = some(train, IMAGES)
        data = Labelled.of(some(images, LABELLED, 2), some(test, TESTED))
        for name in chosen:
            file = file_of(arguments.out, source, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.with_suffix(".lock").open("w") as lock:
                try:  # several of these programs share the runs
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if not file.exists():
                        play(name, images, data, arguments.seconds, file)
                except BlockingIOError:
                    continue
                except FloatingPointError as error:
                    print(file, error, flush=True)
    for source in arguments.data:
        files = [file for name in RUNS if (file := file_of(arguments.out, source, name)).exists()]
        print(table(source, files) if len(files) > 2 else f"{source}: fewer than 3 runs", end="\n\n")


if __name__ == "__main__":
    main()

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
RESAMPLES, FEW = 2_000, 8

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
    cpu_seconds = time.process_time() - began
    out.write_text(
        json.dumps(
            {"seconds": cpu_seconds, "verdict": run.history[-1]["verdict"], "checkpoints": checkpoints}
        )
    )
    last = checkpoints[-1]
    print(out, f"{cpu_seconds:.0f} s", steps, {**last["scores"], **last["many"]}, flush=True)


def value(checkpoint: dict[str, Any], amount: str, criterion: str) -> float:
    """A criterion of a checkpoint, the higher the better by what its authors say."""
    values = checkpoint[amount]
    if criterion == "alpha":
        return -abs(values["alpha"] - 1)
    return -values["alpha"] if criterion == "decay" else values[criterion]


def ranks(values: Tensor) -> Tensor:
    """Ranks along the last axis, from 0; equal values share their mean rank."""
    more, same = values[..., :, None] > values[..., None, :], values[..., :, None] == values[..., None, :]
    return more.sum(-1) + (same.sum(-1) - 1) / 2


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Correlation of the ranks along the last axis; NaN where all values of one are equal."""
    one, other = (
        each - each.mean(-1, keepdim=True) for each in (ranks(first).double(), ranks(second).double())
    )
    return (one * other).sum(-1) / (one.square().sum(-1) * other.square().sum(-1)).sqrt()


def correlation(first: Tensor, second: Tensor) -> str:
    """Spearman's correlation of values, shape (runs, checkpoints), with its 95 % interval over runs."""
    known = first.isfinite().all(1)
    first, second = first[known], second[known]
    if len(first) < 3:
        return "-"
    rows = torch.randint(len(first), (RESAMPLES, len(first)), generator=torch.Generator().manual_seed(0))
    values = torch.cat(
        [spearman(first[part].flatten(1), second[part].flatten(1)) for part in rows.split(100)]
    )
    low, high = torch.nanquantile(values, torch.tensor([0.025, 0.975]).double()).tolist()
    return f"{float(spearman(first.flatten(), second.flatten())):.2f} [{low:.2f}, {high:.2f}]"


def picks(criterion: Tensor, scores: Tensor) -> tuple[float, float, float]:
    """What a criterion makes of the ends of runs, NaN counting as the worst.

    Returns:
        Fraction of pairs that it orders as the scores do; how often it picks the best of `FEW` runs at random, and how
        far below the best its pick lies in the mean.
    """
    criterion = criterion.nan_to_num(-math.inf)
    first, second = torch.combinations(torch.arange(len(scores)), 2).T
    differs = scores[first] != scores[second]
    agrees = (criterion[first] > criterion[second]) == (scores[first] > scores[second])
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(RESAMPLES, len(scores), generator=generator).argsort(1)[:, :FEW]
    of_pick = scores[rows].gather(1, criterion[rows].argmax(1, keepdim=True))[:, 0]
    below = scores[rows].amax(1) - of_pick
    return float(agrees[differs].double().mean()), float((below == 0).double().mean()), float(below.mean())


def table(source: str, files: list[Path]) -> str:
    """Correlations of one set, and how good the runs are that a criterion picks."""
    runs = [json.loads(file.read_text()) for file in files]
    count, seconds = sum(len(run["checkpoints"]) for run in runs), sum(run["seconds"] for run in runs)
    columns = (
        "linear probe | kNN | linear probe, ends | linear probe, as logged | pairs of ends in the right order"
    )
    lines = [
        f"{Path(source).name}: {len(runs)} runs, {count} checkpoints, {seconds / 60:.0f} CPU minutes",
        "",
        f"| criterion | {columns} | picks the best of {FEW} | points below the best of {FEW} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    scores = {
        key: torch.tensor([[one["scores"][key] for one in run["checkpoints"]] for run in runs])
        for key in SCORES
    }
    ends = scores["linear"][:, -1]
    for title, criterion in CRITERIA.items():
        many, logged = (
            torch.tensor([[value(one, amount, criterion) for one in run["checkpoints"]] for run in runs])
            for amount in ("many", "logged")
        )
        right, best, below = picks(many[:, -1], ends)
        cells = [
            *(correlation(many, scores[key]) for key in SCORES),
            correlation(many[:, -1:], ends[:, None]),
            correlation(logged, scores["linear"]),
            f"{100 * right:.0f} %",
            f"{100 * best:.0f} %",
            f"{100 * below:.1f}",
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    rows = torch.rand(RESAMPLES, len(ends), generator=torch.Generator().manual_seed(0)).argsort(1)[:, :FEW]
    below = 100 * float((ends[rows].amax(1) - ends[rows].mean(1)).mean())
    lines.append(
        f"| one at random | - | - | - | - | 50 % | {100 / min(FEW, len(ends)):.0f} % | {below:.1f} |"
    )
    name = files[int(ends.argmax())].stem.replace("-", " ")
    low, high = 100 * float(ends.amin()), 100 * float(ends.amax())
    return "\n".join([*lines, "", f"Linear probes at the ends: {low:.1f} to {high:.1f} % ({name})."])


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

"""How good the method is that `unlabeled choose` picks, and for what share of the cost of training all candidates.

    python benchmarks/choose.py DATA... --out runs/choose [--seconds 30] [--budget 0.175]
    python benchmarks/choose.py DATA... --out runs/choose-usual --usual --seconds 60
    python benchmarks/choose.py DATA... --out runs/choose --print      # only print what is there

DATA are folders or names of labelled data. Of each, 4,000 training samples at most are used, images at 32 pixels.
Candidates are eight methods for images with the same network, or with --usual those that `choose` takes where none are
named, each with its own network. Every candidate is trained for so many seconds of a processor; `choose` has this
fraction of their sum, and sees one in ten labels of the training samples, or all of them (2,000 at most). What it chose
is then judged by the run of full length, which it has not seen: a linear probe on at most 2,000 training labels, tested
on at most 2,000 test samples. Beside it stands what criteria without labels would choose among the runs of full length,
which costs as much as training all (not with --usual). Brackets are 95 % intervals over test samples, or over their
groups, such as speakers. What was interrupted goes on.
"""

import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from label_free import CRITERIA, LABELLED, MANY, SIZE, TESTED, judged, some, value
from torch import Tensor

import unlabeled
from methods import parser
from unlabeled.data import Data, kind_of, open_splits
from unlabeled.evaluation import candidates, choosing
from unlabeled.evaluation.choice import Choice
from unlabeled.evaluation.features import read
from unlabeled.evaluation.intervals import interval
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.logistic import fit
from unlabeled.evaluation.model import frozen
from unlabeled.files import locked
from unlabeled.run import Run
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


@dataclass(frozen=True)
class Contest:
    """Candidates on some data.

    Attributes:
        out: Folder of all that is trained.
        kind: Of the data.
        words: The candidates, as `choose` takes them; empty for the usual ones.
        shared: Run settings of all.
        seconds: Time of each, by which auto chooses.
    """

    out: Path
    kind: str
    words: tuple[str, ...]
    shared: dict[str, Any]
    seconds: float

    @classmethod
    def of(cls, out: Path, kind: str, usual: bool, seconds: float) -> "Contest":
        return cls(out, kind, *(((), {}) if usual else (METHODS, SHARED)), seconds)

    @property
    def entrants(self) -> list[candidates.Candidate]:
        words = self.words or candidates.USUAL[self.kind]
        return candidates.parse(words, self.kind, False, self.shared, len(words) * self.seconds / 60)


def answers(run: Run, data: Labelled) -> Tensor:
    """Which test samples a linear probe gets right, float, shape (samples,)."""
    encoder, reader = frozen(run, torch.device("cpu"))
    train, test = (
        read(lambda batch: reader(batch, None), encoder.evaluation_view(part))
        for part in (data.train, data.test)
    )
    mean, scale = train.mean(0), train.std(0).clamp_min(1e-6)
    classifier = fit((train - mean) / scale, data.labels, len(data.classes), seed=0)
    return (classifier((test - mean) / scale).argmax(1) == data.answers).float()


def play(contest: Contest, samples: Data, data: Labelled, budget: float, amounts: list[str]) -> None:
    """Train all for the full time and judge them, and let `choose` choose; what is there already stays."""
    for one in contest.entrants:
        file = contest.out / f"{one.folder}.json"
        if file.exists():
            continue
        began = time.process_time()
        run = unlabeled.pretrain(
            one.method, samples, out=contest.out / "all" / f"{one.folder}-{time.time():.0f}", holdout=0.0,
            minutes=contest.seconds / 60, quiet=True, **contest.shared, **one.settings,
        )  # fmt: skip
        record = {"seconds": time.process_time() - began, "steps": run.history[-1]["step"]}
        right = answers(run, data)
        if contest.words:
            record["many"] = judged(run.encoder.eval(), samples, MANY)
        groups = None if data.test.groups is None else data.test.groups.tolist()
        file.write_text(json.dumps(record | {"right": right.tolist(), "groups": groups}))
        print(file, f"{record['seconds']:.0f} s", f"{float(right.mean()):.3f}", flush=True)
    for labels in amounts:
        print(chosen(contest, samples, labels, budget, progress=partial(print, flush=True)), flush=True)


def folder_of(out: Path, labels: str) -> Path:
    """Where `choose` works with these labels."""
    return out / f"choose-{labels.rstrip('%')}"


def chosen(contest: Contest, samples: Data, labels: str, budget: float, **words: Any) -> Choice:
    """What `choose` chooses by these labels, once it has."""
    return choosing.choose(
        samples, labels_per_class=labels, minutes=budget * len(contest.entrants) * contest.seconds / 60,
        methods=contest.words, out=folder_of(contest.out, labels), **words, **contest.shared,
    )  # fmt: skip


def points(first: Tensor, best: Tensor, groups: Tensor | None) -> str:
    """How far below the best one lies, with its interval."""
    one = interval((best - first)[None].double(), groups, bounds=(-1, 1), difference=True)
    return f"{100 * one.value:.1f} [{100 * (one.low or 0):.1f}, {100 * (one.high or 0):.1f}]"


def row(contest: Contest, labels: str) -> str:
    """The row of a set and of how many labels choose."""
    field = contest.entrants
    runs = [json.loads((contest.out / f"{one.folder}.json").read_text()) for one in field]
    right = torch.tensor([run["right"] for run in runs])
    groups = None if runs[0].get("groups") is None else torch.tensor(runs[0]["groups"])
    order = right.mean(1).argsort(descending=True).tolist()
    best, second = order[:2]
    choice = json.loads((folder_of(contest.out, labels) / choosing.RESULT).read_text())
    pick = [one.title for one in field].index(choice["winner"])
    total, cost = sum(run["seconds"] for run in runs), 60 * choice["minutes"]
    picks = {
        title: max(range(len(runs)), key=lambda index: value(runs[index], "many", criterion))
        for title, criterion in CRITERIA.items()
        if "many" in runs[0]
    }
    cells = [
        contest.out.name,
        labels,
        f"{field[best].title}, {100 * float(right[best].mean()):.1f} %",
        f"{field[second].title}, {100 * float(right[best].mean() - right[second].mean()):.1f}",
        f"{100 * float(right[best].mean() - right.mean()):.1f}",
        field[pick].title,
        points(right[pick], right[best], groups),
        f"{100 * choice['probability']:.0f} %",
        f"{100 * cost / total:.0f} %",
        f"{100 * (cost + runs[pick]['seconds']) / total:.0f} %",
        ", ".join(
            f"{title.split(',')[0]} {100 * float(right[best].mean() - right[one].mean()):.1f}"
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
    words.add_argument(
        "--usual", action="store_true", help="candidates that `choose` takes where none are named"
    )
    arguments = words.parse_args()
    amounts = arguments.labels.split(",")
    torch.set_num_threads(arguments.threads)
    duration.clock = choosing.clock = time.process_time  # whatever else the machine does
    contests = {
        source: Contest.of(
            arguments.out / Path(source).name, kind_of(source), arguments.usual, arguments.seconds
        )
        for source in arguments.data
    }
    for source, contest in () if arguments.print else contests.items():
        options = {"store_size": SIZE} if contest.kind == "image" else {}
        train, test = open_splits(source, kind=contest.kind, **options)
        samples = some(train, IMAGES)
        data = Labelled.of(some(samples, LABELLED, 2), some(test, TESTED))
        with locked(contest.out, "benchmark.lock", wait=True):
            play(contest, samples, data, arguments.budget, amounts)
    head = "best of all, next and how far below it, one at random below it, chosen, chosen below the best, sure, cost"
    titles = ["data", "labels", *head.split(", "), "with its training", "points below the best by criteria"]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for contest in contests.values():
        for labels in amounts:
            if (folder_of(contest.out, labels) / choosing.RESULT).exists():
                print(row(contest, labels))


if __name__ == "__main__":
    main()

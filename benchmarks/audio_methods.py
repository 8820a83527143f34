"""Methods for sounds with one small budget, beside their controls.

    python benchmarks/audio_methods.py [--seconds 120] [--methods apc,wav2vec2] [--data tones,fsdd,esc10]

Every method trains for about that many processor seconds on the training part, without labels. Linear probes are then
fitted on frozen features: on the usual split, and with 5 labels per class (mean of 5 draws). Where speakers are known,
each is left out once: an encoder that never heard the speaker is trained on the others, the probe learns from the
others' labels, and all recordings of that speaker are the test. Every layer is measured; the row "chosen layer" takes
the one that the training labels choose by cross-validation (over speakers for a new speaker). Beside them stand the
mean and deviation of log-mel bands, and the same network with random weights. Spoken digits and environmental sounds
are looked for in ../shared/data; the built-in tones are always there.
"""

import copy
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import unlabeled
from methods import parser, recipe, steps_within
from unlabeled import encoders, methods
from unlabeled.data import Data, open_data, open_splits
from unlabeled.data.audio.data import Sounds
from unlabeled.evaluation import logistic

SHARED = Path(__file__).parents[2] / "shared" / "data"
FEW, DRAWS = 5, 5
Features = Callable[[Data], Tensor]


def opened(name: str) -> tuple[Data, Data]:
    """Training and test part; folds of environmental sounds are in the first letter of a file's name."""
    if name == "tones":
        return open_splits("tones")
    if name == "fsdd":
        return open_splits(SHARED / "fsdd", kind="audio")
    data = open_data(SHARED / "esc10" / "audio", sample_rate=16_000)
    last = torch.tensor([Path(path).name.startswith("5") for path in data.paths])
    return data.subset(~last), data.subset(last)


def features(encoder: Any, layer: str | None = None) -> Features:
    """Features of data by an encoder, float, shape (samples, numbers)."""

    @torch.no_grad()
    def of(data: Data) -> Tensor:
        encoder.eval()
        batches = encoder.evaluation_view(data).batches(32)
        return torch.cat([encoder.features(encoder.inputs(batch), layer) for batch in batches])

    return of


def raw(encoder: Any) -> Features:
    """Mean and deviation of log-mel bands."""
    return lambda data: torch.cat([encoder.raw(batch) for batch in encoder.evaluation_view(data).batches(32)])


def accuracy(train: Tensor, labels: Tensor, test: Tensor, truth: Tensor, classes: int) -> float:
    predicted = logistic.fit(train, labels, classes)(test).argmax(1)
    return (predicted == truth).float().mean().item()


def cross_validated(features: Tensor, labels: Tensor, classes: int, folds: Tensor) -> float:
    """Mean accuracy on each fold of a probe that is fitted on the others."""
    return mean(
        accuracy(
            features[folds != fold],
            labels[folds != fold],
            features[folds == fold],
            labels[folds == fold],
            classes,
        )
        for fold in folds.unique()
    )


def mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def folds_of(labels: Tensor) -> Tensor:
    """Five folds, each with the same number of every class up to one."""
    folds = torch.empty_like(labels)
    generator = torch.Generator().manual_seed(0)
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        folds[rows[torch.randperm(len(rows), generator=generator)]] = torch.arange(len(rows)) % 5
    return folds


@dataclass
class Score:
    """Accuracy on the test samples, and what cross-validation on the training labels says of the same features."""

    test: float
    training: float


def scores(of: Features, train: Data, test: Data, choose: bool) -> dict[str, Score]:
    """Accuracies of linear probes, by question."""
    assert train.labels is not None and test.labels is not None
    first, second = of(train), of(test)
    questions = {"label": (train.labels, test.labels)}
    for name, values in train.factors.items():
        if not values.is_floating_point() and len(values.unique()) <= 20:
            questions[name] = (values, test.factors[name])

    def score(rows: Tensor, labels: Tensor, truth: Tensor, classes: int) -> Score:
        chosen = cross_validated(first[rows], labels, classes, folds_of(labels)) if choose else 0.0
        return Score(accuracy(first[rows], labels, second, truth, classes), chosen)

    answers = {
        name: score(torch.arange(len(first)), labels, truth, int(labels.max()) + 1)
        for name, (labels, truth) in questions.items()
    }
    classes, draws = int(train.labels.max()) + 1, []
    for seed in range(DRAWS):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        few = torch.cat([order[train.labels[order] == label][:FEW] for label in range(classes)])
        draws.append(score(few, train.labels[few], test.labels, classes))
    answers[f"label, {FEW} per class"] = Score(
        mean(draw.test for draw in draws), mean(draw.training for draw in draws)
    )
    return answers


def new_speaker(of: Features, train: Data, test: Data, choose: bool) -> Score:
    """Accuracy on a speaker that is not in the training data, whose folds are the other speakers."""
    assert train.labels is not None and test.labels is not None
    classes, first = int(train.labels.max()) + 1, of(train)
    chosen = cross_validated(first, train.labels, classes, train.factors["speaker"]) if choose else 0.0
    return Score(accuracy(first, train.labels, of(test), test.labels, classes), chosen)


Rows = dict[str, dict[str, Score]]


def with_choice(rows: Rows, layers: list[str], title: str) -> Rows:
    """The rows, and one that takes for each question the layer that the training labels choose."""
    best = {
        question: max((rows[layer][question] for layer in layers), key=lambda score: score.training)
        for question in rows[layers[0]]
    }
    return rows | {title: best}


def trained(name: str, train: Data, seconds: float) -> tuple[Any, Any]:
    """An encoder before and after training, without labels."""
    torch.manual_seed(0)
    settings = recipe(name)
    encoder = encoders.fitted(settings["encoder"], train, kind="audio")
    method = methods.load(name)(copy.deepcopy(encoder))
    steps = steps_within(seconds, method, train, settings["batch_size"])
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = unlabeled.pretrain(name, train, out=f"{folder}/run", quiet=True, steps=steps, **settings)
        cpu_seconds, last = time.process_time() - began, run.history[-1]
        print(
            f"{name}: {steps} steps, {cpu_seconds:.0f} processor seconds, loss {last['loss']:.4f}", flush=True
        )
        return encoder, run.encoder


def measured(name: str, train: Data, test: Data, seconds: float, ask: Any) -> Rows:
    """Rows of the controls, of every layer and of the chosen layer."""
    untrained, encoder = trained(name, train, seconds)
    rows = {
        "log-mel mean and deviation": ask(raw(untrained), train, test, False),
        f"{name}, random weights": ask(features(untrained), train, test, False),
    }
    layers = {f"{name}, {layer}": layer for layer in encoder.map_dims}
    rows |= {title: ask(features(encoder, layer), train, test, True) for title, layer in layers.items()}
    return with_choice(rows, list(layers), f"{name}, chosen layer")


def left_out(name: str, both: tuple[Data, Data], seconds: float) -> Rows:
    """Each speaker left out of training and probes, and then the mean over speakers."""
    data = join(*both)
    speaker, every = data.factors["speaker"], []
    for one in speaker.unique().tolist():
        parts = data.subset(speaker != one), data.subset(speaker == one)

        def ask(of: Features, train: Data, test: Data, choose: bool, one: int = one) -> dict[str, Score]:
            return {f"speaker {one}": new_speaker(of, train, test, choose)}

        every.append(measured(name, *parts, seconds, ask))
    rows: Rows = {title: {} for title in every[0]}
    for fold in every:
        for title in rows:
            rows[title] |= fold[title]
    for row in rows.values():
        row["mean"] = Score(mean(score.test for score in row.values()), 0.0)
    return rows


def join(first: Data, second: Data) -> Sounds:
    """The recordings of both parts as one."""
    assert isinstance(first, Sounds) and isinstance(second, Sounds)
    assert first.labels is not None and second.labels is not None
    return Sounds(
        torch.cat([first.samples, second.samples]),
        torch.cat([first.lengths, second.lengths]),
        sample_rate=first.sample_rate,
        name=first.name,
        paths=first.paths + second.paths,
        labels=torch.cat([first.labels, second.labels]),
        classes=first.classes,
        factors={name: torch.cat([first.factors[name], second.factors[name]]) for name in first.factors},
    )


def main() -> None:
    words = parser(__doc__ or "", "audio", seconds=120)
    words.add_argument("--data", default="tones,fsdd,esc10")
    arguments = words.parse_args()
    torch.set_num_threads(arguments.threads)
    for place in arguments.data.split(","):
        if place != "tones" and not (SHARED / place).exists():
            print(f"{place} is not in {SHARED}")
            continue
        train, test = opened(place)
        print(f"\n## {place}: {len(train)} sounds to learn from, {len(test)} to test on\n", flush=True)
        for name in arguments.methods.split(","):
            show(measured(name, train, test, arguments.seconds, scores))
            if "speaker" in train.factors:
                print("\nnew speakers, never heard in training\n", flush=True)
                show(left_out(name, (train, test), arguments.seconds))


def show(rows: Rows) -> None:
    """Print a table in Markdown."""
    questions = list(next(iter(rows.values())))
    print("| features | " + " | ".join(questions) + " |\n|---|" + "---|" * len(questions))
    for title, row in rows.items():
        print(
            f"| {title} | " + " | ".join(f"{100 * score.test:.1f}" for score in row.values()) + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()

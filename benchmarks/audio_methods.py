"""Methods for sounds with one small budget, beside their controls.

    python benchmarks/audio_methods.py [--seconds 120] [--methods apc,wav2vec2] [--data tones,fsdd,esc10]

Every method trains for about that many processor seconds on the training part, without labels. Linear probes are then
fitted on frozen features: on the usual split; with 5 labels per class (mean of 5 draws); and where speakers are known,
on all speakers but one, for each of them, which is the hard one. Beside them stand the mean and deviation of log-mel
bands, and the same network with random weights. Spoken digits and environmental sounds are looked for in
../shared/data; the built-in tones are always there.
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import unlabeled
from unlabeled import encoders, methods
from unlabeled.data import Data, open_data, open_splits
from unlabeled.evaluate import linear

SHARED = Path(__file__).parents[2] / "shared" / "data"
METHODS = ("apc", "wav2vec2")
FEW, DRAWS = 5, 5
RECIPES: dict[str, dict[str, Any]] = {
    "apc": {"encoder": "gru2-256"},
    "wav2vec2": {"encoder": "wav2vec2-mini"},
}
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
        batches = encoder.reads(data).batches(32)
        return torch.cat([encoder.features(encoder.inputs(batch), layer) for batch in batches])

    return of


def raw(encoder: Any) -> Features:
    """Mean and deviation of log-mel bands."""
    return lambda data: torch.cat([encoder.raw(batch) for batch in encoder.reads(data).batches(32)])


def accuracy(train: Tensor, labels: Tensor, test: Tensor, truth: Tensor, classes: int) -> float:
    found = linear.fit(train, labels, classes)(test).argmax(1)
    return (found == truth).float().mean().item()


def scores(of: Features, train: Data, test: Data) -> dict[str, float]:
    """Accuracies of linear probes, by question."""
    assert train.labels is not None and test.labels is not None
    first, second = of(train), of(test)
    questions = {"label": (train.labels, test.labels)}
    for name, values in train.factors.items():
        if not values.is_floating_point() and len(values.unique()) <= 20:
            questions[name] = (values, test.factors[name])
    found = {
        name: accuracy(first, known, second, truth, int(known.max()) + 1)
        for name, (known, truth) in questions.items()
    }
    classes, draws = int(train.labels.max()) + 1, []
    for seed in range(DRAWS):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        few = torch.cat([order[train.labels[order] == label][:FEW] for label in range(classes)])
        draws.append(accuracy(first[few], train.labels[few], second, test.labels, classes))
    found[f"label, {FEW} per class"] = sum(draws) / DRAWS
    if "speaker" in train.factors:
        every, labels = torch.cat([first, second]), torch.cat([train.labels, test.labels])
        speaker = torch.cat([train.factors["speaker"], test.factors["speaker"]])
        left = [
            accuracy(
                every[speaker != one],
                labels[speaker != one],
                every[speaker == one],
                labels[speaker == one],
                classes,
            )
            for one in speaker.unique()
        ]
        found["label, new speaker"] = sum(left) / len(left)
    return found


def steps_within(seconds: float, name: str, encoder: Any, data: Data, batch_size: int) -> int:
    """Steps that take about so many processor seconds, from the time of three."""
    method = methods.load(name)(copy.deepcopy(encoder))
    read = method.reads(data)
    method.prepare(read)
    began = time.process_time()
    for seed in range(3):
        loss = method(read.sample(batch_size, seed))
        assert isinstance(loss, Tensor)
        loss.backward()
    return max(1, int(seconds / ((time.process_time() - began) / 3)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--data", default="tones,fsdd,esc10")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for place in arguments.data.split(","):
        if place != "tones" and not (SHARED / place).exists():
            print(f"{place} is not in {SHARED}")
            continue
        train, test = opened(place)
        print(f"\n## {place}: {len(train)} sounds to learn from, {len(test)} to test on\n", flush=True)
        rows: list[tuple[str, dict[str, float]]] = []
        for name in arguments.methods.split(","):
            torch.manual_seed(0)
            suited = methods.load(name).defaults
            recipe = {"encoder": suited["encoder"], "batch_size": suited["batch_size"]} | RECIPES.get(
                name, {}
            )
            encoder = encoders.fitted(recipe["encoder"], train, kind="audio")
            if not rows:
                rows.append(("log-mel mean and deviation", scores(raw(encoder), train, test)))
            rows.append((f"{recipe['encoder']}, random", scores(features(encoder), train, test)))
            steps = steps_within(arguments.seconds, name, encoder, train, recipe["batch_size"])
            began = time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                run = unlabeled.pretrain(name, train, out=f"{folder}/run", quiet=True, steps=steps, **recipe)
                spent, last = time.process_time() - began, run.history[-1]
                encoder = run.encoder
            print(f"{name}: {steps} steps, {spent:.0f} processor seconds, {last}", flush=True)
            for layer in encoder.map_dims:
                rows.append((f"{name}, {layer}", scores(features(encoder, layer), train, test)))
        print("| features | " + " | ".join(rows[0][1]) + " |\n|---|" + "---|" * len(rows[0][1]))
        for title, found in rows:
            print(
                f"| {title} | " + " | ".join(f"{100 * value:.1f}" for value in found.values()) + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Going on from weights on other data: what it gains there, and what it loses on the data that the weights are from.

    python benchmarks/adapt.py OLD NEW... --out runs/adapt [--method simclr] [--steps 250] [--seeds 0,1,2]
    python benchmarks/adapt.py OLD NEW... --out runs/adapt --table

OLD and NEW are folders or names of labelled images. A network is trained on 8,000 images of OLD without their labels;
with each NEW it then goes on by `adapt`, by `adapt` with distillation from its start, and by `pretrain` with its plain
defaults; beside these, one is trained on NEW from random weights. All take the same steps of the same batches. Linear
probes and kNN on frozen features learn from all labels of the training part, 2,000 at most, and of 10 samples of each
class; the test parts have 2,000 images at most. OLD is measured in its own colours, also where NEW is grey. A
difference is to the start as it was, on the same test images and draws of labels; brackets are 95 % intervals over test
images and seeds. What was interrupted goes on.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import unlabeled
from methods import parser
from unlabeled import encoders
from unlabeled.data import Data, open_splits
from unlabeled.encoders import ImageEncoder
from unlabeled.evaluation.features import of_encoder, read
from unlabeled.evaluation.intervals import interval
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.logistic import fit
from unlabeled.evaluation.probes import knn

IMAGES, LABELLED, TESTED, FEW, BATCH, SIZE = 8_000, 2_000, 2_000, 10, 128, 32
DISTILLATION = 1.0
COLUMNS = ("linear", "linear, 10 labels", "kNN")


def some(data: Data, most: int, seed: int = 0) -> Data:
    """At most so many samples, always the same."""
    return data.subset(torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:most])


def opened(source: str) -> tuple[Data, Data, Data]:
    """Images to train on, labelled ones for probes, and test images."""
    train, test = open_splits(source, store_size=SIZE)
    return some(train, IMAGES), some(train, LABELLED, 1), some(test, TESTED)


def in_colours_of(encoder: ImageEncoder, data: Data) -> ImageEncoder:
    """The same network for images of other channels, where it takes three and repeats grey."""
    channels = data.shape["channels"]
    if channels == encoder.in_channels:
        return encoder
    config = {
        name: value for name, value in encoder.config.items() if name not in ("levels", "network_channels")
    }
    network_channels = encoder.adapt.out_channels
    other = encoders.build(**{**config, "in_channels": channels}, network_channels=network_channels)
    other.load_state_dict(encoder.state_dict())
    return other.eval()


def judge(encoder: ImageEncoder, train: Data, test: Data, seed: int) -> dict[str, Tensor]:
    """Which test images each probe gets right, bool, shape (images,)."""
    encoder = in_colours_of(encoder, train).eval()
    labelled = Labelled.of(train, test)
    features, queries = (read(lambda batch: of_encoder(encoder)(batch, None), data) for data in (train, test))
    mean, scale = features.mean(0), features.std(0).clamp_min(1e-6)
    features, queries, classes = (features - mean) / scale, (queries - mean) / scale, len(labelled.classes)
    (few,) = labelled.draw(FEW, 1, seed)
    predicted = {
        "linear": fit(features, labelled.labels, classes, seed=seed)(queries).argmax(1),
        "linear, 10 labels": fit(features[few], labelled.labels[few], classes, seed=seed)(queries).argmax(1),
        "kNN": knn.predict(features, labelled.labels, queries, classes),
    }
    return {name: answer == labelled.answers for name, answer in predicted.items()}


def trained(folder: Path, verb: str, method: str, data: Data, seed: int, **settings: Any) -> ImageEncoder:
    """A run that goes on where it was interrupted; its processor seconds are written beside it."""
    file, seconds = folder / "seconds.json", 0.0
    if file.exists():
        seconds, whole = json.loads(file.read_text())
        if whole:
            return unlabeled.load(folder / "run").encoder  # type: ignore[return-value]
    folder.mkdir(parents=True, exist_ok=True)
    began, whole = time.process_time(), False
    train = unlabeled.adapt if verb == "adapt" else unlabeled.pretrain
    try:
        run = train(
            method, data, out=folder / "run", resume=(folder / "run" / "checkpoint.safetensors").exists(),
            quiet=True, seed=seed, encoder="resnet10", image_size=SIZE, batch_size=BATCH, holdout=0.0, **settings,
        )  # fmt: skip
        whole = True
    finally:
        file.write_text(json.dumps([seconds + time.process_time() - began, whole]))
    return run.encoder  # type: ignore[return-value]


def measure(
    folder: Path, encoder: ImageEncoder, parts: dict[str, tuple[Data, Data, Data]], seed: int
) -> None:
    """Judge a network on data by name; what is there already stays."""
    for name, (_, train, test) in parts.items():
        file = folder / f"{name}.safetensors"
        if not file.exists():
            right = judge(encoder, train, test, seed)
            save_file({column: value.to(torch.uint8) for column, value in right.items()}, file)
            accuracies = ", ".join(
                f"{column} {100 * value.float().mean():.1f}" for column, value in right.items()
            )
            print(f"{folder.name} on {name}: {accuracies}", flush=True)


def play(arguments: Any, old: str, news: list[str], seeds: list[int]) -> None:
    """Train and measure all that is not there yet."""
    out, steps = arguments.out, arguments.steps
    parts = {Path(source).name: opened(source) for source in (old, *news)}
    first = Path(old).name
    for seed in seeds:
        start = out / f"start-{seed}"
        settings = {"steps": arguments.start_steps, "lr": 2e-3}
        encoder = trained(start, "pretrain", arguments.method, parts[first][0], seed, **settings)
        weights = start / "weights.safetensors"
        if not weights.exists():
            encoder.save(weights)
        measure(start, encoder, {name: part for name, part in parts.items() if name == first}, seed)
        for name in map(lambda source: Path(source).name, news):
            measure(start, encoder_for(weights, parts[name][0]), {name: parts[name]}, seed)
            modes: dict[str, tuple[str, dict[str, Any]]] = {
                "scratch": ("pretrain", {}),
                "plain": ("pretrain", {"weights": weights}),
                "adapt": ("adapt", {"weights": weights}),
                "distilled": ("adapt", {"weights": weights, "distill_weight": DISTILLATION}),
            }
            for mode, (verb, more) in modes.items():
                folder = out / f"{name}-{mode}-{seed}"
                network = trained(folder, verb, arguments.method, parts[name][0], seed, steps=steps, **more)
                measure(folder, network, {key: parts[key] for key in (name, first)}, seed)


def encoder_for(weights: Path, data: Data) -> ImageEncoder:
    """The start as it is, for images of some channels."""
    return in_colours_of(encoders.load(weights).eval(), data)  # type: ignore[arg-type]


def table(out: Path, old: str, news: list[str], seeds: list[int]) -> str:
    """Accuracies of the start and differences to it, on the new data and on the old."""
    lines = [
        "| new data | network | CPU s | " + " | ".join(f"{column}: new | old" for column in COLUMNS) + " |",
        "|---|---|---|" + "---|---|" * len(COLUMNS),
    ]
    for new in news:
        for mode in ("start", "scratch", "plain", "adapt", "distilled"):
            folders = [
                out / (f"start-{seed}" if mode == "start" else f"{new}-{mode}-{seed}") for seed in seeds
            ]
            if not all(
                (folder / f"{data}.safetensors").exists() for folder in folders for data in (new, old)
            ):
                continue
            seconds = sum(json.loads((folder / "seconds.json").read_text())[0] for folder in folders) / len(
                seeds
            )
            cells = [
                cell(folders, [out / f"start-{seed}" for seed in seeds], data, column)
                for column in COLUMNS
                for data in (new, old)
            ]
            lines.append(f"| {new} | {mode} | {seconds:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(folders: list[Path], starts: list[Path], data: str, column: str) -> str:
    """An accuracy of the start, or a difference to it, in points with its interval."""
    values = torch.stack([load_file(folder / f"{data}.safetensors")[column] for folder in folders]).double()
    if folders == starts:
        one = interval(values, bounds=(0, 1))
        return f"{100 * one.value:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"
    base = torch.stack([load_file(start / f"{data}.safetensors")[column] for start in starts]).double()
    one = interval(values - base, bounds=(-1, 1), difference=True)
    return f"{100 * one.value:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"


def main() -> None:
    words = parser(__doc__ or "", "image", out=Path("runs/adapt"))
    words.add_argument("old")
    words.add_argument("new", nargs="+")
    words.add_argument("--method", default="simclr")
    words.add_argument("--start-steps", type=int, default=1000)
    words.add_argument("--steps", type=int, default=250)
    words.add_argument("--seeds", default="0,1,2")
    words.add_argument("--table", action="store_true", help="print the table of the runs that are there")
    arguments = words.parse_args()
    torch.set_num_threads(arguments.threads)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    if not arguments.table:
        play(arguments, arguments.old, arguments.new, seeds)
    print(table(arguments.out, Path(arguments.old).name, [Path(new).name for new in arguments.new], seeds))


if __name__ == "__main__":
    main()

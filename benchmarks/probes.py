"""The probes of frozen features, in processor seconds beside lightly's and beside a bare matrix product:

    python benchmarks/probes.py DATA [--out runs/probes] [--epochs 90] [--only linear]

DATA is a folder with CIFAR-10 as parquet. Its features, 512 numbers for each of 50,000 + 10,000 images, come from a
ResNet-10 that SimCLR trains for 150 steps; they are kept in the folder `--out`. One thread; all take turns.

Linear: lightly's `LinearClassifier` in Lightning's `Trainer` with the settings of its benchmarks (SGD, momentum 0.9,
rate 0.1 at a batch of 256, cosine schedule, 90 epochs), here on features in memory and without validation; and the
same settings in a plain loop. A seed decides their order and first weights, and which fifth chooses our penalty.
Nearest neighbours: our time beside that of the products of all queries with all keys alone, in the same chunks.
"""

import argparse
import importlib.util
import logging
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import unlabeled
from unlabeled.data import open_splits
from unlabeled.evaluation import embed, logistic
from unlabeled.evaluation.probes import knn

STEPS, BATCH, RATE, ROUNDS, CHUNK = 150, 256, 0.1, 5, 1024
Probe = Callable[[dict[str, Tensor], int, int], Tensor]
"""From features with labels, epochs and seed to the classes of the test samples."""


def features(data: str, out: Path) -> dict[str, Tensor]:
    """`train` and `test` with their labels, from `out` if they are there."""
    path = out / "features.safetensors"
    if not path.exists():
        train, test = open_splits(data)
        run = unlabeled.pretrain(
            "simclr", train, out=out / "run", encoder="resnet10t", image_size=32, steps=STEPS, batch_size=BATCH,
            lr=2e-3, crop=0.2,
        )  # fmt: skip
        labels = {"train_labels": train.labels, "test_labels": test.labels}
        save_file(labels | {"train": embed(run, train)[0], "test": embed(run, test)[0]}, path)
    return load_file(path)


def ours(data: dict[str, Tensor], epochs: int, seed: int) -> Tensor:
    fitted = logistic.fit(data["train"], data["train_labels"], int(data["train_labels"].max()) + 1, seed=seed)
    return fitted(data["test"]).argmax(1)


def lightly(data: dict[str, Tensor], epochs: int, seed: int) -> Tensor:
    from lightly.utils.benchmarking import LinearClassifier
    from pytorch_lightning import Trainer

    torch.manual_seed(seed)
    samples = TensorDataset(data["train"], data["train_labels"])
    loader = DataLoader(samples, batch_size=BATCH, shuffle=True, drop_last=True)
    classes, width = int(data["train_labels"].max()) + 1, data["train"].shape[1]
    classifier = LinearClassifier(
        nn.Identity(), batch_size_per_device=BATCH, lr=RATE, feature_dim=width, num_classes=classes
    )
    Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(classifier, loader)  # fmt: skip
    with torch.no_grad():
        return classifier.eval()(data["test"]).argmax(1)


def plain(data: dict[str, Tensor], epochs: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    x, y = data["train"], data["train_labels"]
    classifier = nn.Linear(x.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=RATE * BATCH / 256, momentum=0.9)
    steps = len(x) // BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for rows in order[: steps * BATCH].view(steps, BATCH):
            loss = F.cross_entropy(classifier(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return classifier(data["test"]).argmax(1)


def seconds(act: Callable[[], object]) -> float:
    began = time.process_time()
    act()
    return time.process_time() - began


def compare_linear(data: dict[str, Tensor], epochs: int, seeds: int) -> None:
    """Accuracy over the seeds and time of each probe; ours has a turn before each of the others."""
    others: dict[str, Probe] = {"plain loop, lightly's settings": plain}
    if importlib.util.find_spec("lightly"):
        others["lightly `LinearClassifier`"] = lightly
    names = ["ours", *others]
    times: dict[str, list[float]] = {name: [] for name in names}
    right: dict[str, list[float]] = {name: [] for name in names}

    def turn(name: str, probe: Probe, seed: int) -> None:
        began = time.process_time()
        predicted = probe(data, epochs, seed)
        times[name].append(time.process_time() - began)
        right[name].append(100 * (predicted == data["test_labels"]).float().mean().item())
        print(f"seed {seed}: {name} {right[name][-1]:.2f} % in {times[name][-1]:.2f} s", flush=True)

    for seed in range(seeds):
        for name, probe in others.items():
            turn("ours", ours, seed)
            turn(name, probe, seed)
    print(
        "\n| linear probe | accuracy, mean of the seeds | each | processor seconds, median | of how many "
        "| ours is faster by |"
    )
    print("|---|---|---|---|---|---|")
    for name in names:
        faster = median(times[name]) / median(times["ours"])
        each = ", ".join(f"{value:.2f}" for value in dict.fromkeys(right[name]))
        print(
            f"| {name} | {mean(right[name]):.2f} | {each} | {median(times[name]):.2f} | {len(times[name])} "
            f"| {faster:.1f} |"
        )


def compare_neighbours(data: dict[str, Tensor]) -> None:
    """Our vote beside the products alone."""
    train, labels, test = data["train"], data["train_labels"], data["test"]
    center = train.mean(0)
    train, test = train - center, test - center

    def products() -> None:
        for queries in test.split(CHUNK):
            queries @ train.T

    print("\n| k | accuracy | products alone, s | ours, s | share of the products |\n|---|---|---|---|---|")
    for k in (20, 200):
        alone, whole = [], []
        predicted = knn.predict(train[:CHUNK], labels[:CHUNK], test[:CHUNK], 10, k=k)
        for _ in range(ROUNDS):
            alone.append(seconds(products))
            began = time.process_time()
            predicted = knn.predict(train, labels, test, 10, k=k, chunk=CHUNK)
            whole.append(time.process_time() - began)
        accuracy = 100 * (predicted == data["test_labels"]).float().mean()
        share = median(one / other for one, other in zip(alone, whole, strict=True))
        print(
            f"| {k} | {accuracy:.2f} | {median(alone):.2f} | {median(whole):.2f} | {share:.1%} |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, default=Path("runs/probes"))
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=["linear", "neighbours"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    data = features(arguments.data, arguments.out)
    print(f"{tuple(data['train'].shape)} and {tuple(data['test'].shape)}, load {os.getloadavg()[0]:.1f}")
    if arguments.only != "neighbours":
        compare_linear(data, arguments.epochs, arguments.seeds)
    if arguments.only != "linear":
        compare_neighbours(data)


if __name__ == "__main__":
    main()

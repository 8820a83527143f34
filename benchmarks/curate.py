"""Does half of a long-tailed pool, chosen by `curate`, train an encoder as good as all of it?

    python benchmarks/curate.py PATH/TO/cifar10 --out runs/curate
    python benchmarks/curate.py --print --out runs/curate

The training images are made long-tailed: class c of 10 keeps a fraction 100^(-c/9), so that the last has a hundredth of
the first. Of each class 500 images are held apart before that: half of them are the labels of the probes, on the other
half options are chosen. SimCLR trains `conv4` for the same number of steps on the whole pool, on a random half of it,
and on halves that `curate` chooses by the features of `auto` and by those of the run on the pool. Linear probe and kNN
learn from the balanced labels and are measured on 500 test images of each class. Three seeds draw the pool, the halves
and the training. Differences are to the whole pool and to the random half on the same test images; brackets are 95 %
intervals over test images and seeds. What is finished stays in --out: the same command goes on after an interruption.
"""

import argparse
import json
import time
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import unlabeled
from unlabeled.curating import curate
from unlabeled.data import Data, open_splits
from unlabeled.encoders import Encoder
from unlabeled.evaluation.features import of_encoder, read
from unlabeled.evaluation.intervals import interval
from unlabeled.evaluation.logistic import fit
from unlabeled.evaluation.probes import knn

RATIO, APART, TESTED, SEEDS, STEPS = 100, 500, 500, 3, 200
TRAINING = {
    "encoder": "conv4",
    "batch_size": 128,
    "lr": 2e-3,
    "image_size": 32,
    "holdout": 0.0,
    "quiet": True,
}
ARMS = {
    "pool": "whole pool",
    "random": "random half",
    "own": "curated half, features of the run on the pool",
    "auto": "curated half, features of `auto`",
}
PROBES = ("linear", "kNN")


def held_apart(train: Data) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the probes' labels, of the labels by which options are chosen, and all others."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    by_class = [order[train.labels[order] == number] for number in range(10)]
    half = APART // 2
    probing, choosing = (torch.cat([rows[first : first + half] for rows in by_class]) for first in (0, half))
    return probing, choosing, torch.cat([rows[APART:] for rows in by_class])


def long_tailed(labels: Tensor, seed: int) -> Tensor:
    """Rows of a part in which the classes are ever smaller, the last a hundredth of the first."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    pieces = []
    for number in range(10):
        rows = order[labels[order] == number]
        pieces.append(rows[: round(len(rows) * RATIO ** (-number / 9))])
    return torch.cat(pieces).msort()


def judge(encoder: Encoder, probing: Data, tested: dict[str, Data]) -> dict[str, Tensor]:
    """Which images each probe gets right, bool, by probe and part."""
    vectors = [
        read(lambda batch: of_encoder(encoder)(batch, None), data) for data in (probing, *tested.values())
    ]
    mean, scale = vectors[0].mean(0), vectors[0].std(0).clamp_min(1e-6)
    features, *queries = ((values - mean) / scale for values in vectors)
    linear = fit(features, probing.labels, 10, seed=0)
    right = {}
    for (name, data), query in zip(tested.items(), queries):
        right[f"linear {name}"] = linear(query).argmax(1) == data.labels
        right[f"kNN {name}"] = knn.predict(features, probing.labels, query, 10) == data.labels
    return right


def measure(source: str, out: Path) -> None:
    """Train and score what is not there yet."""
    train, test = open_splits(source, store_size=32)
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    test = test.subset(torch.cat([order[test.labels[order] == number][:TESTED] for number in range(10)]))
    probing, choosing, rest = held_apart(train)
    tested = {"choice": train.subset(choosing), "test": test}
    # The features of auto, which take longest, come last.
    cells = sorted(product(range(SEEDS), ARMS), key=lambda cell: cell[1] == "auto")
    for seed, arm in cells:
        folder = out / f"{arm}-{seed}"
        if not (folder / "right.safetensors").exists():
            folder.mkdir(parents=True, exist_ok=True)
            rows = rest[long_tailed(train.labels[rest], seed)]
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
            _measure(folder, arm, train.subset(rows[order]), train.subset(probing), tested, seed)


def _measure(folder: Path, arm: str, pool: Data, probing: Data, tested: dict[str, Data], seed: int) -> None:
    began, seconds = time.process_time(), {}
    part, facts = pool, {}
    if arm == "random":
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(100 + seed))
        part = pool.subset(order[: len(pool) // 2])
    elif arm != "pool":
        run = "auto" if arm == "auto" else unlabeled.load(folder.parent / f"pool-{seed}" / "run")
        curation = curate(pool, run, seed=seed, out=folder, device="cpu")
        part, facts = curation.subset, {"summary": curation.summary()}
    seconds["choosing"] = time.process_time() - began
    began = time.process_time()
    run = unlabeled.pretrain(
        "simclr",
        part,
        out=folder / "run",
        resume=(folder / "run").exists(),
        steps=STEPS,
        seed=seed,
        **TRAINING,
    )
    seconds["training"] = time.process_time() - began
    began = time.process_time()
    right = judge(run.encoder, probing, tested)
    seconds["probing"] = time.process_time() - began
    counts = part.labels.bincount(minlength=10).tolist()
    record = {"images": len(part), "classes": counts, "seconds": seconds, **facts}
    (folder / "about.json").write_text(json.dumps(record, indent=1))
    save_file({name: value.to(torch.uint8) for name, value in right.items()}, folder / "right.safetensors")
    accuracies = ", ".join(f"{name} {100 * value.float().mean():.1f}" for name, value in right.items())
    print(f"{folder.name}: {len(part):,} images, {accuracies}; CPU seconds {seconds}", flush=True)


def table(out: Path) -> str:
    """Scores of all arms and their differences, as markdown, and what was chosen."""
    arms = [
        arm for arm in ARMS if all((out / f"{arm}-{n}" / "right.safetensors").exists() for n in range(SEEDS))
    ]
    right = {arm: [load_file(out / f"{arm}-{n}" / "right.safetensors") for n in range(SEEDS)] for arm in arms}
    about = {
        arm: [json.loads((out / f"{arm}-{n}" / "about.json").read_text()) for n in range(SEEDS)]
        for arm in arms
    }

    def values(arm: str, name: str) -> Tensor:
        return torch.stack([one[name] for one in right[arm]]).double()

    def cell(arm: str, name: str, base: str | None = None) -> str:
        if base is not None and (base == arm or base not in arms):
            return ""
        difference = values(arm, name) - (0 if base is None else values(base, name))
        one = interval(difference, bounds=(0, 1) if base is None else (-1, 1), difference=base is not None)
        sign = "" if base is None else "+"
        return f"{100 * one.value:{sign}.1f} [{100 * one.low:{sign}.1f}, {100 * one.high:{sign}.1f}]"

    heads = [f"{probe}{what}" for probe in PROBES for what in ("", ", to the pool", ", to the random half")]
    lines = [
        f"| trained on | images | smallest class | CPU s to choose | {' | '.join(heads)} |",
        "|---" * (4 + len(heads)) + "|",
    ]
    for arm in arms:
        cells = [cell(arm, f"{probe} test", base) for probe in PROBES for base in (None, "pool", "random")]
        images, smallest, seconds = (
            sum(one) / SEEDS
            for one in (
                [record["images"] for record in about[arm]],
                [min(record["classes"]) for record in about[arm]],
                [record["seconds"]["choosing"] for record in about[arm]],
            )
        )
        lines.append(
            f"| {ARMS[arm]} | {images:,.0f} | {smallest:.0f} | {seconds:.0f} | {' | '.join(cells)} |"
        )
    curated = [arm for arm in arms if arm in ("auto", "own")]
    if curated:
        chosen = {arm: float(values(arm, "linear choice").mean()) for arm in curated}
        best = max(chosen, key=lambda arm: chosen[arm])
        scores = ", ".join(f"{arm} {100 * score:.1f}" for arm, score in chosen.items())
        lines += ["", f"By the linear probe on the images held apart ({scores}), {best} is chosen."]
    total = sum(sum(record["seconds"].values()) for records in about.values() for record in records)
    return "\n".join([*lines, "", f"{total / 60:.0f} CPU minutes in all."])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", help="folder of CIFAR-10")
    parser.add_argument("--out", type=Path, default=Path("runs/curate"))
    parser.add_argument("--print", action="store_true", help="print the table of what is finished")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.print:
        if arguments.data is None:
            parser.error("data must be named")
        measure(arguments.data, arguments.out)
    print(table(arguments.out))


if __name__ == "__main__":
    main()

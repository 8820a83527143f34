"""What ten minutes of two cores give: `auto`, the dictionary and deep methods beside the controls of a sceptic.

    python benchmarks/laptop.py DATA --out runs/laptop [--sets cifar10,kmnist10k] [--minutes 2] [--images 10000]
    python benchmarks/laptop.py DATA --out runs/laptop --table

DATA holds one folder for each set. Every method trains with its plain defaults on the training part (of at most
`--images`), the deep ones for `--minutes`, as their default of 10 minutes each would be more than the whole. Nothing is
chosen by the test part. Numbers are accuracies in %: k nearest neighbours, and linear probes of all labels and of 10
a class, with 95 % intervals, or the deviation over 5 draws of the labels. The controls of a set are measured beside
`auto`; a deep method has beside it its own network untrained, and the best map of that network.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import unlabeled
from unlabeled.data import Data, open_splits
from unlabeled.evaluation import evaluate

DEEP = {"image": ("simclr", "moco", "rotnet"), "audio": ("apc",), "text": ("skipgram", "bert")}
SETS = {
    "cifar10": ("image", "cifar10"),
    "caltech96": ("image", "caltech96"),
    "kmnist10k": ("image", "kmnist10k"),
    "pneumonia28": ("image", "pneumonia28"),
    "fsdd": ("audio", "fsdd"),
    "esc10": ("audio", "esc10"),
    "trec6": ("text", "sentence_cls/trec6"),
    "ag_news": ("text", "sentence_cls/ag_news"),
}
"""Kind and folder of each set."""
SCEPTIC = {"image": ("default", "dictionary"), "audio": ("default",), "text": ("default",)}
COLUMNS = (("knn", "all"), ("linear", "all"), ("linear", 10))


def parts(folder: Path, kind: str, images: int) -> tuple[Data, Data]:
    """Training and test part of a set, the first of them of at most so many samples, drawn by a fixed seed."""
    train, test = open_splits(folder, kind=kind)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    return train.subset(order[:images].sort().values) if len(train) > images else train, test


def judge(name: str, train: Data, test: Data, out: Path, minutes: float) -> None:
    """Train a method and measure it beside its controls; what is there already stays."""
    target = out / f"{name}.json"
    if target.exists():
        return
    settings: dict[str, Any] = {} if name in ("auto", "patch_dictionary") else {"minutes": minutes}
    began = time.perf_counter()
    run = unlabeled.pretrain(name, train, out=out / name, quiet=True, resume=True, **settings)
    trained = time.perf_counter()
    timed = out / name / "seconds.json"  # a finished run is resumed in no time
    if not timed.exists():
        timed.write_text(json.dumps(round(trained - began)))
    untrained = ("random", "maps") if train.kind == "image" else ("random",)
    controls = SCEPTIC[train.kind] if name == "auto" else untrained if name in DEEP[train.kind] else ()
    scores = evaluate(run, (train, test), labels_per_class=("all", 10), controls=controls)
    seconds = [json.loads(timed.read_text()), round(time.perf_counter() - trained)]
    target.write_text(json.dumps({"seconds": seconds, "records": list(scores.records)}, indent=1))
    print(f"{out.name} {name}: {seconds} s\n{scores.table()}\n{scores.verdict()}", flush=True)


def cell(record: dict[str, Any] | None) -> str:
    if record is None:
        return ""
    value = f"{100 * record['value']:.1f}"
    if record.get("draws", 1) > 1:
        return f"{value} ± {100 * record['std']:.1f}"
    return f"{value} [{100 * record['low']:.1f}, {100 * record['high']:.1f}]"


def table(out: Path) -> str:
    """One table for each set: methods, then controls, with the seconds of training and of evaluation."""
    lines = []
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        lines += [
            f"\n**{folder.name}**\n",
            "| features | seconds | kNN | linear | linear, 10 labels per class |",
            "|---|---|---|---|---|",
        ]
        methods: dict[str, str] = {}
        controls: dict[
            tuple[str, str], list[str]
        ] = {}  # methods with the same network share its untrained rows
        for file in sorted(folder.glob("*.json")):
            content = json.loads(file.read_text())
            by_features: dict[str, dict[tuple[str, Any], dict[str, Any]]] = {}
            for record in content["records"]:
                column = record["probe"], record["labels_per_class"]
                by_features.setdefault(record["features"], {})[column] = record
            for features, records in by_features.items():
                cells = " | ".join(cell(records.get(column)) for column in COLUMNS)
                if features == "unlabeled":
                    methods[file.stem] = f"{content['seconds'][0]} + {content['seconds'][1]} | {cells}"
                else:
                    controls.setdefault((features, cells), []).append(file.stem)
        lines += [f"| {name} | {cells} |" for name, cells in methods.items()]
        for (features, cells), beside in sorted(controls.items(), key=lambda row: row[1] != ["auto"]):
            network = "" if beside == ["auto"] else f" of {', '.join(name for name in beside)}"
            lines.append(f"| control: {features}{network} | | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/laptop"))
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--methods", default="auto,patch_dictionary,deep")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    for name in () if options.table else options.sets.split(","):
        (kind, folder), out = SETS[name], options.out / name
        out.mkdir(parents=True, exist_ok=True)
        train, test = parts(options.data / folder, kind, options.images)
        for method in options.methods.split(","):
            for one in DEEP[kind] if method == "deep" else [method]:
                if one != "patch_dictionary" or kind == "image":  # of sounds auto is the dictionary alone
                    judge(one, train, test, out, options.minutes)
    print(table(options.out))


if __name__ == "__main__":
    main()

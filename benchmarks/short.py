"""Every image method trained for a minute on CIFAR-10: whether it learns anything, not how good it gets.

    python benchmarks/short.py PATH/TO/cifar10 --out runs/short [--methods simclr,cpc] [--minutes 1]
    python benchmarks/short.py PATH/TO/cifar10 --out runs/short --table

Methods train with their plain defaults on 5,000 training images. Probes learn from the labels of the same images and
are scored on 2,000 other training images, beside the same network untrained and raw pixels. Test images are not read.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import unlabeled
from methods import names
from unlabeled.data import open_data
from unlabeled.evaluation import evaluate

LEFT_OUT = ("distillation", "seco")
"""One needs a teacher, the other several images of a place."""
CONTROLS = ("raw", "random")


def judge(method: str, data: Path, out: Path, minutes: float) -> None:
    """Train one method and score it; what is there already stays."""
    target = out / f"{method}.json"
    if target.exists():
        return
    train = open_data(data, kind="image", split="train")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    learned, held_out = train.subset(order[:5000]), train.subset(order[5000:7000])
    began = time.process_time()
    run = unlabeled.pretrain(method, learned, minutes=minutes, out=out / method, quiet=True)
    seconds = round(time.process_time() - began)
    scores = evaluate(run, (learned, held_out), controls=CONTROLS)
    last = {key: run.history[-1].get(key) for key in ("step", "loss", "chance", "holdout_loss")}
    target.write_text(
        json.dumps({"seconds": seconds, "last": last, "records": list(scores.records)}, indent=1)
    )
    print(f"{method}: {seconds} s, {last}\n{scores.verdict()}", flush=True)


def table(out: Path) -> str:
    """One row for each method: its last loss beside chance, and its scores beside those of its own controls."""
    lines = [
        "| method | CPU s | steps | loss, chance | kNN | untrained | linear | untrained |",
        "|---|---|---|---|---|---|---|---|",
    ]
    raw: dict[str, Any] = {}
    for file in sorted(out.glob("*.json")):
        content = json.loads(file.read_text())
        scores = {(record["features"], record["probe"]): record for record in content["records"]}
        raw |= {probe: scores["raw", probe]["value"] for probe in ("knn", "linear")}
        last, cells = content["last"], []
        for probe in ("knn", "linear"):
            ours = scores["unlabeled", probe]
            interval = f"[{100 * ours['low']:.1f}, {100 * ours['high']:.1f}]"
            cells.append(
                f"{100 * ours['value']:.1f} {interval} | {100 * scores['random', probe]['value']:.1f}"
            )
        chance = "-" if last["chance"] is None else f"{last['chance']:.3g}"
        loss = f"{last['loss']:.3g}, {chance}"
        lines.append(
            f"| `{file.stem}` | {content['seconds']} | {last['step']} | {loss} | {' | '.join(cells)} |"
        )
    lines += [f"\nRaw pixels: kNN {100 * raw['knn']:.1f}, linear {100 * raw['linear']:.1f}."] if raw else []
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/short"))
    parser.add_argument(
        "--methods", default=",".join(name for name in names("image") if name not in LEFT_OUT)
    )
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for method in () if options.table else options.methods.split(","):
        judge(method, options.data, options.out, options.minutes)
    print(table(options.out))


if __name__ == "__main__":
    main()

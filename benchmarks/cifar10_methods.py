"""Every image method on CIFAR-10 with one small budget, beside its controls.

    python benchmarks/cifar10_methods.py DATA --out runs/benchmark [--methods simclr,byol] [--threads 1]
    python benchmarks/cifar10_methods.py DATA --out runs/benchmark --table      # only print what is there
    python benchmarks/cifar10_methods.py DATA --table --json docs/cifar10.json  # and write the numbers of README.md

DATA is a folder with CIFAR-10 as parquet. Of 10,000 training images every method trains on 8,000, twice for the same
number of epochs: with its plain defaults, and with its recipe. The linear probe on the other 2,000, which
no training saw, chooses between the two; the 10,000 test images choose nothing. Probes learn from the labels of the
8,000. Both runs are judged on the test images, and both are printed.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch

import unlabeled
from methods import names, parser, recipe
from unlabeled.data import Data, open_splits
from unlabeled.evaluation import evaluate

IMAGES, CHOOSING = 10_000, 2_000
CONTROLS = ("raw", "random", "rescaled")
BUDGET = "Accuracy of a linear probe after three to five CPU minutes of training (jigsaw 14) on 8,000 images."


def settings(name: str, variant: str) -> dict[str, Any]:
    """What differs from the plain defaults."""
    if variant == "defaults":
        return {}
    return {key: value for key, value in recipe(name).items() if key != "epochs"}


def train(name: str, variant: str, images: Data, out: Path) -> None:
    """One run; its processor time is written beside it."""
    folder = out / name / variant
    if (folder / "seconds.json").exists():
        return
    began = time.process_time()
    unlabeled.pretrain(name, images, out=folder, epochs=recipe(name)["epochs"], **settings(name, variant))
    (folder / "seconds.json").write_text(json.dumps(round(time.process_time() - began)))


def judge(folder: Path, images: Data, choosing: Data, test: Data) -> None:
    """Accuracy on the images that choose, and scores on the test images."""
    run = unlabeled.load(folder)
    held_out = evaluate(run, (images, choosing), probe="linear", controls=())
    (folder / "choosing.json").write_text(json.dumps(held_out.best["value"]))
    scores = evaluate(run, (images, test), probe=("knn", "linear"), controls=CONTROLS)
    scores.to_json(folder / "test.json")
    print(folder, held_out.best["value"], scores.verdict(), flush=True)


def cell(record: dict[str, Any]) -> str:
    return f"{100 * record['value']:.1f} [{100 * record['low']:.1f}, {100 * record['high']:.1f}]"


def of_run(folder: Path) -> tuple[dict[tuple[str, str], dict[str, Any]], float]:
    """Records on the test images by features and probe, and the accuracy on those that choose."""
    from unlabeled.evaluation import Scores

    records = {
        (record["features"], record["probe"]): record for record in Scores.from_json(folder / "test.json")
    }
    return records, json.loads((folder / "choosing.json").read_text())


def table(out: Path) -> tuple[str, dict[str, Any]]:
    """Markdown table of all methods, best linear probe of the chosen options first, and the numbers of README.md."""
    rows, scores, controls = [], {}, {}
    for folder in sorted(path.parent.parent for path in out.glob("*/defaults/test.json")):
        plain, plain_choice = of_run(folder / "defaults")
        best, choice = plain, f"{100 * plain_choice:.1f} / not run: defaults"
        if (folder / "tuned" / "test.json").exists():
            tuned, tuned_choice = of_run(folder / "tuned")
            options = ", ".join(f"{key} {value:g}" for key, value in settings(folder.name, "tuned").items())
            best, words = (tuned, options) if tuned_choice > plain_choice else (plain, "defaults")
            choice = f"{100 * plain_choice:.1f} / {100 * tuned_choice:.1f}: {words}"
        for control in CONTROLS:
            controls.setdefault(control, (best[control, "knn"], best[control, "linear"]))
        won = {p: all(best[c, p]["margin_low"] > 0 for c in CONTROLS) for p in ("knn", "linear")}
        beaten = " and ".join(probe for probe, better in won.items() if better) or "neither"
        seconds = json.loads((folder / "defaults" / "seconds.json").read_text())
        line = (
            f"| {folder.name} | {recipe(folder.name)['epochs']} | {seconds} | {cell(plain['unlabeled', 'knn'])} | "
            f"{cell(plain['unlabeled', 'linear'])} | {choice} | "
            f"{cell(best['unlabeled', 'knn'])} | {cell(best['unlabeled', 'linear'])} | {beaten} |"
        )
        values = {
            "defaults": plain["unlabeled", "linear"]["value"],
            "chosen": best["unlabeled", "linear"]["value"],
        }
        scores[folder.name] = values
        rows.append((values["chosen"], line))
    lines = [
        "| method | epochs | CPU seconds | kNN, defaults | linear, defaults | selection accuracy "
        "(defaults / alternative): chosen | kNN, chosen | linear, chosen | beats all controls with |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [line for _, line in sorted(rows, reverse=True)]
    names = {"raw": "*raw pixels*", "random": "*random weights*", "rescaled": "*rescaled random weights*"}
    lines += [
        f"| {names[c]} | - | - | {cell(knn)} | {cell(linear)} | - | {cell(knn)} | {cell(linear)} | |"
        for c, (knn, linear) in controls.items()
    ]
    untrained = {name: linear["value"] for name, (_, linear) in controls.items()}
    return "\n".join(lines), {"budget": BUDGET, "controls": untrained, "methods": scores}


def main() -> None:
    words = parser(__doc__ or "", "image", out=Path("runs/benchmark"))
    words.set_defaults(methods=",".join(name for name in names("image") if "epochs" in recipe(name)))
    words.add_argument("data")
    words.add_argument("--train-only", action="store_true", help="judge nothing yet")
    words.add_argument("--table", action="store_true", help="print the table of the runs that are there")
    words.add_argument("--json", type=Path, help="file for the numbers of README.md")
    arguments = words.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.table:
        everything, test = open_splits(arguments.data)
        rows = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))[:IMAGES]
        images, choosing = everything.subset(rows[CHOOSING:]), everything.subset(rows[:CHOOSING])
        for name in arguments.methods.split(","):
            for variant in ("defaults", "tuned"):
                train(name, variant, images, arguments.out)
                if not arguments.train_only:
                    judge(arguments.out / name / variant, images, choosing, test)
    text, numbers = table(arguments.out)
    print(text)
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()

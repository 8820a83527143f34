"""Methods for sounds on speakers that they never heard: spoken digits, two halves of the six speakers in turn.

    python benchmarks/new_speakers.py [--seconds 240] [--methods audio_restoration,apc] [--out runs/new-speakers]

Every method trains for about that many processor seconds on the recordings of three speakers, without labels. The kNN
and the linear probe learn from the labels of the same recordings, are tested on each of the other three speakers, and
stand beside all default controls; then the halves change places. A row is the mean over the six speakers with
Student's t interval over them; its margin is how far the method is ahead of it, speaker by speaker. Recordings are
looked for in ../shared/data/fsdd; scores of each speaker go to scores.json in the folder.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from audio_methods import join, opened

import unlabeled
from methods import parser, recipe, steps_within
from unlabeled import encoders, methods
from unlabeled.data import Data

QUANTILE = 2.571
"""97.5 % quantile of Student's t with 5 degrees of freedom, those of six speakers."""
Cells = dict[tuple[str, str], list[float]]
"""Accuracy on each speaker, by probe and features."""


def trained(name: str, train: Data, seconds: float, out: Path) -> Any:
    torch.manual_seed(0)
    settings = recipe(name)
    encoder = encoders.fitted(settings["encoder"], train, kind="audio")
    steps = steps_within(seconds, methods.load(name)(encoder), train, settings["batch_size"])
    began = time.process_time()
    run = unlabeled.pretrain(name, train, out=out, quiet=True, steps=steps, **settings)
    cpu_seconds, last = time.process_time() - began, run.history[-1]
    shown = {key: round(value, 3) for key, value in last["metrics"].items()}
    print(
        f"{out.name}: {last['step']} steps, {cpu_seconds:.0f} processor seconds, loss {last['loss']:.4f} ",
        end="",
    )
    print(f"(chance {last['chance']:.4f}) {shown}", flush=True)
    return run


def measured(name: str, data: Data, seconds: float, out: Path) -> Cells:
    """Accuracies on all speakers, three at a time."""
    speaker, cells = data.factors["speaker"], {}
    for half in ([0, 1, 2], [3, 4, 5]):
        unheard = torch.isin(speaker, torch.tensor(half))
        train = data.subset(~unheard)
        run = trained(name, train, seconds, out / f"{name}-{3 - half[0]}")
        for one in half:
            scores = unlabeled.evaluate(run, (train, data.subset(speaker == one)), device="cpu")
            for record in scores.records:
                cells.setdefault((record["probe"], record["features"]), []).append(record["value"])
    return cells


def interval(values: list[float]) -> str:
    """Mean and Student's t interval, in percent."""
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    reach = QUANTILE * deviation / math.sqrt(len(values))
    return f"{100 * mean:.1f} [{100 * (mean - reach):.1f}, {100 * (mean + reach):.1f}]"


def show(name: str, cells: Cells) -> None:
    """Print a table in Markdown."""
    columns = ["features", "probe", "digit, mean of speakers", "speakers 0 to 5", "margin of the method"]
    print("\n| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for (probe, features), values in cells.items():
        ours = features == "unlabeled"
        margins = [a - b for a, b in zip(cells[probe, "unlabeled"], values, strict=True)]
        each = ", ".join(f"{100 * value:.1f}" for value in values)
        title, margin = (f"`{name}`", "") if ours else (f"*{features}*", interval(margins))
        print(f"| {title} | {probe} | {interval(values)} | {each} | {margin} |")
    print(flush=True)


def main() -> None:
    words = parser(__doc__ or "", "audio", seconds=240, out=Path("runs/new-speakers"))
    arguments = words.parse_args()
    torch.set_num_threads(arguments.threads)
    data, results = join(*opened("fsdd")), {}
    for name in arguments.methods.split(","):
        cells = measured(name, data, arguments.seconds, arguments.out)
        show(name, cells)
        results[name] = {" ".join(key): values for key, values in cells.items()}
        (arguments.out / "scores.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

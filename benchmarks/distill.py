"""A small network that learns from a large one: what is left of its kNN accuracy, and how fast it is.

    python benchmarks/distill.py PATH/TO/kmnist10k --out runs/distill [--minutes 6] [--student 4]

SimCLR trains a ResNet-18 on the training images, without labels; a conv4 with less than a tenth of the weights learns
from it by `distillation`, and another conv4 learns by SimCLR for the time of both. All are frozen and judged by kNN
with the labels of all training images; brackets are 95 % intervals over test images. Each is exported to ONNX, and its
time is that of one image at a time in onnxruntime with one thread, the median of 200, networks in turns. Minutes are
processor time of one thread. What is finished stays in --out: the same command resumes.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
import torch
from few_labels import CHARACTERS

import unlabeled
from unlabeled.evaluation import Scores, evaluate
from unlabeled.exporting import export
from unlabeled.training import duration

ROWS = {
    "teacher": ("ResNet-18, SimCLR", "simclr", "resnet18"),
    "student": ("conv4, distillation", "distillation", "conv4"),
    "alone": ("conv4, SimCLR", "simclr", "conv4"),
}
TIMED = 200


def trained(row: str, source: str, out: Path, minutes: float, **options: Any) -> Any:
    """The run of a row, trained where it is not yet."""
    _, method, encoder = ROWS[row]
    folder = out / row
    if (folder / "scores.json").is_file():
        return unlabeled.load(folder)
    duration.clock = time.process_time
    settings = {"encoder": encoder, "batch_size": 128, "device": "cpu", "quiet": True}
    run = unlabeled.pretrain(
        method, source, out=folder, resume=folder.exists(), minutes=minutes, **settings, **options
    )
    controls = ("raw", "random") if row == "student" else ()
    evaluate(run, source, probe="knn", controls=controls, device="cpu").to_json(folder / "scores.json")
    return run


def milliseconds(runs: dict[str, Any], out: Path) -> dict[str, float]:
    """Median time of one image, in turns."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions, times = {}, {row: [] for row in runs}
    for row, run in runs.items():
        export(run, out / f"{row}.onnx", format="onnx")
        sessions[row] = onnxruntime.InferenceSession(out / f"{row}.onnx", options, ["CPUExecutionProvider"])
    for _ in range(TIMED):
        for row, session in sessions.items():
            size, channels = runs[row].encoder.image_size, runs[row].encoder.in_channels
            image = {session.get_inputs()[0].name: np.zeros((1, channels, size, size), np.float32)}
            began = time.perf_counter()
            session.run(None, image)
            times[row].append(time.perf_counter() - began)
    return {row: 1000 * median(values) for row, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="folder of labelled images")
    parser.add_argument("--out", type=Path, default=Path("runs/distill"))
    parser.add_argument("--minutes", type=float, default=6.0, help="of the teacher")
    parser.add_argument("--student", type=float, default=4.0, help="minutes of the student")
    words = parser.parse_args()
    torch.set_num_threads(1)
    views = {name: CHARACTERS[name] for name in ("crop", "flip")}
    teacher = trained("teacher", words.data, words.out, words.minutes, **CHARACTERS)
    student = trained("student", words.data, words.out, words.student, teacher=str(teacher.path), **views)
    alone = trained("alone", words.data, words.out, words.minutes + words.student, **CHARACTERS)
    runs = {"teacher": teacher, "student": student, "alone": alone}
    times = milliseconds(runs, words.out)
    print("| network | weights | steps | kNN | ms an image |\n|---|---|---|---|---|")
    values = {}
    for row, run in runs.items():
        weights = sum(weight.numel() for weight in run.encoder.parameters())
        for one in Scores.from_json(words.out / row / "scores.json"):
            score = f"{100 * one['value']:.1f} [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"
            if one["features"] == "unlabeled":
                values[row] = one["value"]
                print(f"| {ROWS[row][0]} | {weights:,} | {run.step} | {score} | {times[row]:.2f} |")
            else:
                print(f"| *{one['features']}* | | | {score} | |")
    print(
        f"\nThe student has {100 * values['student'] / values['teacher']:.1f} % of the accuracy of the teacher."
    )


if __name__ == "__main__":
    main()

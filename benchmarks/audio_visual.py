"""Audio-visual correspondence with a small budget: retrieval and pointing beside their controls.

    python benchmarks/audio_visual.py [--seconds 150] [--pool max,location] [--threads 1]
    python benchmarks/audio_visual.py --data PATH/TO/CLIPS [--seconds 150]

Without data, pairs of the built-in `chiming_shapes` are learned from: one shape in each picture. Pointing is then
tried on `chiming_shapes:distractor`, where a second shape makes no sound, which was never seen in training. With
data, a folder of videos with sound, clips of the test part retrieve each other.
Seconds are those of the processor, of the training alone.
"""

import argparse
import time
from typing import Any

import torch

from unlabeled.data import Data, open_splits
from unlabeled.encoders.audio_visual import fitted
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.scores import Scores
from unlabeled.evaluation.tasks import localisation, retrieval
from unlabeled.methods.audio_visual_correspondence import AudioVisualCorrespondence


def train(
    data: Data, name: str, seconds: float, batch_size: int, lr: float, **options: Any
) -> tuple[AudioVisualCorrespondence, int]:
    """A method trained for some processor time, and its optimizer steps."""
    torch.manual_seed(0)
    size = min(64, data.shape["image_size"])
    method = AudioVisualCorrespondence(fitted(name, data, image_size=size), **options)
    data = method.training_view(data)
    optimizer = torch.optim.AdamW(method.parameters(), lr, weight_decay=1e-5)
    began, steps = time.process_time(), 0
    while (cpu_seconds := time.process_time() - began) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (steps + 1) / 20, 4 * (1 - cpu_seconds / seconds) + 0.01)
        rows = torch.randperm(len(data))[:batch_size]
        loss = method(data.batch(rows))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
        if steps % 50 == 0:
            print(f"{cpu_seconds:.0f} s, step {steps}: loss {loss:.3f}", flush=True)
    return method.eval(), steps


@torch.no_grad()
def accuracy(method: AudioVisualCorrespondence, data: Data, passes: int = 3) -> float:
    """Share of right answers, with as many pairs of each kind, in batches of 50."""
    torch.manual_seed(0)
    data, right = method.encoder.evaluation_view(data), []
    method.views.crop, method.views.flip, method.volume = 1.0, 0.0, 0.0
    for _ in range(passes):
        for rows in torch.randperm(len(data)).split(50):
            if len(rows) > 1:
                method(data.batch(rows))
                right.append(float(method.metrics["accuracy"]))
    return sum(right) / len(right)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="chiming_shapes")
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--pool", default="max,location")
    parser.add_argument("--encoder", default="av-resnet10")
    parser.add_argument("--negatives", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    built_in = arguments.data == "chiming_shapes"
    training, test = open_splits(arguments.data, kind="audio-visual")
    for pool in arguments.pool.split(","):
        method, steps = train(
            training, arguments.encoder, arguments.seconds, arguments.batch_size, arguments.lr,
            pool=pool, negatives=arguments.negatives,
        )  # fmt: skip
        right = accuracy(method, test)
        ceiling = f", at most {1 - 1 / (2 * len(test.classes or [])):.3f}" if built_in else ""
        print(f"\n{pool}: {steps} steps, correspondence {right:.3f} on {len(test)} test clips{ceiling}")
        model = EvaluatedModel(method.encoder, method)
        measured = retrieval.TASK(model, (training, test))
        if built_in:
            measured += localisation.TASK(model, "chiming_shapes:distractor")
        print(Scores.of(measured))


if __name__ == "__main__":
    main()

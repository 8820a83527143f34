"""Video colorization on coloured blobs for some processor time, then label propagation beside its controls.

    python benchmarks/label_propagation.py [DAVIS] [--seconds 120] [--stride 2] [--size 64] [--seed 0]

DAVIS is a folder in its layout, on which the encoder that has seen only blobs is measured too.
"""

import argparse
import time
from types import SimpleNamespace
from typing import Any

import torch

from unlabeled import encoders
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.evaluation.tasks import propagation
from unlabeled.methods.video_colorization import VideoColorization
from unlabeled.worlds import blobs

VIDEOS, FRAMES = 400, 12


def clips(video: torch.Tensor, frames: int, stride: int, count: int) -> dict[str, torch.Tensor]:
    """Random clips, as a batch."""
    rows = torch.randint(len(video), (count, 1))
    start = torch.randint(video.shape[1] - (frames - 1) * stride, (count, 1))
    return {"video": video[rows, start + stride * torch.arange(frames)]}


def train(arguments: argparse.Namespace) -> VideoColorization:
    """The method after its time, in evaluation mode."""
    torch.manual_seed(arguments.seed)
    encoder = encoders.build("conv4", image_size=64, input="lightness")
    method = VideoColorization(encoder, stride=arguments.stride, crop=arguments.crop)
    video = blobs.make(VIDEOS, seed=0, frames=FRAMES)["video"]
    many: Any = SimpleNamespace(
        sample=lambda count: clips(video, method.references + 1, arguments.stride, count)
    )
    method.prepare(many)
    optimizer = torch.optim.Adam(method.parameters(), 1e-3)
    began, step, error = time.process_time(), 0, torch.tensor(0.0)
    while time.process_time() - began < arguments.seconds:
        error = method(many.sample(8))
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        step += 1
    print(f"{step} steps of 8 clips in {arguments.seconds} s of processor time")
    print(
        f"loss {float(error.detach()):.3f} nats, {float(method.baseline):.3f} for a pointer that is everywhere"
    )
    return method.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("davis", nargs="?")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--stride", type=int, default=2)
    parser.add_argument("--crop", type=float, default=0.5)
    parser.add_argument("--size", type=int, help="shorter side of the frames that are tracked")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    method = train(arguments)
    model = EvaluatedModel(method.encoder, method, arguments.seed)
    for data in ["blobs", *([arguments.davis] if arguments.davis else [])]:
        began = time.process_time()
        settings = propagation.Settings(size=arguments.size)
        measurements = propagation.measure(model, Parts(Source(data), None, None), settings)
        print(f"\n{data}: {measurements[0].values.shape[1]} objects, {measurements[0].detail}")
        print(f"{time.process_time() - began:.0f} s of processor time")
        for name in dict.fromkeys(measurement.features for measurement in measurements):
            texts = [
                f"{m.unit} {m.values.mean():.3f} ({m.detail})"
                for m in measurements[1:]
                if m.features == name and m.unit != "J&F"
            ]
            both = next(m.values.mean() for m in measurements if m.features == name)
            print(f"{name:16} J&F {both:.3f}  {'  '.join(texts)}")


if __name__ == "__main__":
    main()

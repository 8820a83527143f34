"""Methods for videos with one small budget, beside their controls.

    python benchmarks/video_methods.py [--seconds 120] [--methods frame_prediction,shuffle_and_learn] [--out runs/video]

Every method trains for about that many processor seconds on the training part of a built-in set, without labels. First
its own question is put to it on the test part: the squared error of foreseen frames beside that of copying the last
frame and of the mean frame, for each frame ahead; whether a frame lies between two others, in a world that moves and in
one that stands still; how well the colours copied from other frames track things. Then the frozen features are read by
linear probes: classes by accuracy in percent, quantities by explained variance in percent. Beside them stand the pixels
of a few small frames and the same network with random weights.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
from einops import reduce
from torch import Tensor

import unlabeled
from methods import parser, recipe, steps_within
from unlabeled import encoders, evaluate, methods
from unlabeled.data import Data, open_data
from unlabeled.evaluation import logistic
from unlabeled.evaluation.tasks import factors
from unlabeled.method import Method

SETS = {
    "frame_prediction": "moving_digits",
    "shuffle_and_learn": "balls:reversible",
    "video_colorization": "blobs",
}
STILL = "balls:static"
AHEAD = (1, 5, 10)


@torch.no_grad()
def read(encoder: Any, data: Data, raw: bool = False) -> Tensor:
    """Features of each video, float, shape (samples, numbers)."""
    encoder.eval()
    batches = encoder.evaluation_view(data).batches(32)
    return torch.cat(
        [encoder.raw(batch) if raw else encoder.features(encoder.inputs(batch)) for batch in batches]
    )


def probes(encoder: Any, train: Data, test: Data, raw: bool = False) -> dict[str, float]:
    """Percent of what linear probes find, by factor."""
    first, second = read(encoder, train, raw), read(encoder, test, raw)
    found = {}
    for name, known in train.factors.items():
        truth = test.factors[name]
        if known.is_floating_point():
            found[name] = 100 * factors.r_squared(factors.ridge(first, known, second), truth)
        else:
            classes = int(known.max()) + 1
            if len(known.unique()) < classes:  # headings that this world does not have
                known, truth = (values.unique(return_inverse=True)[1] for values in (known, truth))
                classes = int(known.max()) + 1
            right = logistic.fit(first, known, classes)(second).argmax(1) == truth
            found[name] = 100 * right.float().mean().item()
    return found


@torch.no_grad()
def foreseen(method: Any, test: Data) -> dict[str, list[float]]:
    """Squared errors of the frames ahead, of what is drawn and of the two simplest answers."""
    clips = method.training_view(test)
    frames = torch.cat([method.encoder.inputs(batch) for batch in clips.batches(64)])
    past, ahead = frames[:, : method.past], frames[:, method.past :]
    answers = {
        "drawn": method.frames(method.predict(past)[1]),
        "last frame": past[:, -1:].expand_as(ahead),
        "mean frame": method.mean.expand_as(ahead),
    }
    return {
        name: reduce((answer - ahead).square(), "b t c h w -> t", "sum").div(len(ahead)).tolist()
        for name, answer in answers.items()
    }


@torch.no_grad()
def in_order(method: Method, test: Data, draws: int = 4) -> float:
    """Balanced accuracy, mean over several draws of questions."""
    clips, found = method.training_view(test), []
    for _ in range(draws):
        for batch in clips.batches(250):
            method(batch)
            found.append(method.metrics["balanced accuracy"].item())
    return sum(found) / len(found)


def train(name: str, seconds: float, out: Path, **changes: Any) -> tuple[Any, Data, Data]:
    settings = {"data": SETS[name], **recipe(name), **changes}
    source = settings.pop("data")
    data, test = (open_data(source, split=split) for split in ("train", "test"))
    torch.manual_seed(0)
    encoder = encoders.fitted(settings["encoder"], data, kind="video")
    own = {option.name for option in methods.describe(name).options}
    method = methods.load(name)(encoder, **{key: value for key, value in settings.items() if key in own})
    steps = steps_within(seconds, method, data, settings["batch_size"])
    began = time.process_time()
    run = unlabeled.pretrain(name, data, out=out / f"{name}-{source}", quiet=True, steps=steps, **settings)
    spent = time.process_time() - began
    print(f"{name} on {source}: {steps} steps, {spent:.0f} processor seconds", flush=True)
    return run, data, test


def judge(name: str, seconds: float, out: Path) -> None:
    """Train a method, put its own question to it and print what probes read from its features."""
    run, data, test = train(name, seconds, out)
    method = run.method.eval()
    if name == "frame_prediction":
        errors = foreseen(method, test)
        print(
            "\n| squared error | " + " | ".join(f"{step} ahead" for step in AHEAD) + " |\n|---|---|---|---|"
        )
        for title, error in errors.items():
            print(f"| {title} | " + " | ".join(f"{error[step - 1]:.1f}" for step in AHEAD) + " |")
    elif name == "shuffle_and_learn":
        torch.manual_seed(0)
        print(f"between or not, balanced: {100 * in_order(method, test):.1f} %")
        linear_head, *_ = train(name, seconds, out / "linear", head="linear")
        print(f"the same with a linear head: {100 * in_order(linear_head.method.eval(), test):.1f} %")
        still, _, static = train(name, seconds / 4, out, data=STILL)
        print(f"where nothing moves: {100 * in_order(still.method.eval(), static):.1f} %")
    elif name == "video_colorization":
        scores = evaluate(run, test, probe="propagation")
        print(scores)
    random = encoders.fitted(recipe(name)["encoder"], data, kind="video")
    rows = {
        "pixels": probes(random, data, test, raw=True),
        "random weights": probes(random, data, test),
        name: probes(run.encoder, data, test),
    }
    print("\n| features | " + " | ".join(data.factors) + " |\n|---|" + "---|" * len(data.factors))
    for title, found in rows.items():
        print(f"| {title} | " + " | ".join(f"{value:.1f}" for value in found.values()) + " |", flush=True)
    (run.path / "probes.json").write_text(json.dumps(rows))


def main() -> None:
    arguments = parser(__doc__ or "", "video", out=Path("runs/video"), seconds=120).parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.methods.split(","):
        print(f"\n## {name}\n", flush=True)
        judge(name, arguments.seconds, arguments.out)


if __name__ == "__main__":
    main()

"""Methods for videos with one small budget, beside their controls.

    python benchmarks/video_methods.py [--seconds 120] [--methods frame_prediction,shuffle_and_learn] [--out runs/video]

Every method trains for about that many processor seconds on the training part of a built-in set, without labels. Its
own task is scored on the test part: loss and metrics beside the loss of chance; also in a world where nothing can be
known, if there is one (a quarter of the time); for frame_prediction the squared error of each frame ahead, beside
copying the last frame and the mean frame; for methods whose set has masks, propagation. Then linear probes predict the
factors of the set from the frozen features: accuracy in percent with a 95 % interval for classes, explained variance in
percent for quantities. The controls are the pixels of a few small frames and the same network with random weights.
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
from unlabeled.evaluation.intervals import interval
from unlabeled.evaluation.tasks import factors
from unlabeled.method import Method

SETS = {
    "arrow_of_time": "balls",
    "contrastive_random_walk": "blobs",
    "frame_prediction": "moving_digits",
    "patch_tracking": "blobs",
    "shuffle_and_learn": "balls:reversible",
    "temporal_sorting": "balls",
    "time_cycle": "blobs",
    "video_colorization": "blobs",
    "video_dictionary": "moving_digits",
    "videomae": "moving_digits",
    "vjepa": "moving_digits",
}
UNKNOWABLE = {
    "arrow_of_time": "balls:reversible",
    "shuffle_and_learn": "balls:static",
    "temporal_sorting": "balls:static",
}
"""Worlds in which the answer to a method's question is not in the video."""
AHEAD = (1, 5, 10)


@torch.no_grad()
def read(encoder: Any, data: Data, raw: bool = False) -> Tensor:
    """Features of each video, float, shape (samples, numbers)."""
    encoder.eval()
    batches = encoder.evaluation_view(data).batches(32)
    return torch.cat(
        [encoder.raw(batch) if raw else encoder.features(encoder.inputs(batch)) for batch in batches]
    )


def probes(encoder: Any, train: Data, test: Data, raw: bool = False) -> dict[str, str]:
    """What linear probes predict of each factor, in percent."""
    first, second = read(encoder, train, raw), read(encoder, test, raw)
    scores = {}
    for name, known in train.factors.items():
        truth = test.factors[name]
        if known.is_floating_point():
            scores[name] = f"{100 * factors.r_squared(factors.ridge(first, known, second), truth):.1f}"
            continue
        values = known.unique()
        known, truth = torch.searchsorted(values, known), torch.searchsorted(values, truth)
        right = logistic.fit(first, known, len(values))(second).argmax(1) == truth
        share = interval(right[None], bounds=(0, 1))
        scores[name] = f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"
    return scores


@torch.no_grad()
def errors_ahead(method: Any, test: Data) -> dict[str, list[float]]:
    """Squared errors of the next frames, of the prediction and of the two simplest answers."""
    clips = method.training_view(test)
    frames = torch.cat([method.encoder.inputs(batch) for batch in clips.batches(64)])
    past, ahead = frames[:, : method.past], frames[:, method.past :]
    answers = {
        "predicted": method.frames(method.predict(past)[1]),
        "last frame": past[:, -1:].expand_as(ahead),
        "mean frame": method.mean.expand_as(ahead),
    }
    return {
        name: reduce((answer - ahead).square(), "b t c h w -> t", "sum").div(len(ahead)).tolist()
        for name, answer in answers.items()
    }


@torch.no_grad()
def own_task(method: Method, test: Data, draws: int = 4) -> dict[str, float]:
    """Mean loss and metrics over several draws, and the loss of chance where it is known."""
    torch.manual_seed(0)
    clips, rows = method.training_view(test), []
    for _ in range(draws):
        for batch in clips.batches(64):
            loss = float(method(batch))
            metrics = {name: float(value) for name, value in method.metrics.items()}
            rows.append({"loss": loss, "chance": float(method.chance(64) or torch.nan), **metrics})
    return {name: round(sum(row[name] for row in rows) / len(rows), 4) for name in rows[0]}


def train(name: str, source: str, seconds: float, out: Path) -> tuple[Any, Data, Data]:
    """The run of a method on a set, and both parts of the set."""
    settings = recipe(name)
    data, test = (open_data(source, split=split) for split in ("train", "test"))
    torch.manual_seed(0)
    encoder = encoders.fitted(settings["encoder"], data, kind="video")
    own = {option.name for option in methods.describe(name).options}
    method = methods.load(name)(encoder, **{key: value for key, value in settings.items() if key in own})
    if "steps" not in settings:
        settings["steps"] = steps_within(seconds, method, data, settings["batch_size"])
    began = time.process_time()
    run = unlabeled.pretrain(name, data, out=out / f"{name}-{source}", quiet=True, **settings)
    cpu_seconds = time.process_time() - began
    print(
        f"{name} on {source}: {run.history[-1]['step']} steps, {cpu_seconds:.0f} processor seconds",
        flush=True,
    )
    return run, data, test


def judge(name: str, seconds: float, out: Path) -> None:
    """Train a method, score its own task and print what probes predict from its features."""
    run, data, test = train(name, SETS[name], seconds, out)
    method = run.method.eval()
    print(f"own task: {own_task(method, test)}", flush=True)
    if name in UNKNOWABLE:
        other, _, unknowable = train(name, UNKNOWABLE[name], seconds / 4, out)
        print(f"where nothing can be known: {own_task(other.method.eval(), unknowable)}", flush=True)
    if name == "frame_prediction":
        print(
            "\n| squared error | " + " | ".join(f"{step} ahead" for step in AHEAD) + " |\n|---|---|---|---|"
        )
        for title, error in errors_ahead(method, test).items():
            print(f"| {title} | " + " | ".join(f"{error[step - 1]:.1f}" for step in AHEAD) + " |")
    if SETS[name] == "blobs":
        print(evaluate(run, test, probe="propagation"))
        return
    random = encoders.fitted(recipe(name)["encoder"], data, kind="video")
    rows = {
        "pixels": probes(random, data, test, raw=True),
        "random weights": probes(random, data, test),
        name: probes(run.encoder, data, test),
    }
    print("\n| features | " + " | ".join(data.factors) + " |\n|---|" + "---|" * len(data.factors))
    for title, scores in rows.items():
        print(f"| {title} | " + " | ".join(scores.values()) + " |", flush=True)
    (run.path / "probes.json").write_text(json.dumps(rows))


def main() -> None:
    arguments = parser(__doc__ or "", "video", out=Path("runs/video"), seconds=120).parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.methods.split(","):
        print(f"\n## {name}\n", flush=True)
        judge(name, arguments.seconds, arguments.out)


if __name__ == "__main__":
    main()

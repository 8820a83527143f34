"""Recognition of actions: the class of a video from several clips and crops of it, frozen and fine-tuned.

The probabilities of all clips and crops of a test video are averaged; scores are top-1 and, of more than 5 classes,
top-5. "frozen" is the linear probe on the features, "fine-tuned" trains the encoder too, on one clip of each training
video that starts elsewhere each time. Probes and recipe are `linear` and `finetune`; all training labels are used.

Controls of the frozen features: pixels, and the same network with random weights. Controls of fine-tuning, each trained
on the same labels from random weights: the same network; the same network that sees one frame of a clip, for as long as
the clip, so that only motion is missing, averaged over frames; and, unless the network is an LSTM itself, a network of
single frames with an LSTM over its features.

Source: Srivastava, Mansimov, Salakhutdinov, "Unsupervised Learning of Video Representations using LSTMs", 2015,
https://arxiv.org/abs/1502.04681 (single frame, LSTM, and LSTM that was trained without labels before)
Differs: frames are pixels, where the paper has features of a network trained on ImageNet's labels; the LSTM's outputs
are averaged before the classifier, not the probabilities after it.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.data.video import Videos
from unlabeled.encoders.video import Frames, Recurrent, VideoEncoder, fitted
from unlabeled.evaluation.controls import random, raw
from unlabeled.evaluation.features import Representation, of_encoder
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.logistic import Linear
from unlabeled.evaluation.measurement import Measurement, group_unit
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.probe import Settings
from unlabeled.evaluation.probes import finetune, linear
from unlabeled.evaluation.sources import Parts
from unlabeled.evaluation.task import Task
from unlabeled.method import Batch
from unlabeled.progress import watched

__all__ = ["TASK", "LSTMOverFrames", "cropped", "hits", "measure", "probabilities"]

CLIPS = 5
"""Clips of a test video where no number is given and it is long enough."""
TOP = 5
BATCH = 64

Logits = Callable[[Batch], Tensor]
"""From a batch to float, shape (batch, classes)."""


def cropped(video: Tensor, number: int, of: int) -> Tensor:
    """One of several square crops at even distances along the longer side.

    Args:
        video: Shape (..., height, width).
        number: Which one, 0 for that at the top or on the left.
        of: How many there are, at least 2.

    Returns:
        Shape (..., side, side).
    """
    height, width = video.shape[-2:]
    side = min(height, width)
    start = number * (max(height, width) - side) // (of - 1)
    return video.narrow(-2 if height > width else -1, start, side)


@torch.no_grad()
def probabilities(logits: Logits, views: Sequence[Data], crops: int) -> Tensor:
    """Probabilities of the classes, averaged over views of the same videos and over crops.

    Args:
        logits: Classifier of a batch.
        views: The same videos in the same order, seen otherwise.
        crops: Crops of each view; 1 for the frames as they are.

    Returns:
        Float, shape (videos, classes).
    """
    count = len(views) * -(-len(views[0]) // BATCH)
    batches = watched((batch for view in views for batch in view.batches(BATCH)), count, "testing", "batches")
    each = []
    for batch in batches:
        videos = [batch["video"]] if crops == 1 else [cropped(batch["video"], n, crops) for n in range(crops)]
        each.append(torch.stack([logits({**batch, "video": one}).softmax(1) for one in videos]).mean(0))
    return torch.cat(each).unflatten(0, (len(views), -1)).mean(0)


def hits(probabilities: Tensor, answers: Tensor, k: int) -> Tensor:
    """Whether the true class is among the k most probable; of equally probable ones the lower number comes first.

    Args:
        probabilities: Float, shape (samples, classes).
        answers: The true classes, int64, shape (samples,).
        k: How many are looked at.

    Returns:
        1 or 0, float, shape (samples,).
    """
    true, classes = probabilities.gather(1, answers[:, None]), torch.arange(probabilities.shape[1])
    earlier = classes.to(answers.device) < answers[:, None]
    before = (probabilities > true) | ((probabilities == true) & earlier)
    return (before.sum(1) < k).float()


class LSTMOverFrames(VideoEncoder):
    """A network of single frames and an LSTM over its features; the mean of the LSTM's outputs is the vector.

    Args:
        frames: The network of single frames.
    """

    def __init__(self, frames: Frames) -> None:
        super().__init__(frames.config, frames.dim, {})
        self.trunk = frames
        self.lstm = nn.LSTM(frames.dim, frames.dim, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Float, shape (batch, dim), of what `inputs` gives."""
        features = self.trunk.frame(rearrange(x, "b t c h w -> (b t) c h w"))
        return self.lstm(rearrange(features, "(b t) d -> b t d", b=len(x)))[0].mean(1)


@dataclass(frozen=True)
class Bench:
    """What all rows have in common.

    Attributes:
        model: What is measured.
        encoder: Its encoder.
        labelled: Whole videos of known classes.
        clips: Clips of a test video.
        crops: Crops of each of these.
    """

    model: EvaluatedModel
    encoder: VideoEncoder
    labelled: Labelled
    clips: int
    crops: int

    @property
    def rows(self) -> Tensor:
        """All training samples."""
        return torch.arange(len(self.labelled.labels))

    def train(self, view: Callable[[Any], Any]) -> Labelled:
        """The training videos as a view of them."""
        return replace(self.labelled, train=view(self.labelled.train))

    def frozen(self, representation: Representation, classifier: Linear) -> Iterator[Measurement]:
        """A linear classifier of features."""
        words = f"penalty {classifier.penalty:g} {classifier.reason}"
        detail = "; ".join(filter(None, [representation.detail, words]))

        def logits(batch: Batch) -> Tensor:
            return classifier(representation.reader(batch, None))

        yield from self.scores("frozen", representation.name, logits, detail)

    def tuned(
        self, features: str, network: VideoEncoder, still: bool = False, **recipe: Any
    ) -> Iterator[Measurement]:
        """A network trained on clips, or on single frames that stay for as long."""
        one_frame = partial(Videos.anywhere, frames=self.encoder.frames, stride=0)
        view = one_frame if still else self.encoder.labelled_view
        settings = Settings(self.model.seed, steps=self.model.steps)
        training, words = finetune.trained(network, self.train(view), self.rows, settings, **recipe)
        yield from self.scores("fine-tuned", features, training.read, words, still)

    def scores(
        self, layer: str, features: str, logits: Logits, detail: str, still: bool = False
    ) -> Iterator[Measurement]:
        """Top-1 and top-5 of a classifier of batches."""
        test: Any = self.labelled.test
        frames, count = self.encoder.frames, self.encoder.frames if still else self.clips
        views = [
            test.middle(frames, 0, number, count)
            if still
            else self.encoder.evaluation_view(test, number, count)
            for number in range(count)
        ]
        class_probabilities = probabilities(logits, views, self.crops)
        size = self.encoder.image_size
        shown = f"{count} single frames" if still else f"{count} clip{'s' * (count > 1)} of {frames} frames"
        shown += f" x {self.crops} crops" if self.crops > 1 else ""
        for k, unit in ((1, "accuracy"), (TOP, f"top-{TOP} accuracy")):
            if k < len(self.labelled.classes):
                yield Measurement(
                    "recognition", features, hits(class_probabilities, self.labelled.answers, k)[None].cpu(),
                    layer=layer, unit=unit, detail=f"{shown}, {size} pixels; {detail}",
                    groups=test.groups, counted=group_unit(test), bounds=(0.0, 1.0),
                )  # fmt: skip


def measure(model: EvaluatedModel, parts: Parts) -> Iterator[Measurement]:
    """Top-1 and top-5 accuracy of ours and of the controls, frozen and fine-tuned.

    Raises:
        ValueError: The encoder reads no videos, the data are none or have no classes, or square frames are to be
            cropped.
    """
    bench = _bench(model, parts)
    encoder = bench.encoder
    middle = bench.train(encoder.evaluation_view)
    reader = model.method.features if model.method is not None else of_encoder(encoder)
    ours = Representation("unlabeled", reader, encoder)
    heads = []
    for representation in (ours, raw.make(encoder), random.make(encoder, middle.train, model.seed)):
        heads.append(linear.fit(representation, middle, bench.rows, None, model.seed))
        yield from bench.frozen(representation, heads[-1])
    head = heads[0] if len(heads[0].weight) == encoder.dim else None
    yield from bench.tuned("unlabeled", encoder, head=head, encoder_factor=0.1)
    twin: Any = model.untrained()
    yield from bench.tuned("supervised", twin)
    yield from bench.tuned("single frame", twin, still=True)
    if not isinstance(encoder, Recurrent):
        yield from bench.tuned("LSTM over frames", _over_frames(bench))


def _bench(model: EvaluatedModel, parts: Parts) -> Bench:
    check.choice(("video",), encoder=model.encoder.kind)
    test = parts.require_test("video", "recognition")
    labelled = Labelled.of(parts.calibration.to(model.device), test.to(model.device))
    for note in labelled.notes:
        warnings.warn(note, stacklevel=3)
    encoder: Any = model.encoder
    videos: Any = labelled.test
    height, width = videos.table.shape[-2:]
    crops = model.crops or 1
    if crops > 1 and height == width:
        raise UserError(f"crops must be 1 for square frames, as all would be the same, got {crops}")
    room = int(videos.counts.amax()) - encoder.frames
    return Bench(model, encoder, labelled, model.clips or max(1, min(CLIPS, room + 1)), crops)


def _over_frames(bench: Bench) -> LSTMOverFrames:
    """Random weights: the network of single frames within ours if there is one, else a small one."""
    encoder, train = bench.encoder, bench.train(bench.encoder.evaluation_view).train
    name = encoder.config["name"] if isinstance(encoder, Frames) else "frames-conv4"
    size, view = {"image_size": encoder.image_size, "frames": encoder.frames}, encoder.config["input"]
    with torch.random.fork_rng():
        torch.manual_seed(bench.model.seed)
        frames: Any = fitted(name, train, input=view, **size)
        network = LSTMOverFrames(frames)
    return network.to(bench.model.device)


TASK = Task(measure, kinds=("video",))

"""Shuffle and Learn: predict whether the middle one of three frames lies between the other two in time.

Withheld: the times of the frames. Predicted: whether one was between two others, or before or after both.

Source: Misra, Zitnick, Hebert, "Shuffle and Learn: Unsupervised Learning using Temporal Order Verification", 2016,
https://arxiv.org/abs/1603.08561
Differs: a hidden layer lies between the joined frames and the answer: the paper's one linear layer adds up a score of
each frame and cannot express "between"; "linear" is the paper's. Frames are described by their last map, not by its
mean, since positions matter. Motion is the change of a coarse image, where the paper has optical flow. The three
questions of five frames are weighted to the paper's mix; middle frames that look alike are not rejected. By default the
distances are 2 and 8 frames in windows of 12, not 15 and 60; there is no dropout, and the norms are those of the
encoder. The optimizer is AdamW, not SGD.
Shortcut: the first and the last frame are the same in all three questions, so only the middle one decides, and one view
is drawn for a whole clip. Nothing can be learned where nothing moves, so windows are drawn by their motion.
"""

import math
from typing import Annotated, ClassVar, Literal, Unpack

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.video.data import Videos
from unlabeled.encoders import ImageEncoder
from unlabeled.encoders.video import Frames
from unlabeled.method import Batch, EncoderNeeds, Method
from unlabeled.options import Count, Range, Several, ViewOptions
from unlabeled.parts.augment import Views
from unlabeled.parts.clips import clip_length, clip_views, draw_windows, motion
from unlabeled.parts.heads import MapCode, classifier
from unlabeled.parts.pictures import strip

__all__ = ["ShuffleAndLearn"]

QUESTIONS = ((1, 2, 3), (1, 0, 3), (1, 4, 3))
"""Three of the five frames a < b < c < d < e: in order first, then with a wrong middle."""


def draw_frames(motions: Tensor, window: int, tau_min: int, tau_max: int) -> Tensor:
    """Draw five frames in order, in windows drawn by their motion.

    Args:
        motions: Motion of each frame, float, at least 0, shape (batch, frames).
        window: Frames in which all five lie.
        tau_min: Frames at least between the first two, and between the last two.
        tau_max: Frames at most between the second and the fourth.

    Returns:
        Numbers of the frames, int64, shape (batch, 5).
    """
    start = draw_windows(motions, window)
    ends = [
        (second, fourth)
        for second in range(tau_min, window)
        for fourth in range(second + 2, min(second + tau_max, window - 1 - tau_min) + 1)
    ]
    second, fourth = torch.tensor(ends, device=motions.device)[_below(len(ends), start)[:, 0]].unbind(1)
    first = _below(second - tau_min + 1, start[:, 0])
    third = second + 1 + _below(fourth - second - 1, start[:, 0])
    fifth = fourth + tau_min + _below(window - tau_min - fourth, start[:, 0])
    return start + torch.stack([first, second, third, fourth, fifth], 1)


def _below(limits: Tensor | int, like: Tensor) -> Tensor:
    """Whole numbers from 0 to one less than their limits, drawn uniformly, of the shape of `like`."""
    return (torch.rand(like.shape, device=like.device) * limits).long()


def loss(logits: Tensor, positives: float) -> Tensor:
    """Cross-entropy of the three questions, weighted to a fraction of positive ones.

    Args:
        logits: Of "between", float, shape (batch, 3): the true order first, then two with a wrong middle.
        positives: Weight of the first in 0..1; the other two share the rest.

    Returns:
        Mean over the batch, scalar, in nats.
    """
    logits = logits.float()
    wrong = F.softplus(logits[:, 1:]).mean(1)
    return (positives * F.softplus(-logits[:, 0]) + (1 - positives) * wrong).mean()


def log_odds(positives: float) -> float:
    """Logit of the prior of positive questions."""
    return math.log(positives / (1 - positives))


def balanced_accuracy(logits: Tensor, positives: float) -> Tensor:
    """Mean of the accuracies on positive and on negative questions, scalar in 0..1.

    A logit above that of the prior counts as yes: with a quarter of positives a cautious network would answer no to
    every question although it ranks them rightly.
    """
    answers = (logits > log_odds(positives)).float()
    return (answers[:, 0].mean() + 1 - answers[:, 1:].mean()) / 2


class ShuffleAndLearn(Method[Frames]):
    """Predict whether the middle one of three frames lies between the other two in time.

    The metric `balanced accuracy` is 0.5 at chance level, whatever the fraction of positives.

    Args:
        encoder: Network whose features are kept; it reads single frames.
        frames: Frames of a clip, in which windows are chosen by motion. [default: all of the shortest video that holds
            a window, but at most 48]
        stride: Frames of the video from one frame of a clip to the next.
        window: Frames of a window, from which the five frames are drawn; if it is a whole clip, motion has no say.
        tau_min: Smallest distance of a wrong middle frame from the nearest end; smaller is harder. The paper has 15.
        tau_max: Largest distance of the two ends; larger makes the true order harder to see. The paper has 60.
        positives: Fraction of triples in true order.
        head: Classifier: "mlp" with a hidden layer, or the paper's "linear".
        dim: Width of the description of a frame before three of them are concatenated.
        **views: How the clips are drawn, all frames of a clip alike.
    """

    kind = "video"
    encoder_needs = EncoderNeeds("frame", "read single frames, such as frames-conv4")
    defaults: ClassVar = {"encoder": "frames-conv4", "batch_size": 64, "lr": 1e-3}
    view_defaults = ViewOptions(crop=0.5, flip=0.5, jitter=0.0)
    recipe: ClassVar = {"batch_size": 16, "crop": 1.0}

    def __init__(
        self,
        encoder: Frames,
        *,
        frames: Count | None = None,
        stride: Count = 1,
        window: Count = 12,
        tau_min: Count = 2,
        tau_max: Several = 8,
        positives: Annotated[float, Range(above=0, below=1)] = 0.25,
        head: Literal["mlp", "linear"] = "mlp",
        dim: Count = 64,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        check.at_least(2 * tau_min + 3, window=window)  # a..b, c between b and d, d..e
        if frames is not None:
            check.at_least(window, frames=frames)
        self.frames, self.stride, self.window = frames, stride, window
        self.tau_min, self.tau_max, self.positives = tau_min, tau_max, positives
        self.views = Views(self.frame.image_size, **self.view_options(views))
        self.describe = MapCode(self.frame, dim)
        hidden = [2 * dim] if head == "mlp" else []
        self.head = classifier(3 * dim, *hidden, 1, norm=False, std=1e-2, bias=log_odds(positives))

    @property
    def frame(self) -> ImageEncoder:
        """The network that reads a single frame."""
        return self.encoder.frame

    def chance(self, samples: int) -> float:
        """Entropy of the prior: the loss of always predicting it."""
        return -sum(p * math.log(p) for p in (self.positives, 1 - self.positives))

    def training_view(self, data: Videos) -> Videos:
        frames = self.frames or clip_length(data.counts, self.window, self.stride)
        return data.clips(frames=frames, stride=self.stride)

    def draw(self, batch: Batch, *, random: bool = True) -> Tensor:
        """Five frames of each clip, float in 0..1, shape (batch, 5, channels, size, size)."""
        video = batch["video"]
        if video.shape[1] < self.window:
            raise UserError(f"clips must have at least window={self.window} frames, got {video.shape[1]}")
        numbers = draw_frames(motion(video), self.window, self.tau_min, self.tau_max)
        five = video[torch.arange(len(video), device=video.device)[:, None], numbers]
        return clip_views(self.views, five) if random else self.encoder.inputs({"video": five})

    def logits(self, five: Tensor) -> Tensor:
        """Logits of "between" for the three questions, float, shape (batch, 3), of the five frames of `draw`."""
        *_, last = self.frame.maps(rearrange(five, "b five c h w -> (b five) c h w")).values()
        codes = F.relu(self.describe(last))
        codes = rearrange(codes, "(b five) dim -> b five dim", five=5)
        triples = codes[:, torch.tensor(QUESTIONS, device=codes.device)]
        if self.training:  # a triple played backward has the same answer
            backward = torch.rand(triples.shape[:2], device=codes.device) < 0.5
            triples = torch.where(backward[:, :, None, None], triples.flip(2), triples)
        return self.head(rearrange(triples, "b questions three dim -> b questions (three dim)"))[:, :, 0]

    def forward(self, batch: Batch) -> Tensor:
        logits = self.logits(self.draw(batch))
        self.metrics = {"balanced accuracy": balanced_accuracy(logits.detach(), self.positives)}
        return loss(logits, self.positives)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor | list[str]]:
        five = self.draw(batch, random=False)
        rows = torch.arange(len(five), device=five.device)
        question = rows % len(QUESTIONS)
        logits = self.logits(five)[rows, question] - log_odds(self.positives)
        triple = five[rows[:, None], torch.tensor(QUESTIONS, device=five.device)[question]]
        answers = ["between" if logit > 0 else "not between" for logit in logits.tolist()]
        truth = ["between" if number == 0 else "not between" for number in question.tolist()]
        return {"question": strip(triple), "true order": strip(five), "answer": answers, "truth": truth}

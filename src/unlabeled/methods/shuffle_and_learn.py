"""Shuffle and Learn: tell whether the middle one of three frames lies between the other two in time.

Withheld: when a frame was seen. Predicted: whether it was between two others, or before or after both.

Source: Misra, Zitnick, Hebert, "Shuffle and Learn: Unsupervised Learning using Temporal Order Verification", 2016,
https://arxiv.org/abs/1603.08561
Differs: a hidden layer stands between the joined frames and the answer: the paper's one linear layer adds up what it
says of each frame and cannot ask for "between"; "linear" is the paper's. Frames are described by their last map, not
by its mean, since places matter. Motion is the change of a coarse image, where the paper has optical flow. The three
questions of five frames are weighted to the paper's mix; middle frames that look alike are not rejected. By default
the distances are 2 and 8 frames in windows of 12, not 15 and 60; nothing is dropped out, and the norms are those of
the encoder. The weights move by the loop's AdamW; the paper has SGD.
Shortcut: the first and the last frame are the same in all three questions, so only the middle one can tell, and one
view is drawn for a whole clip. Where nothing moves nothing can be told, so windows are drawn by how much moves in them.
"""

import math
from typing import Annotated, ClassVar, Literal, Unpack

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.video.data import Videos
from unlabeled.encoders import ImageEncoder
from unlabeled.encoders.video import Frames
from unlabeled.method import Batch, EncoderNeeds, Method
from unlabeled.options import Count, Range, Several, ViewOptions
from unlabeled.parts.augment import Views
from unlabeled.parts.clips import clip_views, motion, strip
from unlabeled.parts.decoder import map_shape
from unlabeled.parts.heads import mlp

__all__ = ["ShuffleAndLearn"]

QUESTIONS = ((1, 2, 3), (1, 0, 3), (1, 4, 3))
"""Which three of the five frames a < b < c < d < e are shown: in order first, then with a wrong middle."""
MOST_FRAMES = 48
"""Most frames of a clip where their number is left open."""
GRID = 4
"""Most places on a side of the last map that the head reads."""


def draw_frames(motions: Tensor, window: int, tau_min: int, tau_max: int) -> Tensor:
    """Draw five frames in order, in windows drawn by how much moves in them.

    A window counts as much as the frame in it that moves least; where every window holds a frame that does not move,
    as much as all of its frames together; where nothing moves all windows count alike.

    Args:
        motions: How much each frame moves, float, at least 0, shape (batch, frames).
        window: Frames in which all five lie.
        tau_min: Frames at least between the first two, and between the last two.
        tau_max: Frames at most between the second and the fourth.

    Returns:
        Numbers of the frames, int64, shape (batch, 5).
    """
    windows = motions.unfold(1, window, 1)
    weights = windows.amin(2)
    weights = torch.where(weights.any(1, keepdim=True), weights, windows.sum(2))
    weights = torch.where(weights.any(1, keepdim=True), weights, torch.ones_like(weights))
    start = torch.multinomial(weights, 1)
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
    """Whole numbers from 0 to one less than their limits, drawn evenly, of the shape of `like`."""
    return (torch.rand(like.shape, device=like.device) * limits).long()


def loss(logits: Tensor, positives: float) -> Tensor:
    """Cross-entropy of the three questions, weighted to a share of positive ones.

    Args:
        logits: For "between", float, shape (batch, 3): the true order first, then two with a wrong middle.
        positives: Weight of the first in 0..1; the other two share the rest.

    Returns:
        Mean over the batch, scalar, in nats.
    """
    logits = logits.float()
    wrong = F.softplus(logits[:, 1:]).mean(1)
    return (positives * F.softplus(-logits[:, 0]) + (1 - positives) * wrong).mean()


def balanced_accuracy(logits: Tensor, positives: float) -> Tensor:
    """Mean of the shares of positive and of negative questions that are answered rightly, scalar in 0..1.

    What counts as yes is a logit above that of the prior: with a quarter of positives a cautious network would say no
    to everything although it knows which question is the more likely one.
    """
    answers = (logits > math.log(positives / (1 - positives))).float()
    return (answers[:, 0].mean() + 1 - answers[:, 1:].mean()) / 2


class ShuffleAndLearn(Method[Frames]):
    """Tell whether the middle one of three frames lies between the other two in time.

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
        channels, height, width = map_shape(self.frame)
        self.grid = min(GRID, height), min(GRID, width)
        self.describe = nn.Linear(channels * self.grid[0] * self.grid[1], dim)
        self.head = mlp(3 * dim, *([2 * dim] if head == "mlp" else []), 1, norm=False)
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=1e-2)
        nn.init.constant_(last.bias, math.log(positives / (1 - positives)))

    @property
    def frame(self) -> ImageEncoder:
        """The network that reads a single frame."""
        return self.encoder.frame

    def chance(self, samples: int) -> float:
        """Entropy of the shares: the loss of one who always answers with the prior."""
        shares = self.positives, 1 - self.positives
        return -sum(share * math.log(share) for share in shares)

    def training_view(self, data: Videos) -> Videos:
        frames = self.frames
        if frames is None:
            held = (data.counts - 1) // self.stride + 1
            held = held[held >= self.window]
            frames = min(MOST_FRAMES, int(held.min())) if len(held) else self.window
        return data.clips(frames=frames, stride=self.stride)

    def shown(self, batch: Batch, *, random: bool = True) -> Tensor:
        """Five frames of each clip, float in 0..1, shape (batch, 5, channels, size, size)."""
        video = batch["video"]
        if video.shape[1] < self.window:
            raise UserError(f"clips must have at least window={self.window} frames, got {video.shape[1]}")
        chosen = draw_frames(motion(video), self.window, self.tau_min, self.tau_max)
        five = video[torch.arange(len(video), device=video.device)[:, None], chosen]
        return clip_views(self.views, five) if random else self.encoder.inputs({"video": five})

    def answers(self, five: Tensor) -> Tensor:
        """Logits for "between" of the three questions, float, shape (batch, 3), of what `shown` gives."""
        *_, last = self.frame.maps(rearrange(five, "b five c h w -> (b five) c h w")).values()
        codes = F.relu(self.describe(F.adaptive_avg_pool2d(last, self.grid).flatten(1)))
        codes = rearrange(codes, "(b five) dim -> b five dim", five=5)
        triples = codes[:, torch.tensor(QUESTIONS, device=codes.device)]
        if self.training:  # played backward a triple has the same answer
            backward = torch.rand(triples.shape[:2], device=codes.device) < 0.5
            triples = torch.where(backward[:, :, None, None], triples.flip(2), triples)
        return self.head(rearrange(triples, "b questions three dim -> b questions (three dim)"))[:, :, 0]

    def forward(self, batch: Batch) -> Tensor:
        logits = self.answers(self.shown(batch))
        self.metrics = {"balanced accuracy": balanced_accuracy(logits.detach(), self.positives)}
        return loss(logits, self.positives)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor | list[str]]:
        five = self.shown(batch, random=False)
        question = torch.arange(len(five), device=five.device) % len(QUESTIONS)
        rows = torch.arange(len(five), device=five.device)
        logits = self.answers(five)[rows, question] - math.log(self.positives / (1 - self.positives))
        triple = five[rows[:, None], torch.tensor(QUESTIONS, device=five.device)[question]]
        said = ["between" if logit > 0 else "not between" for logit in logits.tolist()]
        truth = ["between" if number == 0 else "not between" for number in question.tolist()]
        return {"question": strip(triple), "true order": strip(five), "answer": said, "truth": truth}

"""Patch tracking: let both ends of a track through a video be more similar than patches of other videos.

Withheld: which patch shows the same object some frames later. Predicted: embeddings in which the first and the last
patch of a track are closer to each other than to patches of other videos.

Source: Wang, Gupta, "Unsupervised Learning of Visual Representations Using Videos", 2015,
https://arxiv.org/abs/1505.00687
Differs: patches are detected and tracked in every batch, not once in advance. The motion of points on a grid replaces
SURF points and dense trajectories, normalised cross-correlation the KCF tracker. Tracks have 10 frames, not 30; clips
in which nothing moves relative to its background, or nearly everything moves, are left out. There are as many random
negatives as hard ones. The optimizer is AdamW, and the head has one hidden layer.
Shortcut: a patch that never moves shows the same pixels twice, so something must move. Colours alone identify many
tracks: set `jitter` and `gray`, or compare with an encoder of lightness. Clips of one video are never negatives of each
other.
"""

from typing import Annotated, ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.video.data import Videos
from unlabeled.encoders.video import Frames
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import Count, Fraction, Range, Several, ViewOptions
from unlabeled.parts import gather, tracker
from unlabeled.parts.augment import Views, crop_resize, fit, to_float
from unlabeled.parts.heads import mlp
from unlabeled.parts.pictures import outline
from unlabeled.parts.precision import full_precision

__all__ = ["PatchTracking"]

LAG = 4
"""Frames from the first to the second frame between which motion is measured."""
MOST = 0.75
"""Fraction of moving points above which it is probably the camera that moves, and not by a plain shift."""
SAMPLES = 64
"""Clips of which at least one must show something that moves."""


@full_precision
def excess(anchors: Tensor, positives: Tensor) -> Tensor:
    """How much farther away the positive is than each candidate, where distance means 1 - cosine.

    Args:
        anchors: First patches of tracks, float, shape (batch, dim); only their directions count.
        positives: Last patches of the same tracks, the same shape.

    Returns:
        In -2..2, float, shape (batch, candidates); candidates are the first, then the last patches of all processes.
    """
    anchors, positives = F.normalize(anchors, dim=1), F.normalize(positives, dim=1)
    candidates = torch.cat([gather.gather(anchors), gather.gather(positives)])
    return anchors @ candidates.T - (anchors * positives).sum(1, keepdim=True)


def ranking(excess: Tensor, allowed: Tensor, negatives: int, margin: float, hard: bool) -> Tensor:
    """Hinge loss over some negatives of each anchor, which must be farther away than the positive by a margin.

    Args:
        excess: As from `excess`, float, shape (batch, candidates).
        allowed: Which candidates are negatives, bool, the same shape.
        negatives: Number of negatives of each anchor.
        margin: In 0..2.
        hard: Whether the negatives are the closest ones, or random ones.

    Returns:
        Mean over the triplets of all processes, scalar; the margin if all vectors are equal, 0 if there is no triplet.
    """
    order = (excess.detach() if hard else torch.rand_like(excess)).masked_fill(~allowed, -torch.inf)
    index = order.topk(min(negatives, excess.shape[1]), 1).indices
    return gather.mean((excess + margin).clamp(min=0).gather(1, index), allowed.gather(1, index))


class PatchTracking(Method[Frames]):
    """Let both ends of a track through a video be more similar than patches of other videos.

    The metric `accuracy` is the fraction of the negatives that are farther away than the positive, and `motion` the
    fraction of the clips that are used.

    Args:
        encoder: Network whose features are kept; it reads single frames.
        frames: Number of frames of a track.
        stride: Frames of the video from one frame of a track to the next.
        patch_ratio: Side of a patch, as a fraction of the shorter side of the frames.
        margin: By how much negatives must be farther away than the positive; unrelated patches are at distance 1.
        negatives: Number of negatives of each track.
        random_until: Fraction of the training after which the hardest negatives replace random ones.
        embedding_dim: Width of the compared vectors.
        **views: How each patch is augmented after it has been cut out.
    """

    kind = "video"
    encoder_needs = EncoderNeeds("frame", "read single frames, such as frames-conv4")
    compares_samples = True
    defaults: ClassVar = {"encoder": "frames-conv4", "batch_size": 64, "lr": 1e-3}
    view_defaults = ViewOptions(crop=1.0, flip=0.5, jitter=0.0, gray=0.0)
    hard: Tensor

    def __init__(
        self,
        encoder: Frames,
        *,
        frames: Annotated[int, Range(at_least=5)] = 10,
        stride: Count = 1,
        patch_ratio: Annotated[float, Range(above=0, below=1)] = 0.5,
        margin: Annotated[float, Range(above=0, at_most=2)] = 0.5,
        negatives: Count = 4,
        random_until: Fraction = 0.375,
        embedding_dim: Several = 64,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        self.frames, self.stride, self.patch_ratio = frames, stride, patch_ratio
        self.margin, self.negatives, self.random_until = margin, negatives, random_until
        self.views = Views(encoder.image_size, **self.view_options(views))
        self.head = mlp(encoder.dim, encoder.dim, embedding_dim, norm=False)
        self.register_buffer("hard", torch.tensor(random_until == 0))

    def chance(self, samples: int) -> float:
        return self.margin

    def training_view(self, data: Videos) -> Videos:
        check.at_least(2 * tracker.CELL, image_size=data.shape["image_size"])
        return data.clips(frames=self.frames, stride=self.stride)

    def prepare(self, data: Videos) -> None:
        if not self.track(data.sample(SAMPLES)["video"])[2].any():
            raise UserError(
                f"videos must show something that moves relative to its background, got {data.name}"
            )

    @torch.no_grad()
    def track(self, video: Tensor) -> tuple[Tensor, int, Tensor]:
        """Corners of the box with the most motion, int64, (batch, frames, 2), its side, and which clips are used."""
        small, factor = tracker.shrink(video)
        side = max(2 * tracker.CELL, round(self.patch_ratio * min(small.shape[2:])))
        points = tracker.moving_points(small[:, 0], small[:, LAG])
        corner = tracker.busiest(points, side, (small.shape[2], small.shape[3]))
        corners = tracker.follow(small, corner, side, max(2, min(small.shape[2:]) // 8))
        share = points.float().mean((1, 2))
        return factor * corners, factor * side, (share > 0) & (share <= MOST)

    def after_step(self, progress: float) -> None:
        self.hard.fill_(progress >= self.random_until)

    def ends(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """First and last patch of each track, images in 0..1, and which tracks are used, bool, shape (batch,)."""
        video = batch["video"]
        corners, side, usable = self.track(video)
        boxes = torch.cat([corners, torch.full_like(corners, side)], 2)
        size = self.encoder.image_size
        first, last = (crop_resize(to_float(video[:, end]), boxes[:, end], size) for end in (0, -1))
        return first, last, usable

    def embed(self, images: Tensor) -> Tensor:
        """Vectors of single images, float, shape (batch, embedding_dim)."""
        return self.head(self.encoder.frame(images))

    def embed_features(self, features: Tensor) -> Tensor:
        return self.head(features)

    def forward(self, batch: Batch) -> Tensor:
        *ends, usable = self.ends(batch)
        images = torch.cat([self.views({"image": patches}) for patches in ends])
        anchors, positives = self.embed(images).chunk(2)
        # Negatives of held-out samples are always random, so that their losses are comparable over the training.
        hard = self.encoder.training and bool(self.hard)
        groups = batch.get("group", batch["index"])
        allowed = (gather.gather(groups).repeat(2) != groups[:, None]) & usable[:, None]
        farther = excess(anchors, positives)
        right = (farther.detach() < 0) & allowed
        self.metrics = {"accuracy": right.sum() / allowed.sum().clamp(min=1), "motion": usable.float().mean()}
        return ranking(farther, allowed, self.negatives, self.margin, hard)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        corners, side, usable = self.track(batch["video"])
        first, last, _ = self.ends(batch)
        anchors, others = (F.normalize(self.embed(patches), dim=1) for patches in (first, last))
        nearest = (anchors @ others.T).fill_diagonal_(-2).argmax(1)
        frames = [outline(to_float(batch["video"][:, end]), corners[:, end], side) for end in (0, -1)]
        return {
            "first frame": fit(frames[0], self.encoder.image_size),
            "last frame": fit(frames[1], self.encoder.image_size),
            "first patch": first,
            "last patch": last,
            "nearest other patch": last[nearest],
            "used": [
                "yes" if one else "no: nothing moves, or nearly everything moves" for one in usable.tolist()
            ],
        }

"""Contrastive random walk: walk from patch to patch through a video and back, and end where the walk began.

Withheld: which patch of the next frame shows the same thing. Predicted: the patch from which a walker started, after it
went through some frames and back; each step goes to a patch that looks similar.

Source: Jabri, Owens, Efros, "Space-Time Correspondence as a Contrastive Random Walk", 2020,
https://arxiv.org/abs/2006.14613
Differs: the encoder is any network of frames, with the padding that it has, where the paper has a ResNet-18 with
reflected borders. Patches have a quarter of the side of a frame, as in the paper, at the size of the encoder. Edges are
dropped in training only. The optimizer is AdamW, not Adam.
Shortcut: a walker that knew where in the frame it is would return without seeing anything. So each patch is encoded
alone and cropped at random: neither padding nor edges that continue reveal its place. In a still video, pixels find
their patch again, so clips must move; dropped edges force similar patches to help out.
"""

import math
from typing import Annotated, ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check
from unlabeled.encoders.video import Frames
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import Count, Positive, PositiveFraction, Range, Several, ViewOptions
from unlabeled.parts import patches
from unlabeled.parts.augment import Views
from unlabeled.parts.clips import ClipViews
from unlabeled.parts.padding import input_size
from unlabeled.parts.pictures import mark, overlay
from unlabeled.parts.random_walk import round_trips, transitions

__all__ = ["ContrastiveRandomWalk"]


def loss(trips: Tensor) -> Tensor:
    """Cross-entropy of ending where the walk began, mean over all patches and lengths of walks.

    Args:
        trips: As from `round_trips`, float, shape (batch, lengths, patches, patches).

    Returns:
        Scalar, in nats.
    """
    return -(trips.diagonal(dim1=2, dim2=3) + 1e-20).log().mean()


class ContrastiveRandomWalk(ClipViews, Method[Frames]):
    """Walk from patch to patch through a video and back, and end where the walk began.

    The metric `accuracy` is the fraction of the longest walks whose likeliest end is their start.

    Args:
        encoder: Network whose features are kept; it reads single frames, and in training single patches.
        frames: Frames of a clip; walks go through 3 to all of them.
        stride: Frames of the video from one frame of a clip to the next.
        grid: Patches per side of a frame, each overlapping the next by half.
        patch_crop: Smallest fraction of a patch's area that the encoder sees; the position is random.
        temperature: Softmax temperature; lower makes steps more certain.
        dropout: Probability that the edge between two patches is dropped.
        dim: Width of the compared vectors.
        **views: How the clips are cropped, all frames of a clip alike.
    """

    kind = "video"
    encoder_needs = EncoderNeeds("frame", "read single frames, such as frames-conv4")
    defaults: ClassVar = {"encoder": "frames-conv4", "batch_size": 8, "lr": 1e-3}
    view_defaults = ViewOptions(crop=0.8)
    smallest: ClassVar = {"frames": 3, "grid": 3, "stride": 1, "dim": 8, "image_size": 16}
    example = "blobs"

    def __init__(
        self,
        encoder: Frames,
        *,
        frames: Annotated[int, Range(at_least=3)] = 4,
        stride: Count = 2,
        grid: Several = 7,
        patch_crop: PositiveFraction = 0.7,
        temperature: Positive = 0.07,
        dropout: Annotated[float, Range(at_least=0, below=1)] = 0.1,
        dim: Count = 128,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        check.at_least(2 * (grid + 1), image_size=encoder.image_size)
        self.frames, self.stride, self.grid = frames, stride, grid
        self.temperature, self.dropout = temperature, dropout
        self.half_patch = encoder.image_size // (grid + 1)
        self.views = Views((grid + 1) * self.half_patch, **self.view_options(views))
        self.patch_size = (
            input_size(encoder.frame, 2 * self.half_patch, patch_size=None) or 2 * self.half_patch
        )
        self.patch_views = Views(self.patch_size, crop=patch_crop, flip=0, jitter=0, gray=0)
        self.head = nn.Linear(encoder.dim, dim)

    def chance(self, samples: int) -> float:
        return math.log(self.grid**2)

    def walk(self, clips: Tensor, dropout: float) -> tuple[Tensor, Tensor]:
        """Transitions between the patches of neighbouring frames, row by row, as from `transitions`."""
        tiles = self.patch_views({"image": patches.overlapping(clips.flatten(0, 1), self.half_patch)})
        codes = F.normalize(self.head(self.encoder.frame(tiles)), dim=1)
        return transitions(codes.view(*clips.shape[:2], self.grid**2, -1), self.temperature, dropout)

    def forward(self, batch: Batch) -> Tensor:
        trips = round_trips(*self.walk(self.draw(batch), self.dropout if self.training else 0.0))
        starts = torch.arange(self.grid**2, device=trips.device)
        self.metrics = {"accuracy": (trips[:, -1].argmax(2) == starts).float().mean()}
        return loss(trips)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        """Where walkers from some patches of the first frame are in the last one, and after they came back."""
        clips = self.draw(batch)
        forward, back = self.walk(clips, 0.0)
        start = mark(F.adaptive_avg_pool2d(clips[:, 0], self.grid))
        places = [start.flatten(1)[:, None]]
        for step in [*forward.unbind(1), *back.flip(1).unbind(1)]:
            places.append(places[-1] @ step)
        maps = [(place / place.amax(2, keepdim=True)).view_as(start) for place in places]
        first, last = (clips[:, end].expand(-1, 3, -1, -1) for end in (0, -1))
        return {
            "start": overlay(first, maps[0]),
            "in the last frame": overlay(last, maps[self.frames - 1]),
            "back in the first frame": overlay(first, maps[-1]),
        }

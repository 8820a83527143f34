"""Time cycle: track a patch backward through a clip, forward again, and end where the track began.

Withheld: where in the last frame a patch was cut out, and by which angle it was turned. Predicted: this place, from the
patch alone, after it was tracked backward through the earlier frames and forward again, or to one of them and back.

Source: Wang, Jabri, Efros, "Learning Correspondence from the Cycle-consistency of Time", 2019,
https://arxiv.org/abs/1903.07593
Differs: the networks are small, and the maps of the encoder are compared themselves, without a head, so the features
that are kept are those that track. All frames of a clip are equally far apart, the last one too; motion is measured
from the frame before it. What a patch shows beyond the border of the frame is reflected, not black. Kernels of the
localiser grow with the patch; they have 4x4 weights for the paper's 10x10 positions. The optimizer is AdamW, not Adam.
Shortcut: a patch that does not move is tracked by staying, so patches are cut out where the clip moves most. Black
corners would tell the angle. A localiser that always answers the middle of the frame, with features that encode
positions, makes the affinities agree with it; only the cycles, which count for little, speak against it.
"""

from typing import Annotated, ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.data import Data
from unlabeled.encoders.video import Frames
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import Count, NonNegative, Positive, Range, Several, ViewOptions
from unlabeled.parts.augment import Views
from unlabeled.parts.clips import ClipViews
from unlabeled.parts.maps import describe
from unlabeled.parts.pictures import overlay, strip
from unlabeled.parts.places import SCALE, border, localizer, moving_places, points, sample, thirds
from unlabeled.parts.precision import full_precision

__all__ = ["TimeCycle"]

SPREAD = 7 / 19
"""Mean square of 20 numbers that are spread evenly from -1 to 1."""
SAMPLES = 256
"""Clips on which the loss of always predicting the same place is measured."""


@full_precision
def affinity(query: Tensor, maps: Tensor, temperature: float) -> Tensor:
    """Probability that a position of a patch shows what is at a position of a frame.

    Args:
        query: Unit vectors along the channels, float, shape (batch, channels, side, side).
        maps: The same of a frame, float, shape (batch, channels, rows, rows).
        temperature: Softmax temperature.

    Returns:
        Float, shape (batch, rows * rows, side, side); sums to 1 over the positions of the frame.
    """
    likeness = maps.flatten(2).mT @ query.flatten(2)
    return (likeness / temperature).softmax(1).unflatten(2, query.shape[2:])


@full_precision
def alignment(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean squared distance of 20 x 20 points of a patch from where they should be.

    Args:
        predicted: Places as in `parts.places`, float, shape (batch, 3).
        true: The same shape.

    Returns:
        Float, shape (batch,), in squared halves of the side of a frame.
    """
    shift, turn = (predicted - true).split((2, 1), 1)
    return shift.square().sum(1) + 4 * SPREAD * SCALE**2 * (1 - turn[:, 0].cos())


@full_precision
def inliers(affinities: Tensor, places: Tensor) -> Tensor:
    """Mean probability of the positions of a patch to lie where the patch was located.

    Args:
        affinities: As from `affinity`, float, shape (batch, rows * rows, side, side).
        places: As in `parts.places`, float, shape (batch, 3).

    Returns:
        Float, shape (batch,), in 0..1; positions beyond the border of the frame do not count.
    """
    batch, count, side, _ = affinities.shape
    rows = round(count**0.5)
    maps = affinities.movedim(1, 3).reshape(-1, 1, rows, rows)
    grid = points(places, side).view(-1, 1, 1, 2)
    hits, inside = (
        F.grid_sample(given, grid, align_corners=False).view(batch, -1).sum(1)
        for given in (maps, torch.ones_like(maps))
    )
    return hits / inside.clamp(min=1)


class TimeCycle(ClipViews, Method[Frames]):
    """Track a patch backward through a clip, forward again, and end where the track began.

    The metric `similarity` is the mean probability of the positions of a patch to lie where it was located, and
    `distance` how far from its start the longest track ends, in sides of the frame.

    Args:
        encoder: Network whose features are kept; it reads single frames, and in training patches of them.
        frames: Frames of a clip; patches are cut out of the last one and tracked through all others.
        stride: Frames of the video from one frame of a clip to the next.
        rotation: Maximum rotation of the patch, ± degrees.
        temperature: Softmax temperature of the affinities; lower finds each position in fewer places.
        skip_weight: Weight of cycles of two steps, through a single frame, beside the similarity.
        cycle_weight: Weight of cycles through several frames beside the similarity.
        layer: Map of the encoder that describes positions, concatenated with all deeper ones. [default: the deepest
            with a position for every 4 pixels]
        **views: How the clips are cropped and mirrored, all frames of a clip alike.
    """

    kind = "video"
    encoder_needs = EncoderNeeds("frame", "read single frames, such as frames-conv4")
    defaults: ClassVar = {"encoder": "frames-conv4", "batch_size": 8, "lr": 1e-3}
    view_defaults = ViewOptions(crop=0.8, flip=0.5)
    smallest: ClassVar = {"frames": 3, "stride": 1, "image_size": 24}
    example = "blobs"
    baseline: Tensor

    def __init__(
        self,
        encoder: Frames,
        *,
        frames: Several = 5,
        stride: Count = 2,
        rotation: Annotated[float, Range(at_least=0, at_most=180)] = 45,
        temperature: Positive = 0.044,
        skip_weight: NonNegative = 0.1,
        cycle_weight: NonNegative = 0.02,
        layer: str | None = None,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        self.frames, self.stride, self.rotation, self.temperature = frames, stride, rotation, temperature
        self.skip_weight, self.cycle_weight = skip_weight, cycle_weight
        self.layer, self.side, self.patch_size = thirds(encoder.frame, layer)
        self.views = Views(3 * self.patch_size, **self.view_options(views))
        self.localizer = localizer(self.side)
        self.register_buffer("baseline", torch.tensor(0.0))

    @torch.no_grad()
    def prepare(self, data: Data) -> None:
        places = moving_places(self.draw(data.sample(SAMPLES)), self.rotation)
        error = alignment(places.mean(0).expand_as(places), places).mean()
        even = 1 / (3 * self.side) ** 2
        self.baseline.copy_(1 - even + (self.skip_weight + self.cycle_weight) * error)

    def step(self, query: Tensor, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Locate a patch in a frame: affinities, place, and the patch of the frame that is there, the next query."""
        affinities = affinity(query, maps, self.temperature)
        places = self.localizer(affinities)
        return affinities, places, F.normalize(sample(maps, places, self.side), dim=1)

    def skips(self, query: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Similarity of a patch to each earlier frame, and where it ends after a step there and one back.

        Args:
            query: Vectors of a patch of the last frame, float, shape (batch, channels, side, side).
            maps: Vectors of all frames, float, shape (frames, batch, channels, rows, rows).

        Returns:
            Inliers, float, shape ((frames - 1) * batch,), and places, float, shape ((frames - 1) * batch, 3).
        """
        steps = len(maps) - 1
        affinities, there, patches = self.step(query.repeat(steps, 1, 1, 1), maps[:-1].flatten(0, 1))
        return inliers(affinities, there), self.step(patches, maps[-1].repeat(steps, 1, 1, 1))[1]

    def tracks(self, query: Tensor, maps: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Track a patch backward from frame to frame, and from each of these forward again to the last one.

        Args:
            query: As in `skips`.
            maps: As in `skips`.

        Returns:
            Places on the way backward in each frame from the last but one to the first, float, shape (batch, 3); and
            forward in each frame from the second to the last, shape (tracks * batch, 3), the longest track first.
        """
        backward, turns, forward = [], [], []
        for frame in maps[:-1].flip(0):
            _, places, query = self.step(query, frame)
            backward.append(places)
            turns.append(query)
        queries = query[:0]
        for frame in maps[1:]:
            queries = torch.cat([queries, turns.pop()])
            _, places, queries = self.step(queries, frame.repeat(len(queries) // len(query), 1, 1, 1))
            forward.append(places)
        return backward, forward

    def see(self, clips: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Patches, float, shape (batch, channels, pixels, pixels), their places, and vectors of both as in `skips`."""
        places = moving_places(clips, self.rotation)
        patches = sample(clips[:, -1], places, self.patch_size, "reflection")
        query, maps = (
            describe(self.encoder.frame.maps(images), self.layer)
            for images in (patches, clips.transpose(0, 1).flatten(0, 1))
        )
        return patches, places, query, maps.unflatten(0, (-1, len(clips)))

    def forward(self, batch: Batch) -> Tensor:
        _, places, query, maps = self.see(self.draw(batch))
        similarity, back = self.skips(query, maps)
        ends = self.tracks(query, maps)[1][-1]
        true = places.repeat(len(maps) - 1, 1)
        missed = (ends - true)[: len(places), :2].detach().norm(dim=1) / 2
        self.metrics = {"similarity": similarity.detach().mean(), "distance": missed.mean()}
        skip, cycle = (alignment(position, true).mean() for position in (back, ends))
        return 1 - similarity.mean() + self.skip_weight * skip + self.cycle_weight * cycle

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        """The patch, and its place in each frame on the way backward and forward."""
        clips = self.draw(batch)
        patches, places, query, maps = self.see(clips)
        backward, forward = self.tracks(query, maps)
        colored = clips.expand(-1, -1, 3, -1, -1)

        def track_strip(frames: Tensor, track: list[Tensor]) -> Tensor:
            borders = border(torch.stack(track, 1).flatten(0, 1), clips.shape[4])
            return strip(overlay(frames.flatten(0, 1), borders).unflatten(0, frames.shape[:2]))

        return {
            "patch": patches,
            "backward": track_strip(colored.flip(1), [places, *backward]),
            "forward again": track_strip(
                colored, [backward[-1], *(position[: len(clips)] for position in forward)]
            ),
        }

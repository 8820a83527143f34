"""Video colorization: colour a grey frame by pointing at earlier frames and copying their colours.

Withheld: the colour of the target frame. Predicted: for each of its positions, the positions of the reference frames to
copy from, over all of these jointly, from lightness alone.

Source: Vondrick, Shrivastava, Fathi, Guadarrama, Murphy, "Tracking Emerges by Colorizing Videos", 2018,
https://arxiv.org/abs/1806.09594
Differs: each frame is described on its own, without a network over time and without coordinates, by the maps of the
encoder itself: there is no head, so the features that are kept are those that point. Descriptions have unit length by
default. Positions whose colour no reference has, which cannot be copied, do not count. The palette comes from k-means
over a sample of the training clips, not of another corpus. Frames are converted to grey by their lightness. The
optimizer is AdamW.
Shortcut: the network may only copy, so to be right it must find the object again. It gets grey images, whatever it
reads, so that no trace of colour reaches it. A background of one colour is easy: judge by tracking, not by the loss.
"""

from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.data.video.data import Videos
from unlabeled.encoders import ImageEncoder
from unlabeled.encoders.video import Frames
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import Count, Positive, Several, ViewOptions
from unlabeled.parts import gather
from unlabeled.parts.augment import Views, fit
from unlabeled.parts.color import desaturate, lab_to_rgb, lightness, rgb_to_lab
from unlabeled.parts.kmeans import kmeans
from unlabeled.parts.maps import describe, survey
from unlabeled.parts.pictures import mark, overlay
from unlabeled.parts.precision import full_precision

__all__ = ["VideoColorization"]

CLIPS = 256
"""Clips whose colours the palette is made of."""
GREY = 2.0
"""Distance from grey in Lab that some colour of the palette must exceed."""


@full_precision
def likeness(target: Tensor, references: Tensor) -> Tensor:
    """Dot products of the target's positions with those of all references.

    Args:
        target: Float, shape (batch, channels, rows, columns).
        references: Float, shape (batch, references, channels, rows, columns).

    Returns:
        Float, shape (batch, positions of the target, positions of all references).
    """
    sources = rearrange(references, "b t c h w -> b c (t h w)")
    return rearrange(target, "b c h w -> b (h w) c") @ sources


def copy(logits: Tensor, values: Tensor) -> Tensor:
    """Mean of the sources' values, weighted by the pointer.

    Args:
        logits: Float, shape (batch, targets, sources); their softmax over all sources is the pointer.
        values: Anything to copy, float, shape (batch, sources, values).

    Returns:
        Float, shape (batch, targets, values).
    """
    return logits.softmax(2) @ values


def loss(logits: Tensor, colors: Tensor, references: Tensor) -> Tensor:
    """Negative log-likelihood of the target's colours under the copied colours.

    The probability of a colour is the sum of the pointer over the sources that have it: there is no second softmax.

    Args:
        logits: Float, shape (batch, targets, sources).
        colors: Colour of each target position, int64, shape (batch, targets).
        references: Colour of each source, int64, shape (batch, sources).

    Returns:
        Mean over the positions of all processes whose colour some source has, scalar, in nats.
    """
    right = references[:, None] == colors[:, :, None]
    possible = right.any(2)
    right = right | ~possible[:, :, None]  # keeps the gradient finite where it does not count
    nats = logits.logsumexp(2) - logits.masked_fill(~right, -torch.inf).logsumexp(2)
    return gather.mean(nats, possible)


class VideoColorization(Method[Frames | ImageEncoder]):
    """Colour a grey frame by pointing at earlier frames and copying their colours.

    Args:
        encoder: Network whose features are kept.
        references: Frames of a clip that show their colours; one more follows them in grey.
        stride: Frames of the video from one frame of a clip to the next.
        colors: Colours of the palette, found by k-means in the data.
        temperature: Softmax temperature; lower copies from fewer positions.
        normalize: Compare directions only; without it the plain dot product suits a higher temperature.
        layer: Map of the encoder that describes positions, concatenated with all deeper ones. [default: the deepest
            with a position for every 4 pixels]
        **views: How the clips are cropped and mirrored, all frames of a clip alike.
    """

    kind = "video"
    encoder_needs = EncoderNeeds("maps", "read single frames, such as frames-conv4")
    encoder_input = "lightness"
    defaults: ClassVar = {"encoder": "frames-conv4", "batch_size": 8, "lr": 1e-3}
    view_defaults = ViewOptions(crop=0.5, flip=0.5)
    smallest: ClassVar = {"stride": 1, "colors": 4, "image_size": 16}
    example = "blobs"
    palette: Tensor
    baseline: Tensor

    def __init__(
        self,
        encoder: Frames | ImageEncoder,
        *,
        references: Count = 3,
        stride: Count = 2,
        colors: Several = 16,
        temperature: Positive = 0.07,
        normalize: bool = True,
        layer: str | None = None,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        if self.frame.in_channels != 3:
            raise UserError(f"channels must be 3 for video colorization, got {self.frame.in_channels}")
        self.references, self.stride, self.temperature = references, stride, temperature
        self.normalize = normalize
        self.layer, self.rows, self.columns = survey(self.frame, layer)
        self.views = Views(self.frame.image_size, **self.view_options(views))
        self.register_buffer("palette", torch.zeros(colors, 2))
        self.register_buffer(
            "baseline", torch.tensor(0.0)
        )  # of a uniform pointer: it copies the mean of the references

    @property
    def frame(self) -> ImageEncoder:
        """The part of the encoder that sees one frame at a time."""
        return self.encoder.frame if isinstance(self.encoder, Frames) else self.encoder

    def training_view(self, data: Videos) -> Videos:
        return data.clips(frames=self.references + 1, stride=self.stride)

    @torch.no_grad()
    def prepare(self, data: Data) -> None:
        clips = self.clips(data.sample(CLIPS), random=True).to(self.palette.device)
        cells = torch.cat([self.cells(part) for part in clips.split(32)])
        colors = rearrange(cells, "b t ab h w -> (b t h w) ab")
        if not colors.norm(dim=1).max() > GREY:
            raise UserError("videos must have colours for video colorization, got only grey ones")
        self.palette.copy_(gather.broadcast(kmeans(colors, len(self.palette)).centres))
        references, target = self.code(cells)
        frequencies = F.one_hot(references, len(self.palette)).float().mean(1).gather(1, target)
        self.baseline.copy_(
            -frequencies[frequencies > 0].log().mean().nan_to_num()
        )  # 0, unknown, if none is shared

    def clips(self, batch: Batch, *, random: bool) -> Tensor:
        """Clips of the encoder's size, float, shape (batch, references + 1, 3, size, size), in 0..1."""
        video = batch["video"]
        if video.shape[1] <= self.references:
            raise UserError(
                f"frames of a clip must be above references, {self.references}, got {video.shape[1]}"
            )
        # Frames stacked as channels share one crop.
        stacked = rearrange(video[:, : self.references + 1], "b t c h w -> b (t c) h w")
        images = self.views({"image": stacked}) if random else fit(stacked, self.frame.image_size)
        return rearrange(images, "b (t c) h w -> b t c h w", c=video.shape[2])

    def cells(self, clips: Tensor) -> Tensor:
        """Mean colour of each position, a and b of Lab, float, shape (batch, frames, 2, rows, columns)."""
        images = rearrange(clips, "b t c h w -> (b t) c h w")
        colors = rgb_to_lab(F.adaptive_avg_pool2d(images, (self.rows, self.columns)))[:, 1:]
        return rearrange(colors, "(b t) ab h w -> b t ab h w", b=len(clips))

    def code(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Index in the palette of each position of the references and of the target, int64, (batch, positions) each."""
        distance = torch.cdist(rearrange(cells, "b t ab h w -> b (t h w) ab"), self.palette)
        index = rearrange(distance.argmin(2), "b (t p) -> b t p", t=cells.shape[1])
        return index[:, : self.references].flatten(1), index[:, self.references]

    def point(self, clips: Tensor) -> Tensor:
        """Logits from the positions of the target to those of all references, see `likeness`."""
        maps = self.frame.maps(desaturate(rearrange(clips, "b t c h w -> (b t) c h w")))
        vectors = describe(maps, self.layer, self.normalize)
        vectors = rearrange(vectors, "(b t) c h w -> b t c h w", b=len(clips))
        return likeness(vectors[:, -1], vectors[:, :-1]) / self.temperature

    def forward(self, batch: Batch) -> Tensor:
        clips = self.clips(batch, random=True)
        references, target = self.code(self.cells(clips))
        logits = self.point(clips)
        colors = F.one_hot(references, len(self.palette)).to(logits.dtype)
        self.metrics = {"accuracy": (copy(logits.detach(), colors).argmax(2) == target).float().mean()}
        return loss(logits, target, references)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        """What is copied, and where the pointer to the first reference alone finds a mark in it again."""
        clips = self.clips(batch, random=False)
        target, logits, cells = clips[:, -1], self.point(clips), self.cells(clips)
        size = target.shape[2:]
        small = F.adaptive_avg_pool2d(clips[:, :-1].flatten(0, 1), (self.rows, self.columns))
        colors, pixels = (
            rearrange(
                copy(logits, rearrange(values, "b t c h w -> b (t h w) c")),
                "b (h w) c -> b c h w",
                h=self.rows,
            )
            for values in (cells[:, :-1], small.unflatten(0, (len(clips), -1)))
        )
        disc = mark(cells[:, 0])
        pointer = copy(logits[:, :, : self.rows * self.columns], disc.flatten(1)[:, :, None])
        predicted = torch.cat([lightness(target), F.interpolate(colors, size, mode="bilinear")], 1)
        return {
            "first reference": clips[:, 0],
            "target in grey": desaturate(target),
            "colours copied": lab_to_rgb(predicted),
            "true colours": target,
            "copies of references": F.interpolate(pixels, size).clamp(0, 1),
            "marked in the first reference": overlay(desaturate(clips[:, 0]), disc),
            "where the mark is found": overlay(
                desaturate(target), pointer[:, :, 0].unflatten(1, (self.rows, -1))
            ),
        }

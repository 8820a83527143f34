"""Video colorization: colour a grey frame by pointing at places of earlier frames whose colours are copied.

Withheld: the colour of the target frame. Predicted: for each of its places, the places of the reference frames to copy
from, over all of these jointly, from lightness alone.

Source: Vondrick, Shrivastava, Fathi, Guadarrama, Murphy, "Tracking Emerges by Colorizing Videos", 2018,
https://arxiv.org/abs/1806.09594
Differs: each frame is described on its own, without a network over time and without coordinates, by the maps of the
encoder itself: no head stands between, so what is kept is what points. Descriptions have length 1 by default. Places
whose colour no reference has, which nobody could copy, do not count. The palette comes from k-means over a sample of
the training clips, not of another corpus. Frames are grey by their lightness. The weights move by the loop's AdamW.
Shortcut: the network may only copy, so to be right it must find the thing again. It is given grey images, whatever it
reads, so that no trace of colour reaches it. A ground of one colour is easy: judge by what is tracked, not by the loss.
"""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.method import Batch, Method, Pictures
from unlabeled.parts import gather
from unlabeled.parts.augment import Views, fit
from unlabeled.parts.color import lab_to_rgb, lightness, rgb_to_lab
from unlabeled.parts.kmeans import kmeans
from unlabeled.parts.places import describe, survey
from unlabeled.parts.precision import full_precision

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import ImageEncoder

__all__ = ["VideoColorization"]

CLIPS = 256
"""Clips whose colours the palette is made of."""
GREY = 2.0
"""Distance from grey in Lab that some colour of the palette must exceed."""
DISC = 0.1
"""Radius of the mark that pictures follow, as a share of the frame's height."""


@full_precision
def likeness(target: Tensor, references: Tensor) -> Tensor:
    """Dot products of the target's places with those of all references.

    Args:
        target: Float, shape (batch, channels, rows, columns).
        references: Float, shape (batch, references, channels, rows, columns).

    Returns:
        Float, shape (batch, places of the target, places of all references).
    """
    sources = rearrange(references, "b t c h w -> b c (t h w)")
    return rearrange(target, "b c h w -> b (h w) c") @ sources


def copied(logits: Tensor, values: Tensor) -> Tensor:
    """Values of the places pointed at, each with the share that it has of the pointer.

    Args:
        logits: Float, shape (batch, targets, sources); a softmax over all sources makes the pointer.
        values: Anything to copy, float, shape (batch, sources, values).

    Returns:
        Float, shape (batch, targets, values).
    """
    return logits.softmax(2) @ values


def loss(logits: Tensor, colors: Tensor, references: Tensor) -> Tensor:
    """Negative log-likelihood of the target's colours under the colours that are copied.

    The pointer's shares of the sources that have the right colour add up to its probability: there is no second
    softmax.

    Args:
        logits: Float, shape (batch, targets, sources).
        colors: Colour of each target place, int64, shape (batch, targets).
        references: Colour of each source, int64, shape (batch, sources).

    Returns:
        Mean over the places of all processes whose colour some source has, scalar, in nats.
    """
    right = references[:, None] == colors[:, :, None]
    known = right.any(2)
    right = right | ~known[:, :, None]  # keeps the gradient finite where it does not count
    nats = logits.logsumexp(2) - logits.masked_fill(~right, -torch.inf).logsumexp(2)
    count = gather.mean_over_processes(known.sum().to(nats.dtype)).clamp(min=1)
    return (nats * known).sum() / count


class VideoColorization(Method):
    """Colour a grey frame by copying from places of earlier frames.

    Args:
        encoder: Network whose features are kept.
        references: Frames of a clip that show their colours; one more follows them in grey.
        stride: Steps from one frame of a clip to the next.
        colors: Colours of the palette, found by k-means in the data.
        temperature: Divides how alike two places are: lower copies from fewer places.
        normalize: Compare directions only; without it the plain dot product suits a higher temperature.
        layer: Map of the encoder that gives the places, joined with all deeper ones; by default the deepest
            with a place for every 4 pixels.
        crop: Smallest share of a frame's area that is shown, the same in all frames of a clip.
        flip: Probability that a clip is mirrored.
    """

    kind = "video"
    encoder_input = "lightness"
    defaults: ClassVar[dict[str, Any]] = {"encoder": "frames-conv4", "batch_size": 8, "lr": 1e-3}
    smallest: ClassVar = {"stride": 1, "colors": 4}
    example = "blobs"
    palette: Tensor
    baseline: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        *,
        references: int = 3,
        stride: int = 2,
        colors: int = 16,
        temperature: float = 0.07,
        normalize: bool = True,
        layer: str | None = None,
        crop: float = 0.5,
        flip: float = 0.5,
    ) -> None:
        super().__init__(encoder)
        check.whole(references=references, stride=stride, colors=colors)
        check.at_least(1, references=references, stride=stride)
        check.at_least(2, colors=colors)
        check.positive(temperature=temperature)
        if not hasattr(self.frame, "maps"):
            name = type(encoder).__name__
            raise UserError(f"encoder must read single frames, such as frames-conv4, got {name}")
        if self.frame.in_channels != 3:
            raise UserError(f"channels must be 3 for video colorization, got {self.frame.in_channels}")
        self.references, self.stride, self.temperature = references, stride, temperature
        self.normalize = normalize
        self.layer, self.rows, self.columns = survey(self.frame, layer)
        self.views = Views(self.frame.image_size, crop=crop, jitter=0, gray=0, flip=flip)
        self.register_buffer("palette", torch.zeros(colors, 2))
        self.register_buffer("baseline", torch.tensor(0.0))

    @property
    def frame(self) -> "ImageEncoder":
        """The part of the encoder that sees one frame at a time."""
        return getattr(self.encoder, "frame", self.encoder)  # type: ignore[return-value]

    def chance(self, samples: int) -> float | None:
        """Loss of a pointer that is everywhere at once: it copies the mean of the references."""
        return float(self.baseline) or None

    def training_view(self, data: "Data") -> "Data":
        return data.clips(frames=self.references + 1, stride=self.stride)  # type: ignore[attr-defined]

    @torch.no_grad()
    def prepare(self, data: "Data") -> None:
        clips = self.shown(data.sample(CLIPS), random=True).to(self.palette.device)
        cells = torch.cat([self.cells(part) for part in clips.split(32)])
        colors = rearrange(cells, "b t ab h w -> (b t h w) ab")
        if not colors.norm(dim=1).max() > GREY:
            raise UserError("videos must have colours for video colorization, got only grey ones")
        self.palette.copy_(gather.broadcast(kmeans(colors, len(self.palette)).centres))
        references, target = self.code(cells)
        shares = F.one_hot(references, len(self.palette)).float().mean(1).gather(1, target)
        self.baseline.copy_(-shares[shares > 0].log().mean().nan_to_num())  # 0, unknown, where none is shared

    def shown(self, batch: Batch, *, random: bool) -> Tensor:
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
        """Mean colour of each place, a and b of Lab, float, shape (batch, frames, 2, rows, columns)."""
        images = rearrange(clips, "b t c h w -> (b t) c h w")
        colors = rgb_to_lab(F.adaptive_avg_pool2d(images, (self.rows, self.columns)))[:, 1:]
        return rearrange(colors, "(b t) ab h w -> b t ab h w", b=len(clips))

    def code(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Number in the palette of each place of the references and of the target, int64, (batch, places) each."""
        distance = torch.cdist(rearrange(cells, "b t ab h w -> b (t h w) ab"), self.palette)
        references, target = rearrange(distance.argmin(2), "b (t p) -> b t p", t=cells.shape[1]).split(
            [self.references, 1], 1
        )
        return references.flatten(1), target[:, 0]

    def point(self, clips: Tensor) -> Tensor:
        """Logits from the places of the target to those of all references, see `likeness`."""
        maps = self.frame.maps(grey(rearrange(clips, "b t c h w -> (b t) c h w")))
        places = describe(maps, self.layer, self.normalize)
        places = rearrange(places, "(b t) c h w -> b t c h w", b=len(clips))
        return likeness(places[:, -1], places[:, :-1]) / self.temperature

    def forward(self, batch: Batch) -> Tensor:
        clips = self.shown(batch, random=True)
        references, target = self.code(self.cells(clips))
        logits = self.point(clips)
        palette = F.one_hot(references, len(self.palette)).to(logits.dtype)
        self.metrics = {"accuracy": (copied(logits.detach(), palette).argmax(2) == target).float().mean()}
        return loss(logits, target, references)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        """What is copied, and where a mark of the first reference is found again by the pointer to that one alone."""
        clips = self.shown(batch, random=False)
        target, logits, cells = clips[:, -1], self.point(clips), self.cells(clips)
        sources = rearrange(cells[:, :-1], "b t ab h w -> b (t h w) ab")
        small = F.adaptive_avg_pool2d(clips[:, :-1].flatten(0, 1), (self.rows, self.columns))
        pixels = rearrange(small, "(b t) c h w -> b (t h w) c", b=len(clips))
        colors, rebuilt = (
            rearrange(copied(logits, values), "b (h w) c -> b c h w", h=self.rows)
            for values in (sources, pixels)
        )
        marked = disc(cells[:, 0])
        followed = copied(logits[:, :, : self.rows * self.columns], marked.flatten(1)[:, :, None])
        size = target.shape[2:]
        painted = torch.cat([lightness(target), F.interpolate(colors, size, mode="bilinear")], 1)
        return {
            "first reference": clips[:, 0],
            "target in grey": grey(target),
            "colours copied": lab_to_rgb(painted),
            "true colours": target,
            "copies of references": F.interpolate(rebuilt, size).clamp(0, 1),
            "marked in the first reference": in_red(clips[:, 0], marked),
            "where the mark is found": in_red(target, followed[:, :, 0].unflatten(1, (self.rows, -1))),
        }


def grey(images: Tensor) -> Tensor:
    """RGB images with the same lightness and no colour."""
    return lab_to_rgb(F.pad(lightness(images), (0, 0, 0, 0, 0, 2)))


def disc(cells: Tensor) -> Tensor:
    """A mark around the place whose colour differs most from the mean colour: likely a thing, and no label is asked.

    Args:
        cells: a and b of Lab of each place, float, shape (batch, 2, rows, columns).

    Returns:
        1 within the mark and 0 elsewhere, float, shape (batch, rows, columns).
    """
    rows, columns = cells.shape[2:]
    place = (cells - cells.mean((2, 3), keepdim=True)).norm(dim=1).flatten(1).argmax(1)
    down, right = (
        torch.arange(side, device=cells.device) - middle[:, None]
        for side, middle in ((rows, place // columns), (columns, place % columns))
    )
    radius = max(1.0, DISC * rows)
    return (down.square()[:, :, None] + right.square()[:, None] <= radius**2).to(cells.dtype)


def in_red(images: Tensor, shares: Tensor) -> Tensor:
    """Images in grey, as the network sees them, and over them shares of 0..1 (batch, rows, columns) in red."""
    shares = F.interpolate(shares[:, None], images.shape[2:], mode="bilinear").clamp(0, 1)
    red = torch.tensor([1.0, 0.0, 0.0], device=images.device)[:, None, None]
    return torch.lerp(grey(images), red, shares)

"""EPC: say what a hidden part of a walk looked like, from the other parts and from where it was.

Withheld: the frames of some zones of a walk, each a stretch of consecutive frames. Predicted: a description of each
such zone, found by its cosine similarity among those of all hidden zones of the batch, from the visible frames, each
with its pose as seen from the middle of the hidden zone.

Source: Ramakrishnan, Nagarajan, Al-Halah, Grauman, "Environment Predictive Coding for Visual Navigation", 2022,
https://arxiv.org/abs/2102.02337
Differs: the image encoder is trained along, by this loss alone, where the paper's has learned by MoCo and is frozen;
images have no depth. The zones of a walk are divided into groups that are hidden one after the other, so that every
image that was encoded serves several times; batch norms of the encoder see all frames in training. A memory item of
its own stands in where nothing is visible. Guard frames beside hidden zones can be left out of the memory. Time is
told by the nearness exp(-|t| / a third of the walk), to both sides, where the paper has exp(-t) of single steps,
which is 0 after a few dozen. Descriptions pass a batch norm, attention has 4 heads, not 8, and the norms stand before
it. Gradients are not clipped by default, where the authors' code clips them at 0.5.
Shortcut: the frames beside a hidden zone look like it and are told by the time alone: compare with `pose` off, hide
longer zones or leave out guard frames. Poses are no part of the target, so they cannot be copied. The target cannot
collapse: zones with the same description could not be told apart.
"""

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.method import Batch, Method, Pictures
from unlabeled.parts import gather
from unlabeled.parts.frames import as_images, one_each
from unlabeled.parts.precision import full_precision

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.data.trajectories import Walks

__all__ = ["TrajectoryUnmasking"]

CODE, CODE_WIDTH = 5, 16


def mean_pose(poses: Tensor) -> Tensor:
    """Mean place and mean direction of poses.

    Args:
        poses: x, y, heading (radians), float, shape (..., frames, 3).

    Returns:
        Float, shape (..., 3).
    """
    heading = torch.atan2(poses[..., 2].sin().mean(-1), poses[..., 2].cos().mean(-1))
    return torch.cat([poses[..., :2].mean(-2), heading[..., None]], -1)


def relative(poses: Tensor, origin: Tensor) -> Tensor:
    """Poses as seen from a pose: x ahead, y to the left, heading from its own.

    Args:
        poses: x, y, heading (radians), float, shape (..., 3).
        origin: The same, of a shape that broadcasts.

    Returns:
        Float, shape (..., 3); the heading is not wrapped.
    """
    x, y = (poses - origin)[..., :2].unbind(-1)
    cos, sin = origin[..., 2].cos(), origin[..., 2].sin()
    return torch.stack([cos * x + sin * y, cos * y - sin * x, poses[..., 2] - origin[..., 2]], -1)


def code(pose: Tensor, steps: Tensor, scale: Tensor, span: float) -> Tensor:
    """Numbers that describe a pose and a distance in time.

    Args:
        pose: Relative pose, float, shape (..., 3).
        steps: Frames from there to here, shape (...).
        scale: Metres that count as 1.
        span: Frames in which the memory of time fades to 1 / e.

    Returns:
        x, y, cosine and sine of the heading, and the nearness in time in 0..1, float, shape (..., 5).
    """
    heading, near = pose[..., 2], (-steps.abs() / span).exp()
    return torch.stack([*(pose[..., :2] / scale).unbind(-1), heading.cos(), heading.sin(), near], -1)


def seen(hidden: Tensor, zones: int, zone_frames: int, guard: int) -> Tensor:
    """Frames that may be looked at: those in no hidden zone and not within some frames of one.

    Args:
        hidden: Numbers of the hidden zones, int64, shape (batch, hidden).
        zones: Zones of a walk.
        zone_frames: Frames of a zone.
        guard: Frames on both sides of a hidden zone that are left out as well.

    Returns:
        bool, shape (batch, zones * zone_frames).
    """
    masked = F.one_hot(hidden, zones).sum(1).repeat_interleave(zone_frames, 1).float()
    return F.max_pool1d(masked[:, None], 2 * guard + 1, stride=1, padding=guard)[:, 0] == 0


@full_precision
def loss(predictions: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """InfoNCE: the own zone's share in a softmax over the hidden zones of all walks of all processes.

    Args:
        predictions: Float, shape (zones, dim); only their directions count.
        targets: Row by row of the same zones, float, shape (zones, dim).
        temperature: Divides the cosines, above 0.

    Returns:
        Mean over the zones of this process, scalar, in nats; ln(zones of all) when all vectors are equal.
    """
    everyone = gather.gather(F.normalize(targets, dim=1))
    similarity = F.normalize(predictions, dim=1) @ everyone.T / temperature
    return F.cross_entropy(similarity, mine(len(targets), targets.device))


@torch.no_grad()
def found(predictions: Tensor, targets: Tensor) -> Tensor:
    """Zone of all processes whose target is nearest to each prediction, int64, shape (zones,)."""
    everyone = gather.gather(F.normalize(targets, dim=1))
    return (F.normalize(predictions, dim=1) @ everyone.T).argmax(1)


def mine(zones: int, device: torch.device) -> Tensor:
    """Rows of this process's zones among those of all processes, int64, shape (zones,)."""
    return torch.arange(zones, device=device) + gather.rank() * zones


class Attention(nn.Module):
    """Attention to a memory, then a small network at every item, each added to what was there."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.before, self.between = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.layers = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(inplace=True), nn.Linear(2 * dim, dim))

    def forward(self, items: Tensor, memory: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
        """Items that have looked at the usable part of the memory, and the weights with which they did.

        Args:
            items: Float, shape (batch, items, dim).
            memory: Float, shape (batch, memory, dim).
            usable: bool, shape (batch, memory).

        Returns:
            Float, shape (batch, items, dim), and float, shape (batch, items, memory).
        """
        # The torch mask says what to ignore.
        memory = self.before(memory)
        found, weights = self.attention(self.before(items), memory, memory, key_padding_mask=~usable)
        items = items + found
        return items + self.layers(self.between(items)), weights


class TrajectoryUnmasking(Method):
    """Say what a hidden part of a walk looked like, from the other parts and from where it was.

    The metric `found` is the share of the hidden zones that are told from all others of the batch.

    Args:
        encoder: Network whose features are kept.
        zones: Zones of a walk.
        zone_frames: Frames of a zone.
        stride: Steps of the walk from one frame to the next.
        masked: Zones that are hidden at the same time, fewer than all.
        guard: Frames on both sides of a hidden zone that are not shown either.
        pose: Whether poses are given; without them time alone says where a zone was.
        temperature: Sharpness of the softmax over similarities.
        projection_dim: Width of the vectors that are compared, a multiple of the heads.
        heads: Heads of the attention.
    """

    kind = "trajectory"
    encoder_kind = "image"
    defaults: ClassVar[dict[str, Any]] = {
        "encoder": "conv4",
        "batch_size": 8,
        "lr": 1e-3,
        "weight_decay": 1e-6,
    }
    compares_samples = True
    smallest: ClassVar = {
        "zones": 4,
        "zone_frames": 2,
        "stride": 1,
        "masked": 2,
        "projection_dim": 16,
        "heads": 2,
    }
    scale: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        *,
        zones: int = 12,
        zone_frames: int = 3,
        stride: int = 3,
        masked: int = 4,
        guard: int = 0,
        pose: bool = True,
        temperature: float = 0.1,
        projection_dim: int = 64,
        heads: int = 4,
    ) -> None:
        super().__init__(encoder)
        check.whole(
            zones=zones, zone_frames=zone_frames, stride=stride, masked=masked, guard=guard, heads=heads
        )
        check.whole(projection_dim=projection_dim)
        check.at_least(2, zones=zones)
        check.at_least(1, zone_frames=zone_frames, stride=stride, masked=masked, heads=heads)
        check.at_least(0, guard=guard)
        check.positive(temperature=temperature)
        if masked >= zones:
            raise UserError(f"masked must be below zones ({zones}), got {masked}")
        if projection_dim < 1 or projection_dim % heads:
            raise UserError(f"projection_dim must be a multiple of heads ({heads}), got {projection_dim}")
        self.zones, self.zone_frames, self.stride, self.masked, self.guard = (
            zones,
            zone_frames,
            stride,
            masked,
            guard,
        )
        self.pose, self.temperature = pose, temperature
        # The norm takes away what all frames have in common, else they start out all alike.
        self.project = nn.Sequential(
            nn.Linear(self.encoder.dim, projection_dim), nn.BatchNorm1d(projection_dim)
        )
        self.code = nn.Linear(CODE, CODE_WIDTH)
        self.fuse = nn.Sequential(
            nn.Linear(projection_dim + CODE_WIDTH, projection_dim),
            nn.ReLU(inplace=True),
            nn.Linear(projection_dim, projection_dim),
        )
        self.empty = nn.Parameter(torch.randn(projection_dim) / projection_dim**0.5)
        self.remember = Attention(projection_dim, heads)
        self.ask = Attention(projection_dim, heads)
        self.register_buffer("scale", torch.tensor(1.0))

    def chance(self, samples: int) -> float:
        return math.log(samples * self.masked)

    def training_view(self, data: "Walks"):  # type: ignore[override]
        return data.spans(self.zones * self.zone_frames, self.stride)

    def prepare(self, data: "Data") -> None:
        """Measure how far walks reach, so that poses in any unit are numbers about 1."""
        places = data.sample(256)["pose"][..., :2]
        spread = (places - places.mean(1, keepdim=True)).square().sum(-1).mean().sqrt()
        self.scale.copy_(spread if spread > 0 else torch.ones(()))

    def forward(self, batch: Batch) -> Tensor:
        predictions, targets = self.guess(batch, self.draw(batch))
        groups = [
            (p.flatten(0, 1), t.flatten(0, 1)) for p, t in zip(predictions.unbind(1), targets.unbind(1))
        ]
        right = [found(p, t) == mine(len(t), t.device) for p, t in groups]
        self.metrics = {"found": torch.cat(right).float().mean()}
        return torch.stack([loss(p, t, self.temperature) for p, t in groups]).mean()

    def draw(self, batch: Batch) -> Tensor:
        """Groups of zones to hide, all different, int64, shape (batch, groups, masked)."""
        order = torch.rand(len(batch["video"]), self.zones, device=batch["video"].device).argsort(1)
        return order[:, : self.zones - self.zones % self.masked].unflatten(1, (-1, self.masked))

    def guess(self, batch: Batch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptions of zones as predicted while a group of them is hidden, and as they are.

        Args:
            batch: `video` (batch, frames, channels, height, width) and `pose` (batch, frames, 3).
            hidden: Numbers of the zones of each group, int64, shape (batch, groups, masked).

        Returns:
            Predictions and targets, each float, shape (batch, groups, masked, projection_dim).
        """
        described, groups = (
            self.describe(as_images(batch["video"])).unflatten(0, batch["video"].shape[:2]),
            hidden.shape[1],
        )
        pose = batch["pose"].float().repeat_interleave(groups, 0)
        predictions, _ = self.predict(described.repeat_interleave(groups, 0), pose, hidden.flatten(0, 1))
        targets = self.target(described).unflatten(1, (self.zones, self.zone_frames)).mean(2)
        rows = torch.arange(len(hidden), device=hidden.device)[:, None, None]
        return predictions.unflatten(0, hidden.shape[:2]), targets[rows, hidden]

    def describe(self, images: Batch) -> Tensor:
        """Descriptions of images, without any pose, float, shape (batch, projection_dim)."""
        return self.project(self.encoder(self.encoder.inputs(images)))

    def target(self, described: Tensor) -> Tensor:
        """What is to be predicted of frames, float, the shape of their descriptions."""
        return self.fuse(self.with_code(described, described.new_zeros(CODE)))

    def predict(self, described: Tensor, pose: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptions of hidden zones from visible frames.

        Args:
            described: Of all frames, float, shape (batch, frames, projection_dim); those of hidden ones do not matter.
            pose: x, y (metres), heading (radians), float, shape (batch, frames, 3).
            hidden: Numbers of zones, int64, shape (batch, hidden).

        Returns:
            Predictions, float, shape (batch, hidden, projection_dim), and the weights with which each looked at
            nothing and at each frame, float, shape (batch, hidden, 1 + frames).
        """
        count, frames = hidden.shape[1], described.shape[1]
        zones = pose.unflatten(1, (self.zones, self.zone_frames))
        origin = mean_pose(zones).gather(1, hidden[..., None].expand(-1, -1, 3))
        middle = hidden * self.zone_frames + (self.zone_frames - 1) / 2
        steps = torch.arange(frames, device=pose.device) - middle[..., None]
        there = relative(pose[:, None], origin[:, :, None])
        if not self.pose:
            there = torch.zeros_like(there)
        span = frames / 3
        codes = code(there, steps, self.scale, span)
        items = self.fuse(self.with_code(repeat(described, "b f d -> b q f d", q=count), codes))
        items = rearrange(items, "b q f d -> (b q) f d")
        memory = torch.cat([self.empty.expand(len(items), 1, -1), items], 1)
        usable = seen(hidden, self.zones, self.zone_frames, self.guard).repeat_interleave(count, 0)
        usable = F.pad(usable, (1, 0), value=True)
        memory, _ = self.remember(memory, memory, usable)
        here = code(pose.new_zeros(3), pose.new_zeros(()), self.scale, span)
        query = self.fuse(self.with_code(torch.zeros_like(self.empty), here)).expand(len(items), 1, -1)
        found, weights = self.ask(query, memory, usable)
        return found.unflatten(0, (-1, count))[:, :, 0], weights.unflatten(0, (-1, count))[:, :, 0]

    def with_code(self, described: Tensor, codes: Tensor) -> Tensor:
        """Descriptions beside the codes of their poses, float, shape (..., projection_dim + code)."""
        codes = self.code(codes)
        return torch.cat([described, codes.expand(*described.shape[:-1], -1)], -1)

    def features(self, batch: Batch, layer: str | None = None) -> Tensor:
        return super().features(one_each(batch), layer)

    def embedding(self, batch: Batch) -> Tensor:
        return self.target(self.describe(one_each(batch)))

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        video, hidden = batch["video"], self.draw(batch)[:, :1]
        predictions, targets = (vectors.flatten(0, 2) for vectors in self.guess(batch, hidden))
        hidden = hidden[:, 0]
        nearest = found(predictions, targets).unflatten(0, hidden.shape)
        middle = video.unflatten(1, (self.zones, self.zone_frames))[:, :, self.zone_frames // 2]
        shown = self.encoder.inputs(as_images(middle)).unflatten(0, middle.shape[:2])
        rows = torch.arange(len(video), device=video.device)[:, None]
        masked, filled = shown.clone(), shown.clone()
        masked[rows, hidden] = 0.5
        filled[rows, hidden] = shown[rows, hidden].flatten(0, 1)[nearest]
        whole = sheet(shown)
        usable = seen(hidden, self.zones, self.zone_frames, 0)
        path = torch.stack([from_above(*walk, whole.shape[2:]) for walk in zip(batch["pose"], usable)])
        return {
            "walk": whole,
            "shown": sheet(masked),
            "filled in": sheet(filled),
            "path": path.expand(-1, whole.shape[1], -1, -1),
        }


def sheet(images: Tensor) -> Tensor:
    """Images side by side in as many rows as columns or one fewer, white where none is left.

    Args:
        images: Float in 0..1, shape (batch, images, channels, height, width).

    Returns:
        Float in 0..1, shape (batch, channels, rows * height, columns * width).
    """
    columns = math.ceil(images.shape[1] ** 0.5)
    missing = -images.shape[1] % columns
    images = torch.cat([images, images.new_ones(len(images), missing, *images.shape[2:])], 1)
    return rearrange(images, "b (r k) c h w -> b c (r h) (k w)", k=columns)


def from_above(pose: Tensor, usable: Tensor, size: torch.Size) -> Tensor:
    """The path of a walk, dark where frames are visible and light where they are hidden.

    Args:
        pose: x, y (metres), heading, float, shape (frames, 3).
        usable: Which frames are visible, bool, shape (frames,).
        size: Height and width in pixels.

    Returns:
        Float in 0..1, shape (1, height, width), y upwards.
    """
    place = pose[:, :2] - pose[:, :2].amin(0)
    place = place / place.max().clamp(min=1e-6)
    side = min(size) - 5
    column, row = (2 + side * place[:, 0]).long(), (size[0] - 3 - side * place[:, 1]).long()
    image = torch.ones(*size, device=pose.device)
    for kind, level in ((~usable, 0.65), (usable, 0.0)):
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                image[row[kind] + down, column[kind] + right] = level
    return image[None]

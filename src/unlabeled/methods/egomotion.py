"""Egomotion: predict how the camera moved between two frames, which takes knowing what is where.

Withheld: the motion between two frames. Predicted: how far the camera moved ahead and to the left, and by which angle
it turned to the left, relative to the first frame, each as one of several bins.

Source: Agrawal, Carreira, Malik, "Learning to See by Moving", 2015, https://arxiv.org/abs/1505.01596
Differs: bins hold equally many motions of the training data, where the paper's are equally wide, so that no answer is
right more often than another. Pairs are mirrored by default, which negates motions and turns to the left. Two frames
are 1 to 4 steps apart, in the paper at most 7; no frame is paired with itself, which would show what no motion looks
like. Any encoder takes the place of AlexNet; its last map is averaged to at most 4 positions on a side, and norms
follow the convolutions of the head. The optimizer is AdamW, not SGD.
Shortcut: all pairs of a trajectory at constant speed have the same answer, so bins are balanced over all trajectories.
Anything that moves with the camera, such as a car's bonnet, and borders that move with the image reveal the motion
without a look at the scene: crop them away. Where the place reveals the motion (a highway, a dead end), one frame is
enough.
"""

import math
from typing import Annotated, ClassVar, Unpack

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data.trajectories import Trajectories
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method, Pictures
from unlabeled.options import Count, Range, Several, ViewOptions
from unlabeled.parts import poses
from unlabeled.parts.frames import as_images, one_each
from unlabeled.parts.heads import near_zero
from unlabeled.parts.maps import map_shape

__all__ = ["Egomotion"]

NAMES = "ahead", "left", "turn"
MIRRORED = torch.tensor([1.0, -1.0, -1.0])
"""Signs of the three components after mirroring."""
FRAMES = 32
"""Frames of the longest stretch of a trajectory from which pairs are drawn."""
GRID = 4
"""Most positions on a side of the maps that the head reads."""


def quantiles(motions: Tensor, bins: int) -> Tensor:
    """Edges between bins that hold equally many motions, as far as ties allow.

    Args:
        motions: Float, shape (motions, 3).
        bins: At least 2.

    Returns:
        Float, shape (bins - 1, 3). No edge coincides with a motion, where rounding would decide.
    """
    unit = 1e-3 * motions.std(0) + 1e-6
    ranks = torch.linspace(0, len(motions) - 1, bins + 1)[1:-1].round().long()
    return ((motions / unit).round().sort(0).values[ranks.to(motions.device)] + 0.5) * unit


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies of the components.

    Args:
        logits: Float, shape (pairs, 3, bins).
        targets: Bin of each component, int64, shape (pairs, 3).

    Returns:
        Mean over the pairs, scalar, in nats.
    """
    return targets.shape[1] * F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


class Egomotion(Method[ImageEncoder]):
    """Predict how the camera moved between two frames.

    Images without any motion will do as well: the data `pans:PATH` is pairs of views of each image of a folder, between
    which a camera slid and turned by a known motion.

    The metrics `ahead_accuracy`, `left_accuracy` and `turn_accuracy` are those of the predicted bins.

    Args:
        encoder: Network whose features are kept.
        bins: Number of bins of each component.
        reach: Largest number of steps of the trajectory between the two frames.
        pairs: Pairs of frames that are drawn from each trajectory of a batch.
        hidden_dim: Width of the hidden layer of the head.
        dropout: Dropout probability in the hidden layer.
        **views: How often pairs are mirrored, both frames together with the motion.
    """

    kind = "trajectory"
    encoder_kind = "image"
    defaults: ClassVar = {"encoder": "conv4", "batch_size": 8, "lr": 1e-3, "weight_decay": 1e-4}
    view_defaults = ViewOptions(flip=0.5)
    smallest: ClassVar = {"bins": 4, "pairs": 4, "hidden_dim": 32, "image_size": 16}
    edges: Tensor
    typical: Tensor
    baseline: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        bins: Several = 20,
        reach: Count = 4,
        pairs: Count = 8,
        hidden_dim: Count = 500,
        dropout: Annotated[float, Range(at_least=0, below=1)] = 0.5,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        self.bins, self.reach, self.pairs = bins, reach, pairs
        self.flip = self.view_options(views)["flip"]
        channels, height, width = map_shape(encoder)
        self.grid = min(GRID, height), min(GRID, width)
        self.head = nn.Sequential(
            nn.Conv2d(2 * channels, 256, 3, padding=1, bias=False),
            nn.BatchNorm2d(256),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 128, 3, padding=1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(128 * self.grid[0] * self.grid[1], hidden_dim),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            near_zero(nn.Linear(hidden_dim, len(NAMES) * bins)),
        )
        self.register_buffer("edges", torch.zeros(bins - 1, len(NAMES)))
        self.register_buffer("typical", torch.zeros(bins, len(NAMES)))
        self.register_buffer("baseline", torch.tensor(0.0))

    def training_view(self, data: Trajectories) -> Trajectories:
        if self.reach >= data.shortest:
            raise UserError(
                f"reach must be below {data.shortest}, the length of the shortest trajectory of {data.name}, got "
                f"{self.reach}"
            )
        return data.spans(min(FRAMES, data.shortest))

    def prepare(self, data: Trajectories) -> None:
        """Set the bins by all pairs of the training data, and compute the loss of predicting their frequencies."""
        trajectory, time = data.places().unbind(1)
        pose = data.signals["pose"][data.starts[trajectory] + time]
        gaps = range(1, self.reach + 1)
        motions = torch.cat(
            [poses.motion(pose[:-gap], pose[gap:])[trajectory[:-gap] == trajectory[gap:]] for gap in gaps]
        )
        if not motions.any():
            raise UserError(
                f"trajectories must move for egomotion, got {data.name}, in which no pose changes"
            )
        if self.flip:
            motions = torch.cat([motions, motions * MIRRORED])
        self.edges.copy_(quantiles(motions, self.bins))
        frequencies = torch.zeros(len(NAMES), self.bins)
        for part, bins in enumerate(self.bin(motions.to(self.edges)).cpu().unbind(1)):
            counts = bins.bincount(minlength=self.bins)
            sums = torch.zeros(self.bins).index_add(0, bins, motions[:, part])
            self.typical[:, part].copy_(sums / counts.clamp(min=1))
            frequencies[part] = counts / len(motions)
        self.baseline.copy_(-torch.special.xlogy(frequencies, frequencies).sum())

    def bin(self, motions: Tensor) -> Tensor:
        """Bin of each component of motions, int64, shape (pairs, 3)."""
        return (motions[:, None] > self.edges).sum(1)

    def draw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Pairs of frames, float in 0..1, (batch * pairs, 2, channels, size, size), and their motions, (..., 3)."""
        video, pose = batch["video"], batch["pose"].float()
        shape, device = (len(video), self.pairs), video.device
        gap = (torch.rand(shape, device=device) * self.reach).long() + 1
        first = (torch.rand(shape, device=device) * (video.shape[1] - gap)).long()
        row = torch.arange(len(video), device=device)[:, None]
        motions = poses.motion(pose[row, first], pose[row, first + gap]).flatten(0, 1)
        frames = torch.stack([video[row, first], video[row, first + gap]], 2)
        images = self.encoder.inputs(as_images(frames))
        return rearrange(images, "(pairs two) c h w -> pairs two c h w", two=2), motions

    def mirror(self, images: Tensor, motions: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs and their motions, some of them mirrored."""
        mirrored = torch.rand(len(images), device=images.device) < self.flip
        images = torch.where(mirrored[:, None, None, None, None], images.flip(4), images)
        return images, torch.where(mirrored[:, None], motions * MIRRORED.to(motions), motions)

    def logits(self, images: Tensor) -> Tensor:
        """Logits of the bins, float, shape (pairs, 3, bins), from pairs of images."""
        *_, last = self.encoder.maps(images.flatten(0, 1)).values()
        maps = rearrange(
            F.adaptive_avg_pool2d(last, self.grid), "(pairs two) c h w -> pairs (two c) h w", two=2
        )
        return self.head(maps).unflatten(1, (len(NAMES), self.bins))

    def forward(self, batch: Batch) -> Tensor:
        images, motions = self.mirror(*self.draw(batch))
        logits, targets = self.logits(images), self.bin(motions)
        right = (logits.detach().argmax(2) == targets).float().mean(0)
        self.metrics = dict(zip((f"{name}_accuracy" for name in NAMES), right.unbind()))
        return loss(logits, targets)

    def features(self, batch: Batch, layer: str | None = None) -> Tensor:
        return super().features(one_each(batch), layer)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        images, motions = (values[:: self.pairs] for values in self.draw(batch))
        bins = self.logits(images).argmax(2)
        predicted = torch.stack([self.typical[bins[:, part], part] for part in range(len(NAMES))], 1)
        return {
            "first frame": images[:, 0],
            "second frame": images[:, 1],
            "motion": [words(*values) for values in motions.tolist()],
            "predicted": [words(*values) for values in predicted.tolist()],
        }


def words(ahead: float, left: float, turn: float) -> str:
    """A motion in words."""
    return f"ahead {ahead:.1f}, left {left:.1f}, turn {math.degrees(turn):.0f}°"

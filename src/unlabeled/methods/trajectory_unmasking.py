"""EPC: predict what a masked part of a trajectory looked like, from the other parts and from where it was.

Withheld: the frames of some zones of a trajectory, each a stretch of consecutive frames. Predicted: a description of
each such zone, identified by its cosine similarity among those of all masked zones of the batch, from the visible
frames, each with its pose as seen from the middle of the masked zone.

Source: Ramakrishnan, Nagarajan, Al-Halah, Grauman, "Environment Predictive Coding for Visual Navigation", 2022,
https://arxiv.org/abs/2102.02337
Differs: the image encoder is trained too, by this loss alone, where the paper's is pretrained by MoCo and frozen;
images have no depth. The zones of a trajectory are divided into groups that are masked one after another, so that every
encoded image is used several times; batch norms of the encoder see all frames in training. A learned memory item stands
in if nothing is visible. Guard frames beside masked zones can be excluded from the memory. Time is encoded by the
nearness exp(-|t| / a third of the trajectory), in both directions, where the paper has exp(-t) of single steps, which
is 0 after a few dozen. Descriptions pass a batch norm, attention has 4 heads, not 8, and the norms precede it.
Gradients are not clipped by default, where the authors' code clips them at 0.5.
Shortcut: the frames beside a masked zone look like it and are identified by time alone: compare with `pose` off, mask
longer zones or exclude guard frames. Poses are no part of the target, so they cannot be copied. The target cannot
collapse: zones with the same description could not be distinguished.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.data.trajectories import Trajectories
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method, Pictures
from unlabeled.options import Count, Positive, Several, WholeNumber
from unlabeled.parts import gather, poses
from unlabeled.parts.attention import Attention
from unlabeled.parts.frames import as_images, one_each
from unlabeled.parts.info_nce import in_batch, nearest
from unlabeled.parts.pictures import path, sheet

__all__ = ["TrajectoryUnmasking"]

CODE, CODE_WIDTH = 5, 16


def visible(masked: Tensor, zones: int, zone_frames: int, guard: int) -> Tensor:
    """Frames in no masked zone and not within some frames of one.

    Args:
        masked: Numbers of the masked zones, int64, shape (batch, masked).
        zones: Zones of a trajectory.
        zone_frames: Frames of a zone.
        guard: Frames on both sides of a masked zone that are masked as well.

    Returns:
        bool, shape (batch, zones * zone_frames).
    """
    hidden = F.one_hot(masked, zones).sum(1).repeat_interleave(zone_frames, 1).float()
    return F.max_pool1d(hidden[:, None], 2 * guard + 1, stride=1, padding=guard)[:, 0] == 0


class TrajectoryUnmasking(Method[ImageEncoder]):
    """Predict what a masked part of a trajectory looked like, from the other parts and from where it was.

    The metric `found` is the fraction of the masked zones that are identified among all others of the batch.

    Args:
        encoder: Network whose features are kept.
        zones: Zones of a trajectory.
        zone_frames: Frames of a zone.
        stride: Steps of the trajectory from one frame to the next.
        masked: Zones that are hidden at the same time, fewer than all.
        guard: Frames on both sides of a hidden zone that are hidden too.
        pose: Give the poses; without them time alone says where a zone was.
        temperature: Softmax temperature; lower penalises hard negatives more.
        projection_dim: Width of the compared vectors, a multiple of the heads.
        heads: Heads of the attention.
    """

    kind = "trajectory"
    encoder_kind = "image"
    compares_samples = True
    defaults: ClassVar = {"encoder": "conv4", "batch_size": 8, "lr": 1e-3, "weight_decay": 1e-6}
    smallest: ClassVar = {
        "zones": 4,
        "zone_frames": 2,
        "stride": 1,
        "masked": 2,
        "projection_dim": 16,
        "heads": 2,
        "image_size": 16,
    }
    scale: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        zones: Several = 12,
        zone_frames: Count = 3,
        stride: Count = 3,
        masked: Count = 4,
        guard: WholeNumber = 0,
        pose: bool = True,
        temperature: Positive = 0.1,
        projection_dim: Count = 64,
        heads: Count = 4,
    ) -> None:
        super().__init__(encoder)
        if masked >= zones:
            raise UserError(f"masked must be below zones ({zones}), got {masked}")
        if projection_dim % heads:
            raise UserError(f"projection_dim must be a multiple of heads ({heads}), got {projection_dim}")
        self.zones, self.zone_frames, self.stride = zones, zone_frames, stride
        self.masked, self.guard, self.pose, self.temperature = masked, guard, pose, temperature
        # The norm removes what all frames have in common, else all descriptions start out alike.
        self.project = nn.Sequential(nn.Linear(encoder.dim, projection_dim), nn.BatchNorm1d(projection_dim))
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

    def training_view(self, data: Trajectories) -> Trajectories:
        return data.spans(self.zones * self.zone_frames, self.stride)

    def prepare(self, data: Data) -> None:
        """Measure how far trajectories reach, so that poses in any unit become numbers about 1."""
        positions = data.sample(256)["pose"][..., :2]
        spread = (positions - positions.mean(1, keepdim=True)).square().sum(-1).mean().sqrt()
        self.scale.copy_(spread if spread > 0 else torch.ones(()))

    def forward(self, batch: Batch) -> Tensor:
        predictions, targets = (
            [group.flatten(0, 1) for group in vectors.unbind(1)]
            for vectors in self.predict(batch, self.draw(batch))
        )
        own = gather.own_rows(len(targets[0]), targets[0].device)
        pairs = list(zip(predictions, targets))
        self.metrics = {"accuracy": torch.cat([nearest(*pair) == own for pair in pairs]).float().mean()}
        return torch.stack([in_batch(*pair, self.temperature) for pair in pairs]).mean()

    def draw(self, batch: Batch) -> Tensor:
        """Groups of zones to mask, all different, int64, shape (batch, groups, masked)."""
        order = torch.rand(len(batch["video"]), self.zones, device=batch["video"].device).argsort(1)
        return order[:, : self.zones - self.zones % self.masked].unflatten(1, (-1, self.masked))

    def predict(self, batch: Batch, masked: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptions of zones as predicted while a group of them is masked, and as they are.

        Args:
            batch: `video` (batch, frames, channels, height, width) and `pose` (batch, frames, 3).
            masked: Numbers of the zones of each group, int64, shape (batch, groups, masked).

        Returns:
            Predictions and targets, each float, shape (batch, groups, masked, projection_dim).
        """
        descriptions = self.describe(as_images(batch["video"])).unflatten(0, batch["video"].shape[:2])
        groups = masked.shape[1]
        pose = batch["pose"].float().repeat_interleave(groups, 0)
        predictions, _ = self.fill_in(descriptions.repeat_interleave(groups, 0), pose, masked.flatten(0, 1))
        targets = self.target(descriptions).unflatten(1, (self.zones, self.zone_frames)).mean(2)
        rows = torch.arange(len(masked), device=masked.device)[:, None, None]
        return predictions.unflatten(0, masked.shape[:2]), targets[rows, masked]

    def describe(self, images: Batch) -> Tensor:
        """Descriptions of images, without any pose, float, shape (batch, projection_dim)."""
        return self.project(self.encoder(self.encoder.inputs(images)))

    def target(self, descriptions: Tensor) -> Tensor:
        """What is to be predicted of frames, float, the shape of their descriptions."""
        return self.fuse(self.with_code(descriptions, descriptions.new_zeros(CODE)))

    def fill_in(self, descriptions: Tensor, pose: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptions of masked zones from visible frames.

        Args:
            descriptions: Of all frames, float, shape (batch, frames, projection_dim); masked ones do not matter.
            pose: x, y (metres), heading (radians), float, shape (batch, frames, 3).
            masked: Numbers of zones, int64, shape (batch, masked).

        Returns:
            Predictions, float, shape (batch, masked, projection_dim), and the attention of each to nothing and to each
            frame, float, shape (batch, masked, 1 + frames).
        """
        count, frames = masked.shape[1], descriptions.shape[1]
        zones = pose.unflatten(1, (self.zones, self.zone_frames))
        origin = poses.mean_pose(zones).gather(1, masked[..., None].expand(-1, -1, 3))
        middle = masked * self.zone_frames + (self.zone_frames - 1) / 2
        steps = torch.arange(frames, device=pose.device) - middle[..., None]
        there = poses.relative(pose[:, None], origin[:, :, None])
        if not self.pose:
            there = torch.zeros_like(there)
        span = frames / 3
        codes = poses.code(there, steps, self.scale, span)
        items = self.fuse(self.with_code(repeat(descriptions, "b f d -> b q f d", q=count), codes))
        items = rearrange(items, "b q f d -> (b q) f d")
        memory = torch.cat([self.empty.expand(len(items), 1, -1), items], 1)
        usable = visible(masked, self.zones, self.zone_frames, self.guard).repeat_interleave(count, 0)
        usable = F.pad(usable, (1, 0), value=True)
        memory, _ = self.remember(memory, memory, usable)
        here = poses.code(pose.new_zeros(3), pose.new_zeros(()), self.scale, span)
        query = self.fuse(self.with_code(torch.zeros_like(self.empty), here)).expand(len(items), 1, -1)
        predictions, weights = self.ask(query, memory, usable)
        return predictions.unflatten(0, (-1, count))[:, :, 0], weights.unflatten(0, (-1, count))[:, :, 0]

    def with_code(self, descriptions: Tensor, codes: Tensor) -> Tensor:
        """Descriptions beside the codes of their poses, float, shape (..., projection_dim + code)."""
        codes = self.code(codes)
        return torch.cat([descriptions, codes.expand(*descriptions.shape[:-1], -1)], -1)

    def features(self, batch: Batch, layer: str | None = None) -> Tensor:
        return super().features(one_each(batch), layer)

    def embedding(self, batch: Batch) -> Tensor:
        return self.target(self.describe(one_each(batch)))

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        video, masked = batch["video"], self.draw(batch)[:, :1]
        predictions, targets = (vectors.flatten(0, 2) for vectors in self.predict(batch, masked))
        masked = masked[:, 0]
        index = nearest(predictions, targets).unflatten(0, masked.shape)
        middle = video.unflatten(1, (self.zones, self.zone_frames))[:, :, self.zone_frames // 2]
        images = self.encoder.inputs(as_images(middle)).unflatten(0, middle.shape[:2])
        rows = torch.arange(len(video), device=video.device)[:, None]
        gray, filling = images.clone(), images.clone()
        gray[rows, masked] = 0.5
        filling[rows, masked] = images[rows, masked].flatten(0, 1)[index]
        whole = sheet(images)
        usable = visible(masked, self.zones, self.zone_frames, 0)
        size = whole.shape[2], whole.shape[3]
        paths = torch.stack([path(*trajectory, size) for trajectory in zip(batch["pose"][..., :2], usable)])
        return {
            "trajectory": whole,
            "visible": sheet(gray),
            "filled in": sheet(filling),
            "path": paths.expand(-1, whole.shape[1], -1, -1),
        }

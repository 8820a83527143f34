"""Arrow of time: predict whether a video is played forward or backward, which takes knowing what causes what.

Withheld: the direction of play. Predicted: whether it is forward.

Source: Wei, Lim, Zisserman, Freeman, "Learning and Using the Arrow of Time", CVPR 2018, after Pickup et al., "Seeing
the Arrow of Time", CVPR 2014
Differs: the network reads the frames with convolutions over space and time, where the paper has optical flow in two
segments that share a network. One convolution precedes the evidence at each place and time, not two, without norm or
dropout. Each clip is shown in both directions in one step. The camera is followed by its shifts, in whole pixels of
small frames, not by homographies; clips that freeze or have cuts are kept. The optimizer is AdamW, not SGD.
Shortcut: compression leaves traces of time in black borders, and cameras are moved in one direction more than in the
other. So borders are cut off and shifts of the camera followed, exactly alike in both directions; zooms remain. Nothing
can be learned where motion is reversible: `balls:reversible` must stay at chance.
"""

import math
from typing import Annotated, ClassVar, Unpack

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.video.data import Videos
from unlabeled.encoders.video import Clips
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import Count, Range, ViewOptions
from unlabeled.parts import gather, tracker
from unlabeled.parts.augment import Views
from unlabeled.parts.clips import clip_views
from unlabeled.parts.heads import classifier
from unlabeled.parts.pictures import overlay, strip
from unlabeled.parts.steady import steady_boxes

__all__ = ["ArrowOfTime"]


def losses(forward: Tensor, backward: Tensor) -> Tensor:
    """Cross-entropy of the direction of play, mean over both directions of each clip.

    Args:
        forward: Logits of "forward" for clips played forward, float, shape (batch,).
        backward: The same for these clips played backward.

    Returns:
        In nats, float, shape (batch,).
    """
    return (F.softplus(-forward.float()) + F.softplus(backward.float())) / 2


class ArrowOfTime(Method[Clips]):
    """Predict whether a video is played forward or backward.

    The metric `steady` is the fraction of the clips that are used: those in which the camera does not move too far.

    Args:
        encoder: Network whose features are kept; it reads several frames at once.
        frames: Frames of a clip.
        stride: Frames of the video from one frame of a clip to the next.
        borders: Cut off black borders.
        stabilize: Follow shifts of the camera.
        dim: Width of the layer before the evidence at each place and time.
        **views: How the clips are drawn, all frames of a clip alike, in both directions.
    """

    kind = "video"
    encoder_needs = EncoderNeeds("volumes", "read several frames at once, such as conv3d")
    defaults: ClassVar = {"encoder": "conv3d", "batch_size": 32, "lr": 1e-3}
    view_defaults = ViewOptions(crop=0.5, flip=0.5)
    smallest: ClassVar = {"frames": 4, "dim": 8, "image_size": 16}
    example = "balls"

    def __init__(
        self,
        encoder: Clips,
        *,
        frames: Annotated[int, Range(at_least=2)] = 12,
        stride: Count = 1,
        borders: bool = True,
        stabilize: bool = True,
        dim: Count = 64,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        self.frames, self.stride, self.borders, self.stabilize = frames, stride, borders, stabilize
        self.views = Views(encoder.image_size, **self.view_options(views))
        *_, channels = encoder.map_dims.values()
        self.join = nn.Conv3d(channels, dim, 3, padding=1)
        self.head = classifier(dim, 1, norm=False, std=1e-2)

    def chance(self, samples: int) -> float:
        return math.log(2)

    def training_view(self, data: Videos) -> Videos:
        if self.stabilize:
            check.at_least(2 * tracker.CELL, image_size=data.shape["image_size"])
        return data.clips(frames=self.frames, stride=self.stride)

    @torch.no_grad()
    def draw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Clips played forward, float in 0..1, (batch, frames, channels, size, size), and which are used, bool."""
        if (frames := batch["video"].shape[1]) != self.frames:
            raise UserError(f"clips must have frames={self.frames} frames, got {frames}")
        boxes, steady = steady_boxes(batch["video"], self.borders, self.stabilize)
        return clip_views(self.views, batch["video"], boxes), steady

    def evidence(self, clips: Tensor) -> Tensor:
        """How much speaks for "forward", float, shape (batch, times, rows, columns); its mean is the logit."""
        *_, last = self.encoder.trunk.maps(self.encoder.volumes(clips)).values()
        return self.head(rearrange(F.relu(self.join(last)), "b c t h w -> b t h w c"))[..., 0]

    def forward(self, batch: Batch) -> Tensor:
        clips, steady = self.draw(batch)
        logits = self.evidence(torch.cat([clips, clips.flip(1)])).mean((1, 2, 3))
        forward, backward = logits.chunk(2)
        right = ((forward > 0).float() + (backward < 0).float()) / 2
        used = steady.float()
        self.metrics = {"accuracy": (used * right).sum() / used.sum().clamp(min=1), "steady": used.mean()}
        return gather.mean(losses(forward, backward), steady)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        """Clips, every other one played backward, and in red where the evidence for the answer lies."""
        clips, _ = self.draw(batch)
        backward = torch.arange(len(clips), device=clips.device) % 2 == 1
        clips = torch.where(backward[:, None, None, None, None], clips.flip(1), clips)
        evidence = self.evidence(clips)
        logits = evidence.mean((1, 2, 3))
        support = (evidence.mean(1) * logits.sign()[:, None, None]).clamp(min=0)
        support = support / support.amax((1, 2), keepdim=True).clamp(min=1e-6)
        middle = clips[:, self.frames // 2].expand(-1, 3, -1, -1)
        return {
            "clip": strip(clips),
            "evidence": overlay(middle, support),
            "answer": ["forward" if logit > 0 else "backward" for logit in logits.tolist()],
            "truth": ["backward" if one else "forward" for one in backward.tolist()],
        }

"""Temporal sorting: put four shuffled frames in order, which takes knowing how things move.

Withheld: the order of the frames. Predicted: which of twelve orders they are in; orders that are the same once the clip
is played backward are one, as many actions look the same backward.

Source: Lee, Huang, Singh, Yang, "Unsupervised Representation Learning by Sorting Sequences", 2017,
https://arxiv.org/abs/1708.01246
Differs: the four frames are equally far apart, in windows drawn by the change of a coarse image, where the paper has
optical flow; where in the frame a view lies is random, not chosen by motion too. Frames are described by their last
map, not by fully connected layers. There is no dropout, and the norms are those of the encoder. The optimizer is AdamW,
not SGD.
Shortcut: pixels alone could be followed by their colours, and a moving camera by the borders of the picture. So each
frame shows one channel, drawn for it alone (grey videos have but one), and is shifted by some pixels of its own.
Nothing can be learned where nothing moves, so frames are drawn by their motion.
"""

import math
from itertools import combinations
from typing import Annotated, ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data.video.data import Videos
from unlabeled.encoders.video import Frames
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import Count, Range, ViewOptions
from unlabeled.parts import patches
from unlabeled.parts.augment import Views
from unlabeled.parts.clips import clip_length, clip_views, draw_windows, motion
from unlabeled.parts.heads import MapCode, classifier
from unlabeled.parts.orders import orders_up_to_direction, shuffle
from unlabeled.parts.pictures import strip

__all__ = ["TemporalSorting"]

FRAMES = 4
PAIRS = tuple(combinations(range(FRAMES), 2))
"""Places in the shuffled order whose frames are compared."""


def one_channel(frames: Tensor) -> Tensor:
    """Frames (batch, frames, channels, height, width) that each show a random channel in all of their channels."""
    channel = torch.randint(frames.shape[2], (*frames.shape[:2], 1, 1, 1), device=frames.device)
    return frames.gather(2, channel.expand_as(frames))


def pairs(codes: Tensor) -> Tensor:
    """Codes of two frames side by side, for each of `PAIRS`, float, shape (batch, 6, 2 * dim), of (batch, 4, dim)."""
    first, second = torch.tensor(PAIRS, device=codes.device).unbind(1)
    return torch.cat([codes[:, first], codes[:, second]], 2)


class TemporalSorting(Method[Frames]):
    """Put four shuffled frames in order, forward or backward.

    Args:
        encoder: Network whose features are kept; it reads single frames.
        stride: Frames of the video from one frame of a clip to the next.
        gap: Frames of a clip from one of the four to the next; where they span a whole video, motion has no say.
        shift: Largest shift of each frame by itself, as a fraction of its side.
        split_channels: Show each frame in one random channel only.
        dim: Width of the description of a frame, and of two frames.
        **views: How the clips are drawn, all frames of a clip alike.
    """

    kind = "video"
    encoder_needs = EncoderNeeds("frame", "read single frames, such as frames-conv4")
    defaults: ClassVar = {"encoder": "frames-conv4", "batch_size": 64, "lr": 1e-3}
    view_defaults = ViewOptions(crop=0.5, flip=0.5)
    smallest: ClassVar = {"gap": 2, "dim": 16, "image_size": 16}
    orders: Tensor

    def __init__(
        self,
        encoder: Frames,
        *,
        stride: Count = 1,
        gap: Count = 4,
        shift: Annotated[float, Range(at_least=0, at_most=0.5)] = 0.0625,
        split_channels: bool = True,
        dim: Count = 64,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        self.stride, self.gap, self.window = stride, gap, (FRAMES - 1) * gap + 1
        self.size, self.split_channels = encoder.image_size, split_channels
        self.shift = round(shift * self.size)
        self.views = Views(self.size + 2 * self.shift, **self.view_options(views))
        self.describe = MapCode(encoder.frame, dim)
        self.compare = nn.Linear(2 * dim, dim)
        self.register_buffer("orders", orders_up_to_direction(FRAMES))
        self.head = classifier(len(PAIRS) * dim, len(self.orders), norm=False, std=1e-2)

    def chance(self, samples: int) -> float:
        return math.log(len(self.orders))

    def training_view(self, data: Videos) -> Videos:
        return data.clips(clip_length(data.counts, self.window, self.stride), self.stride)

    @torch.no_grad()
    def draw(self, batch: Batch) -> Tensor:
        """Four frames of each clip in order of time, float in 0..1, shape (batch, 4, channels, size, size)."""
        video = batch["video"]
        if video.shape[1] < self.window:
            raise UserError(
                f"clips must have at least 3 * gap + 1 = {self.window} frames, got {video.shape[1]}"
            )
        places = draw_windows(motion(video), self.window) + self.gap * torch.arange(
            FRAMES, device=video.device
        )
        four = clip_views(self.views, patches.permute(video, places))
        corners = torch.randint(2 * self.shift + 1, (FRAMES * len(four), 2), device=four.device)
        shifted = patches.crop(four.flatten(0, 1), corners, self.size).unflatten(0, (-1, FRAMES))
        return one_channel(shifted) if self.split_channels else shifted

    def logits(self, shuffled: Tensor) -> Tensor:
        """Logits of the orders, float, shape (batch, 12), of shuffled frames (batch, 4, channels, size, size)."""
        *_, last = self.encoder.maps(shuffled.flatten(0, 1)).values()
        codes = F.relu(self.describe(last)).unflatten(0, (-1, FRAMES))
        return self.head(F.relu(self.compare(pairs(codes))).flatten(1)).float()

    def forward(self, batch: Batch) -> Tensor:
        shuffled, labels = shuffle(self.draw(batch), self.orders)
        logits = self.logits(shuffled)
        self.metrics = {"accuracy": (logits.argmax(1) == labels).float().mean()}
        return F.cross_entropy(logits, labels)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        clips = self.draw(batch)
        shuffled, labels = shuffle(clips, self.orders)
        answers = self.logits(shuffled).argmax(1)
        in_order = patches.permute(shuffled, self.orders[answers].argsort(1))
        strips = {"shuffled": shuffled, "put in order": in_order, "true order": clips}
        right = ["right" if same else "wrong" for same in (answers == labels).tolist()]
        return {name: strip(frames) for name, frames in strips.items()} | {"answer": right}

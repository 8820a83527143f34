"""VideoMAE: see a tenth of a clip, the same places at all times, and fill in the pixels of the rest.

Withheld: cubes of pixels in most places of the frame, at all times. Predicted: the pixels of each hidden cube, brought
to mean 0 and variance 1, from the visible cubes alone.

Source: Tong, Song, Wang, Wang, "VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video
Pre-Training", 2022, https://arxiv.org/abs/2203.12602
Differs: encoder and decoder are small by default; their positions are sines of time, row and column, not of the number
of the cube. A clip is drawn once in an epoch, not several times. Crops have random shapes, not four fixed sizes.
Shortcut: a video hardly changes from one frame to the next, so a cube that is visible at another time only has to be
copied. So a place is hidden at all times, and so many places are that those beside it say little.
"""

from typing import Annotated, ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.data.video.data import Videos
from unlabeled.encoders.video import Clips
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import Count, Range, ViewOptions
from unlabeled.parts.augment import Views
from unlabeled.parts.clips import ClipViews
from unlabeled.parts.cubes import completed, cut, normalized, pictures, replace, whole_cubes
from unlabeled.parts.precision import full
from unlabeled.parts.token_masks import both, pick, random_cells, some, tubes
from unlabeled.parts.transformer import Predictor

__all__ = ["VideoMAE"]

SAMPLES = 256
"""Clips on which the loss of predicting the mean is measured."""


class VideoMAE(ClipViews, Method[Clips]):
    """See a tenth of a clip, the same places at all times, and fill in the pixels of the rest.

    Args:
        encoder: Network whose features are kept; in training it sees only the visible cubes.
        frames: Frames of a clip. [default: as many as the encoder reads, in whole cubes]
        stride: Frames of the video from one frame of a clip to the next.
        mask: Fraction of the places that are hidden, rounded down to whole places.
        decoder_dim: Width of the decoder, a multiple of 32.
        decoder_blocks: Blocks of the decoder.
        **views: How the clips are drawn, all frames of a clip alike.
    """

    kind = "video"
    encoder_needs = EncoderNeeds("is_vit", "be a vision transformer of clips, such as vit3d-small", True)
    defaults: ClassVar = {
        "encoder": "vit3d-small",
        "batch_size": 64,
        "lr": 1e-3,
        "betas": [0.9, 0.95],
    }
    view_defaults = ViewOptions(crop=0.44, flip=0.5)
    smallest: ClassVar = {"encoder": "vit3d-tiny", "frames": 4, "decoder_dim": 32, "decoder_blocks": 1}
    baseline: Tensor

    def __init__(
        self,
        encoder: Clips,
        *,
        frames: Count | None = None,
        stride: Count = 1,
        mask: Annotated[float, Range(above=0, below=1)] = 0.9,
        decoder_dim: Count = 96,
        decoder_blocks: Count = 2,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        self.frames, self.grid = whole_cubes(encoder, frames)
        self.stride, self.depth = stride, encoder.trunk.depth
        self.views = Views(encoder.image_size, **self.view_options(views))
        places = self.grid[1] * self.grid[2]
        self.hidden = some(mask, places, "places of a frame")
        pixels = encoder.in_channels * self.depth * encoder.trunk.side**2
        self.decoder = Predictor(encoder.dim, pixels, width=decoder_dim, blocks=decoder_blocks)
        self.register_buffer("baseline", torch.tensor(0.0))

    @torch.no_grad()
    def prepare(self, data: Videos) -> None:
        targets = self.targets(self.draw(data.sample(SAMPLES)))
        self.baseline.copy_(targets.square().mean())  # 1 - 1 / pixels, less where cubes are of one colour

    def targets(self, clips: Tensor) -> Tensor:
        """What is predicted of each cube, float, shape (batch, cubes, numbers)."""
        return normalized(cut(clips, self.grid))

    def mask(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of the visible and of the hidden cubes, int64, shape (batch, visible) and (batch, hidden)."""
        times, rows, columns = self.grid
        return both(tubes(random_cells(len(clips), rows * columns, self.hidden, clips.device), times))

    def predict(self, clips: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Predictions of hidden cubes, float, shape (batch, hidden, numbers)."""
        return full(self.decoder(self.encoder.tokens(clips, visible), visible, hidden, self.grid))

    def forward(self, batch: Batch) -> Tensor:
        clips = self.draw(batch)
        visible, hidden = self.mask(clips)
        return F.mse_loss(self.predict(clips, visible, hidden), pick(self.targets(clips), hidden))

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        """The first frame of each cube. Predictions have the true mean and deviation, which are not predicted."""
        clips = self.draw(batch)
        visible, hidden = self.mask(clips)
        cubes = cut(clips, self.grid)
        whole = completed(cubes, hidden, self.predict(clips, visible, hidden))
        visible = replace(cubes, hidden, 0.5)
        return pictures(self.grid, self.depth, clip=cubes, visible=visible, completed=whole)
